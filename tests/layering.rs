//! Modules of `kvtyped/src` import only from lower layers.
//!
//! The sources are read as text. A path `crate::module::..` in code counts, but not in a comment.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::language;

/// The modules by layer, from the lowest up. Modules of one layer do not import each other.
const RANKS: &[&[&str]] = &[
    &["schema"],
    &["key", "codec", "config", "revision", "ttl", "jitter", "host", "stream"],
    &["error"],
    &["model", "backend", "shutdown"],
    &["observe"],
    &["context"],
    &["backend/state"],
    &["backend/local"],
    &["backend/memory", "backend/file", "backend/nats", "conformance", "bucket"],
    &["watch", "txn", "index"],
    &["store"],
    &["connect", "recipes"],
    &["maintenance"],
    &["integrations"],
    &["prelude", "private", "lib"],
];

/// Forbidden names for some modules, by prefix of a path in code.
const BANS: &[(&[&str], &[&str])] = &[
    (
        &["key", "codec", "config", "model", "revision", "ttl"],
        &["tokio::", "async_nats", "std::fs", "std::net", "Instant::", "SystemTime::now", "spawn("],
    ),
    // An integration could be a separate crate: it names the public API only.
    (
        &["integrations"],
        &[
            "crate::b",
            "crate::c",
            "crate::r",
            "crate::s",
            "crate::w",
            "kvtyped::backend",
            "kvtyped::__private",
            "spawn(",
        ],
    ),
    (&["backend/state"], &["tokio::time", "tokio::task", "Instant::", "SystemTime::now", "spawn("]),
    (
        &[
            "error",
            "backend",
            "backend/state",
            "backend/local",
            "backend/memory",
            "bucket",
            "watch",
            "recipes",
            "maintenance",
            "conformance",
            "prelude",
            "private",
            "lib",
        ],
        &["async_nats::", "std::fs", "std::net"],
    ),
];

/// The folders of `backend/` that are modules of their own.
const BACKENDS: &[&str] = &["state", "local", "memory", "file", "nats"];

struct Source {
    path: PathBuf,
    module: String,
    code: String,
}

/// Returns the directory of the library sources.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kvtyped/src")
}

/// Returns all source files of the library.
pub(crate) fn files() -> Vec<PathBuf> {
    let is_rust = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    language::files(&root()).into_iter().filter(is_rust).collect()
}

fn sources() -> Vec<Source> {
    let root = root();
    files()
        .into_iter()
        .map(|path| {
            let relative = path.strip_prefix(&root).expect("it is below the root").with_extension("");
            let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            let module = match parts.as_slice() {
                [backend, module, ..] if backend == "backend" && BACKENDS.contains(&module.as_str()) => {
                    format!("backend/{module}")
                }
                [module, ..] => module.clone(),
                [] => unreachable!("a file has a name"),
            };
            Source { code: code(&fs::read_to_string(&path).expect("it is text")), path, module }
        })
        .collect()
}

/// Removes comments, and the unit tests at the end of a file, which may import anything.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn rank(module: &str) -> usize {
    let rank = RANKS.iter().position(|rank| rank.contains(&module));
    rank.unwrap_or_else(|| panic!("module `{module}` is not in `FLOORS`: add it in {}", file!()))
}

/// Returns the modules that a source imports.
fn imports(source: &Source) -> Vec<String> {
    let mut modules = Vec::new();
    for (at, _) in source.code.match_indices("crate::") {
        if source.code[..at].ends_with(['$', '_']) {
            continue;
        }
        let path = &source.code[at + "crate::".len()..];
        let name =
            |path: &str| path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned();
        let mut module = name(path);
        assert!(
            module.starts_with(|c: char| c.is_ascii_lowercase()),
            "{}: import from the module, not from the crate root: `crate::{}`",
            source.path.display(),
            path.lines().next().unwrap_or_default()
        );
        if module == "backend" {
            let leaf = name(path.trim_start_matches("backend::"));
            if BACKENDS.contains(&leaf.as_str()) {
                module = format!("backend/{leaf}");
            }
        }
        modules.push(module);
    }
    modules
}

