//! The files of `kvtyped/src` import each other without circles.
//!
//! An import counts as an import of the file that defines the item. `mod` lists and re-exports do not count.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::layering;

/// A path as segments, from the crate root.
type ModulePath = Vec<String>;

/// The paths that a file names, and the names that it re-exports.
#[derive(Default)]
struct File {
    paths: Vec<ModulePath>,
    exports: HashMap<String, ModulePath>,
}

struct Reader<'a> {
    module: &'a [String],
    /// Whether re-exports of this file are part of a `mod.rs` or of `lib.rs`.
    is_module_root: bool,
    file: File,
}

impl Reader<'_> {
    /// Resolves a path of this file to a path from the crate root. Returns `None` for a path of another crate.
    fn resolve(&self, segments: &[String]) -> Option<ModulePath> {
        let mut module = self.module.to_vec();
        let mut rest = segments;
        match rest.first()?.as_str() {
            "crate" => module.clear(),
            "self" => {}
            "super" => {
                while let [first, after @ ..] = rest
                    && first == "super"
                {
                    module.pop();
                    rest = after;
                }
                module.extend_from_slice(rest);
                return Some(module);
            }
            _ => return None,
        }
        module.extend_from_slice(&rest[1..]);
        Some(module)
    }

    /// Reads one `use` tree: `a::{b, c as d, e::*}`.
    fn read_use(&mut self, tokens: &[TokenTree], prefix: &[String], is_export: bool) {
        let mut path = prefix.to_vec();
        let mut alias = None;
        let mut tokens = tokens.iter().peekable();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Ident(ident) if ident == "as" => alias = tokens.next().map(ToString::to_string),
                TokenTree::Ident(ident) => path.push(ident.to_string()),
                TokenTree::Group(group) => {
                    let inner: Vec<_> = group.stream().into_iter().collect();
                    let is_comma =
                        |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',');
                    for tree in inner.split(is_comma).filter(|tree| !tree.is_empty()) {
                        self.read_use(tree, &path, is_export);
                    }
                    return;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
        if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
            path.pop();
        }
        let Some(resolved) = self.resolve(&path) else { return };
        if is_export {
            let name = alias.or_else(|| path.last().cloned()).unwrap_or_default();
            self.file.exports.insert(name, resolved.clone());
        }
        if !is_export || !self.is_module_root {
            self.file.paths.push(resolved);
        }
    }

    fn read(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            let text = |at: usize| tokens.get(at).map(ToString::to_string).unwrap_or_default();
            match &tokens[at] {
                // Unit tests may import anything.
                TokenTree::Punct(punct) if punct.as_char() == '#' && text(at + 1).replace(' ', "") == "[cfg(test)]" => {
                    at += 2;
                    while at < tokens.len() && text(at) != ";" && !is_braces(&tokens[at]) {
                        at += 1;
                    }
                }
                TokenTree::Ident(ident) if ident == "use" => {
                    // `impl Trait + use<T>` is no import.
                    let end = (at..tokens.len()).find(|end| text(*end) == ";");
                    if let Some(end) = end.filter(|_| text(at + 1) != "<") {
                        let is_export = at.checked_sub(1).is_some_and(|before| {
                            text(before) == "pub"
                                || text(before).starts_with('(') && before > 0 && text(before - 1) == "pub"
                        });
                        self.read_use(&tokens[at + 1..end], &[], is_export);
                        at = end;
                    }
                }
                TokenTree::Ident(ident) if ["crate", "super", "self"].contains(&&*ident.to_string()) => {
                    let mut path = vec![ident.to_string()];
                    while text(at + 1) == ":"
                        && text(at + 2) == ":"
                        && matches!(tokens.get(at + 3), Some(TokenTree::Ident(_)))
                    {
                        path.push(text(at + 3));
                        at += 3;
                    }
                    if path.len() > 1 {
                        self.file.paths.extend(self.resolve(&path));
                    }
                }
                TokenTree::Group(group) => self.read(group.stream()),
                _ => {}
            }
            at += 1;
        }
    }
}

fn is_braces(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
}

/// Returns the module path of a source file.
fn module_of(relative: &Path) -> ModulePath {
    let mut parts: ModulePath =
        relative.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") || parts == ["lib"] {
        parts.pop();
    }
    parts
}

/// Returns the module that defines the item of a path.
fn definition(files: &BTreeMap<ModulePath, File>, path: &[String], depth: u32) -> Option<ModulePath> {
    let length = (0..=path.len()).rev().find(|length| files.contains_key(&path[..*length]))?;
    let module = &path[..length];
    match path.get(length).and_then(|name| files[module].exports.get(name)) {
        Some(target) if depth < 8 => definition(files, &[target, &path[length + 1..]].concat(), depth + 1),
        _ => Some(module.to_vec()),
    }
}

/// Returns every file that can reach itself over imports, with the imports that are part of a circle.
fn circles(imports: &BTreeMap<ModulePath, BTreeSet<ModulePath>>) -> Vec<String> {
    let reach = |from: &ModulePath| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<_> = imports[from].iter().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module) {
                next.extend(&imports[module]);
            }
        }
        seen
    };
    let reached: BTreeMap<_, _> = imports.keys().map(|module| (module, reach(module))).collect();
    let on_a_circle = |from: &ModulePath, to: &ModulePath| reached[to].contains(from);
    let mut found = Vec::new();
    for (from, targets) in imports {
        let back: Vec<_> = targets.iter().filter(|to| on_a_circle(from, to)).map(|to| to.join("/")).collect();
        if !back.is_empty() {
            found.push(format!("{} imports {}", from.join("/"), back.join(", ")));
        }
    }
    found
}

fn imports() -> BTreeMap<ModulePath, BTreeSet<ModulePath>> {
    let root = layering::root();
    let mut files = BTreeMap::new();
    for path in layering::files() {
        let relative = path.strip_prefix(&root).expect("it is below the root");
        let module = module_of(relative);
        let name = relative.file_name().expect("a file has a name");
        let mut reader =
            Reader { module: &module, is_module_root: name == "mod.rs" || name == "lib.rs", file: File::default() };
        let text = fs::read_to_string(&path).expect("it is text");
        reader.read(text.parse().expect("it is Rust"));
        let file = reader.file;
        files.insert(module, file);
    }
    let targets = |module: &ModulePath, file: &File| {
        let found = file.paths.iter().filter_map(|path| definition(&files, path, 0));
        found.filter(|target| target != module).collect()
    };
    files.iter().map(|(module, file)| (module.clone(), targets(module, file))).collect()
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let imports = imports();
    assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 500, "the imports are read");
    let found = circles(&imports);
    assert!(found.is_empty(), "{} files are part of a circle:\n{}", found.len(), found.join("\n"));
}

#[test]
fn circle_is_found() {
    let module = |name: &str| vec![name.to_owned()];
    let imports: BTreeMap<_, _> = [("a", vec!["b"]), ("b", vec!["c"]), ("c", vec!["a", "d"]), ("d", vec![])]
        .into_iter()
        .map(|(from, to)| (module(from), to.into_iter().map(module).collect::<BTreeSet<_>>()))
        .collect();
    assert_eq!(circles(&imports), ["a imports b", "b imports c", "c imports a"]);
}

#[test]
fn import_counts_for_defining_file() {
    let imports = imports();
    let module = |path: &str| path.split('/').map(str::to_owned).collect::<ModulePath>();
    // `crate::bucket::Bucket` is a re-export of `bucket/mod.rs`.
    assert!(imports[&module("txn/transaction")].contains(&module("bucket/handle")));
}
