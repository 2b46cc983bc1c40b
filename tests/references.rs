//! The names of tests and of files in the documentation exist.
//!
//! A word in backquotes such as `promises::leases` is a filter of the suite, as cargo takes it: a part of the full name of
//! a test. So is a word after `--test suite`. A word after `--lib` is a filter of the library's unit tests.

use std::fs;
use std::path::Path;

use regex::Regex;

use crate::language;

/// Modules that macros create. The functions in them are found in the module around them.
const GENERATED: &[&str] =
    &["on_memory", "on_nats", "on_one_server", "on_three_servers", "one_server", "three_servers"];

/// Crates whose paths are no names of tests.
const CRATES: &[&str] = &["kvtyped", "core", "std"];

/// Folders that a path in the documentation may be relative to.
const BASES: &[&str] =
    &["", "tests", "tests/faults", "kvtyped/src", "kvtyped/src/backend/nats", "kvtyped/src/recipes", "kvtyped/cli/src"];

struct Repository {
    suite: Vec<String>,
    library: Vec<String>,
    test_path: Regex,
    file_path: Regex,
}

impl Repository {
    fn new() -> Self {
        let regex = |pattern| Regex::new(pattern).expect("a regular expression");
        let root = language::root();
        let declared = fs::read_to_string(root.join("tests/suite.rs")).expect("the file is readable");
        let is_declared =
            |name: &String| declared.contains(&format!("\nmod {};", name.split("::").next().unwrap_or_default()));
        let mut suite = functions(&root.join("tests"));
        suite.retain(is_declared);
        let library = functions(&root.join("kvtyped/src"));
        // The macro `conformance_tests!` turns the rules of the library into tests.
        let rules = library.iter().filter(|name| name.starts_with("conformance::"));
        suite.extend(rules.filter_map(|name| name.rsplit_once("::")).map(|(_, rule)| format!("conformance::{rule}")));
        let (test_path, file_path) =
            (regex(r"^[a-z_]\w*(::[a-z_]\w*)*::(\w+)?$"), regex(r"^[a-z.][\w.-]*(/[\w.*-]+)*/?$"));
        Self { suite, library, test_path, file_path }
    }

    /// Returns the words of a quoted text that name nothing.
    fn stale<'a>(&self, quoted: &'a str) -> Vec<&'a str> {
        let words: Vec<_> = quoted.split_whitespace().collect();
        let after = |option: &[&str]| words.windows(option.len()).position(|found| found == option);
        let (suite, library) = (after(&["--test", "suite"]), after(&["--lib"]));
        let is_stale = |(at, word): (usize, &&str)| {
            if word.starts_with("--") || word.chars().all(|c| c.is_ascii_uppercase()) {
                false
            } else if suite.is_some_and(|suite| at > suite + 1) {
                !selects(&self.suite, word)
            } else if library.is_some_and(|library| at > library) {
                !selects(&self.library, word)
            } else if self.test_path.is_match(word) {
                !word.split("::").next().is_some_and(|first| CRATES.contains(&first)) && !selects(&self.suite, word)
            } else {
                self.is_file_path(word) && !BASES.iter().any(|base| exists(base, word))
            }
        };
        words.iter().enumerate().filter(|word| is_stale(*word)).map(|(_, word)| *word).collect()
    }

    fn is_file_path(&self, word: &str) -> bool {
        let is_path = word.contains('/') || [".rs", ".md", ".toml"].iter().any(|end| word.ends_with(end));
        is_path && self.file_path.is_match(word) && !word.starts_with("target/")
    }
}

/// Returns the functions of all files below a folder, with the modules of their files: `module::function`.
fn functions(folder: &Path) -> Vec<String> {
    let function = Regex::new(r"\bfn (\w+)").expect("a regular expression");
    let mut names = Vec::new();
    for path in language::files(folder).into_iter().filter(|path| path.extension().is_some_and(|end| end == "rs")) {
        let module = path.strip_prefix(folder).expect("it is below the folder").with_extension("");
        let module: Vec<_> = module.iter().map(|part| part.to_string_lossy()).filter(|part| part != "mod").collect();
        let text = fs::read_to_string(&path).expect("the file is readable");
        let found = function.captures_iter(&text).map(|function| format!("{}::{}", module.join("::"), &function[1]));
        names.extend(found);
    }
    names
}

fn selects(names: &[String], filter: &str) -> bool {
    let parts: Vec<_> = filter.split("::").filter(|part| !GENERATED.contains(part)).collect();
    let filter = parts.join("::");
    names.iter().any(|name| name.contains(&filter))
}

/// Whether a path exists. The extension `.rs` may be missing, and `*` matches any files of a folder.
fn exists(base: &str, path: &str) -> bool {
    let path = path.split('*').next().unwrap_or_default();
    let path = language::root().join(base).join(path);
    path.exists() || path.with_extension("rs").exists()
}

#[test]
fn documented_names_exist() {
    let repository = Repository::new();
    let root = language::root();
    let mut files = language::files(&root);
    files.retain(|path| path.extension().is_some_and(|end| end == "md"));
    let mutants = fs::read_dir(root.join(".ci/mutants.d")).expect("the folder exists");
    files.extend(mutants.map(|entry| entry.expect("the entry is readable").path()));
    let quoted = |pattern| Regex::new(pattern).expect("a regular expression");
    let (quoted_in_markdown, quoted_in_toml) = (quoted("`([^`]+)`"), quoted("[`\"]([^`\"]+)[`\"]"));
    let (mut count, mut stale) = (0, Vec::new());
    for path in files {
        let (text, mut is_code) = (fs::read_to_string(&path).expect("the file is readable"), false);
        let is_markdown = path.extension().is_some_and(|end| end == "md");
        let quoted = if is_markdown { &quoted_in_markdown } else { &quoted_in_toml };
        for (number, line) in (1..).zip(text.lines()) {
            is_code ^= line.trim_start().starts_with("```");
            for words in quoted.captures_iter(line).filter(|_| !is_code).filter_map(|words| words.get(1)) {
                count += 1;
                let words = repository.stale(words.as_str());
                stale.extend(words.iter().map(|word| format!("{}:{number}: {word}", path.display())));
            }
        }
    }
    assert!(count > 500, "{count} quoted texts were found");
    assert!(stale.is_empty(), "these names do not exist:\n{}", stale.join("\n"));
}

#[test]
fn stale_names_are_found() {
    let repository = Repository::new();
    for quoted in [
        "promises::no_such_module",
        "no_such_module::",
        "locks::no_such_test",
        "cargo test -p kvtyped-tests --test suite -- no_such_test",
        "cargo test -p kvtyped --lib no_such_test",
        "tests/no_such_file.rs",
        "no_such_folder/",
    ] {
        assert_eq!(repository.stale(quoted).len(), 1, "{quoted}");
    }
    for quoted in [
        "references::on_memory::stale_names",
        "references::",
        "cargo test -p kvtyped-tests --test suite stale_names_are",
        "cargo test -p kvtyped --lib inbox_prefix",
        "tests/references.rs",
        "kvtyped/src/codec/*.rs",
        "target/no_such_file.rs",
        "kvtyped::Store",
    ] {
        assert_eq!(repository.stale(quoted), Vec::<&str>::new(), "{quoted}");
    }
}