#[test]
fn modules_import_only_lower_layers() {
    let mut wrong = Vec::new();
    for source in sources() {
        for import in imports(&source) {
            let below = rank(&import) < rank(&source.module);
            let same = import == source.module;
            if !below && !same {
                wrong.push(format!("{}: `{}` imports `{import}`", source.path.display(), source.module));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_store_names_leaf_backends() {
    for source in sources() {
        for import in imports(&source) {
            let leaf = import.starts_with("backend/");
            // The embedded backends share the state machine and the traits over it.
            let shared = ["backend/state", "backend/local"].contains(&&*import);
            let embedded = ["backend/local", "backend/memory", "backend/file"].contains(&&*source.module);
            let allowed = match shared {
                true => import == source.module || embedded,
                false => import == source.module || ["store", "connect", "lib"].contains(&&*source.module),
            };
            assert!(!leaf || allowed, "{} names `{import}`", source.path.display());
        }
    }
}

#[test]
fn modules_avoid_banned_identifiers() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (modules, bans) in BANS {
            if !modules.contains(&&*source.module) {
                continue;
            }
            for ban in bans.iter().filter(|ban| source.code.contains(**ban)) {
                wrong.push(format!("{}: `{ban}`", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Names of private functions that other crates and the integrations use too.
const SHARED_NAMES: &[&str] = &["call", "log", "now", "replace", "store", "take"];

/// An integration could be a separate crate. Private items of the crate would compile here, but not there.
#[test]
fn integrations_use_public_api_only() {
    let name = Regex::new(r"(?m)^\s*(pub(?:\(\w+\))?) (?:const |async )*fn (\w+)").expect("a regular expression");
    let call = Regex::new(r"(?:\.|::)(\w+)\(").expect("a regular expression");
    let sources = sources();
    let (integrations, others): (Vec<_>, Vec<_>) = sources.iter().partition(|source| source.module == "integrations");
    let declared = |visibility: &str| {
        let functions = others.iter().flat_map(|source| name.captures_iter(&source.code));
        let functions = functions.filter(|function| &function[1] == visibility);
        functions.map(|function| function[2].to_owned()).collect::<BTreeSet<_>>()
    };
    let mut private: BTreeSet<_> = &declared("pub(crate)") - &declared("pub");
    private.retain(|name| !SHARED_NAMES.contains(&name.as_str()));
    let mut calls = 0;
    for source in integrations {
        let inner = imports(source).into_iter().find(|module| module != "integrations");
        assert_eq!(inner, None, "{}: use paths that begin with `kvtyped::`", source.path.display());
        for called in call.captures_iter(&source.code) {
            calls += 1;
            assert!(!private.contains(&called[1]), "{} calls the private `{}`", source.path.display(), &called[1]);
        }
    }
    assert!(private.contains("with_context") && calls > 100, "{calls} calls, {} private functions", private.len());
}

#[test]
fn compare_and_set_loop_exists_once() {
    let mut conditional: Vec<_> = sources()
        .into_iter()
        .filter(|source| source.module == "bucket" && source.code.contains(".if_revision("))
        .map(|source| {
            let name = source.path.file_name().expect("a file has a name").to_string_lossy();
            let is_of_index = source.path.parent().is_some_and(|folder| folder.ends_with("index"));
            if is_of_index { format!("index/{name}") } else { name.into_owned() }
        })
        .collect();
    conditional.sort();
    // `write.rs` sends one write with a precondition and never retries; the loop is in `cas.rs`. The files of `index/`
    // send the writes of one attempt, and `cas.rs` repeats the attempt.
    assert_eq!(conditional, ["cas.rs", "index/batch.rs", "index/store.rs", "index/write.rs", "write.rs"]);
    // Waiting for a stale server is not contention.
    let contends = |code: &str| code.contains("Backoff::contention");
    let loops = sources().into_iter().filter(|source| source.module == "bucket" && contends(&source.code));
    let loops = loops.map(|source| source.path.file_name().expect("a file has a name").to_owned());
    // `repair.rs` builds an index, and writes no record.
    assert_eq!(loops.collect::<BTreeSet<_>>(), ["repair.rs".into(), "retry.rs".into()].into());
}
