//! Stability guarantees of the public API, item by item. The sources are read as text.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use kvtyped::bucket::{Entries, KeyStream};
use kvtyped::prelude::*;
use kvtyped::recipes::{
    Counters, Election, Group, GroupEvents, GroupView, Ids, Leaders, Leadership, Lease, Locks, Member, Once, Permit,
    RateLimiter, Semaphore,
};
use kvtyped::txn::{Transaction, Tx};
use kvtyped::watch::{CacheChanges, CacheIndex, Events};
use kvtyped::{Error, ReadBucket};

use crate::layering::{files, root};

/// Enums that will get no new variant, so that a `match` needs no `_`, and the reason.
const CLOSED: &[(&str, &str)] = &[
    ("KeySpace", "a backend stores both"),
    // Types without values.
    ("Bytes", "a codec"),
    ("DescribedJson", "a codec"),
    ("Json", "a codec"),
    ("MsgPack", "a codec"),
    ("Text", "a codec"),
    // Choices of a user or a closure: a new choice becomes a new method.
    ("Change", "what `transform` makes of a record"),
    ("Drift", "what to do about a bucket that differs"),
    ("Read", "how fresh a read must be"),
    ("Storage", "where a server keeps a bucket"),
    // Two sources of errors: the closure, and the library, whose error kind is open.
    ("ModifyError", "the closure's or the bucket's"),
    ("OnceError", "the work's or the bucket's"),
    ("TransactError", "the closure's or the bucket's"),
    ("Outcome", "not applied or unknown: a caller must handle both"),
    // The backend interface: a backend or wrapper that does not handle a variant must not compile.
    ("ReadAt", "the backend interface"),
    ("Operation", "the backend interface"),
    ("WatchSignal", "the backend interface"),
    ("StartFrom", "the backend interface"),
    ("WriteKind", "the backend interface"),
    ("Token", "an element of a pattern, as in a subject filter"),
];

/// The names of the crate root, apart from modules and the crate `async_nats`.
const ROOT: &[&str] = &[
    "Bucket",
    "Cache",
    "Change",
    "Drift",
    "Entry",
    "Error",
    "ErrorKind",
    "Event",
    "Filter",
    "Key",
    "KeySegment",
    "KvModel",
    "KvVersion",
    "Live",
    "ModifyError",
    "Outcome",
    "RawRecord",
    "Read",
    "ReadBucket",
    "Removed",
    "Result",
    "Revision",
    "SingleRevision",
    "Storage",
    "Store",
    "Ttl",
    "UnknownFields",
    "Version",
    "golden",
];

/// The names of the prelude, apart from anonymous traits. No name is common in other crates.
const PRELUDE: &[&str] = &[
    "Bucket",
    "Cache",
    "Change",
    "Deserialize",
    "Drift",
    "Duration",
    "Entry",
    "Fence",
    "KeySegment",
    "KvModel",
    "Live",
    "LockGuard",
    "ModifyError",
    "MsgPack",
    "Outcome",
    "ReadBucket",
    "Removed",
    "Revision",
    "Serialize",
    "Store",
];

/// A public item with its documentation and attributes.
struct Item {
    place: String,
    line: String,
    docs: String,
    attributes: String,
}

/// Returns all public items of the crate, except hidden ones and those for tests.
fn items() -> Vec<Item> {
    let root = root();
    let is_shown = |path: &PathBuf| !path.ends_with("private.rs") && !path.starts_with(root.join("conformance"));
    let mut items = Vec::new();
    for path in files().into_iter().filter(is_shown) {
        let text = fs::read_to_string(&path).expect("it is text");
        let (mut docs, mut attributes) = (String::new(), String::new());
        for (number, line) in text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().lines().enumerate() {
            let line = line.trim();
            if let Some(doc) = line.strip_prefix("///") {
                docs += doc.trim();
                docs.push('\n');
            } else if line.starts_with("#[") {
                attributes += line;
            } else if !line.is_empty() {
                if line.starts_with("pub ") {
                    let place =
                        format!("{}:{}", path.strip_prefix(&root).expect("below the root").display(), number + 1);
                    items.push(Item {
                        place,
                        line: line.to_owned(),
                        docs: docs.clone(),
                        attributes: attributes.clone(),
                    });
                }
                (docs, attributes) = (String::new(), String::new());
            }
        }
    }
    assert!(items.len() > 500, "only {} items were found", items.len());
    items
}

fn name_behind<'a>(line: &'a str, keyword: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(keyword)?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// Returns the names that the `pub use` items of a file export.
fn exports(file: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(file)).expect("it is text");
    let items = text.split("\npub use ").skip(1).filter_map(|rest| rest.split_once(';')).map(|(item, _)| item);
    let leaves = items.flat_map(|item| match item.split_once('{') {
        Some((_, names)) => names.trim_end_matches('}').split(',').map(str::trim).collect::<Vec<_>>(),
        None => vec![item],
    });
    let names =
        leaves.filter_map(|leaf| leaf.rsplit([':', ' ']).next()).filter(|name| !name.is_empty() && *name != "_");
    names.map(str::to_owned).collect()
}

#[test]
fn crate_root_and_prelude_names_are_exact() {
    let listed = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let mut root = exports("lib.rs");
    assert!(root.remove("async_nats"), "the crate is exported with the feature `nats`");
    assert_eq!((root, ROOT.len()), (listed(ROOT), 29));
    assert_eq!((exports("prelude.rs"), PRELUDE.len()), (listed(PRELUDE), 20));
}

#[test]
fn public_enums_are_non_exhaustive_or_listed() {
    let mut closed = Vec::new();
    for item in items() {
        let Some(name) = name_behind(&item.line, "pub enum ") else { continue };
        let listed = CLOSED.iter().any(|(closed, _)| *closed == name);
        assert_ne!(item.attributes.contains("non_exhaustive"), listed, "{}: `{name}`: open or closed?", item.place);
        if listed {
            closed.push(name.to_owned());
        }
    }
    for (name, _) in CLOSED {
        assert!(closed.iter().any(|closed| closed == name), "`{name}` no longer exists");
    }
}

#[test]
fn public_async_fns_document_cancel_safety() {
    let silent: Vec<_> = items()
        .into_iter()
        .filter(|item| item.line.starts_with("pub async fn ") && !item.docs.contains("# Cancel safety"))
        .map(|item| format!("{}: {}", item.place, item.line))
        .collect();
    assert!(silent.is_empty(), "without `# Cancel safety`:\n{}", silent.join("\n"));
}

#[test]
fn verbs_document_errors_and_cancel_safety() {
    // A builder is documented at the function that creates it. Opening a bucket or a recipe holds nothing. The second
    // method of a verb (`(self)`) is documented with the first.
    let items = items();
    let builders: Vec<_> = items
        .iter()
        .filter(|item| item.attributes.contains("must_use = ") && item.attributes.contains("until it is awaited"))
        .filter_map(|item| name_behind(&item.line, "pub struct "))
        .filter(|name| !name.starts_with("Open") && *name != "Connect")
        .collect();
    assert!(builders.len() > 20, "only {} builders were found", builders.len());
    let mut silent = Vec::new();
    for item in items.iter().filter(|item| item.line.starts_with("pub fn ") && item.line.contains("(&")) {
        let Some((_, returned)) = item.line.split_once("-> ") else { continue };
        let is_builder = builders.iter().any(|builder| name_behind(returned, "") == Some(builder));
        if is_builder && !(item.docs.contains("# Cancel safety") && item.docs.contains("# Errors")) {
            silent.push(format!("{}: {}", item.place, item.line));
        }
    }
    assert!(silent.is_empty(), "without `# Errors` and `# Cancel safety`:\n{}", silent.join("\n"));
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "{id}")]
struct Thing {
    id: u64,
}

/// Checked at compile time.
#[test]
fn handles_are_sync_and_streams_are_send() {
    fn shared<T: Send + Sync + Clone + 'static>() {}
    fn kept<T: Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}

    shared::<Store>();
    shared::<Bucket<Thing>>();
    shared::<ReadBucket<Thing>>();
    shared::<Entry<Thing>>();
    shared::<Cache<Thing>>();
    shared::<Live<Thing>>();
    shared::<Locks>();
    shared::<Once<u64>>();
    shared::<Semaphore>();
    shared::<Counters>();
    shared::<Ids>();
    shared::<RateLimiter>();
    kept::<Tx<Thing>>();

    kept::<Error>();
    kept::<Lease>();
    kept::<LockGuard>();
    kept::<Leadership<Thing>>();
    kept::<Permit>();
    kept::<Member<Thing>>();
    kept::<Election<Thing>>();
    kept::<Group<Thing>>();
    sent::<GroupView<Thing>>();
    kept::<CacheIndex<u64, Thing>>();
    kept::<Transaction<'static, Thing>>();

    sent::<Events<Thing>>();
    sent::<Entries<Thing>>();
    sent::<KeyStream<Thing>>();
    sent::<CacheChanges<Thing>>();
    sent::<GroupEvents<Thing>>();
    sent::<Leaders<Thing>>();
}
