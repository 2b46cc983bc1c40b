//! The operations of all async verbs. A new verb needs a row here and a call in [`verbs`](super::verbs).

use std::collections::BTreeSet;
use std::fs;

use regex::Regex;

use crate::layering::{files, root};

/// The builders of operations, and the names of their operations.
pub(super) const BUILDERS: &[(&str, &str)] = &[
    ("Acquire", "acquire"),
    ("BuildIndex", "build_index"),
    ("Campaign", "campaign"),
    ("CheckSchema", "check_schema"),
    ("Compact", "compact"),
    ("Connect", "connect"),
    ("CopyBucket", "copy_bucket"),
    ("Count", "count"),
    ("CountBy", "count_by"),
    ("CountVersions", "schema_versions"),
    ("Create", "create"),
    ("CreateRawBucket", "open"),
    ("Delete", "delete"),
    ("DeleteMany", "delete_many"),
    ("DropIndex", "drop_index"),
    ("DryRun", "migrate_dry_run"),
    ("Get", "get"),
    ("GetBy", "get_by"),
    ("GetMany", "get_many"),
    ("GetManyResults", "get_many"),
    ("History", "history"),
    ("Join", "join"),
    ("Keys", "keys"),
    ("List", "list"),
    ("ListBy", "list_by"),
    ("Lock", "lock"),
    ("Migrate", "migrate"),
    ("Modify", "modify"),
    ("OnceRun", "run"),
    ("OnceRunStatus", "run"),
    ("OpenBucket", "open"),
    ("OpenCache", "cache"),
    ("OpenDerived", "live"),
    ("OpenFile", "connect"),
    ("OpenLive", "live"),
    ("OpenRawBucket", "open"),
    ("OpenReadBucket", "open"),
    ("Purge", "purge"),
    ("Put", "put"),
    ("PutMany", "put_many"),
    ("Resolve", "resolve"),
    ("Rewrite", "rewrite"),
    ("SwitchVersion", "switch_version"),
    ("Touch", "touch"),
    ("Transact", "transact"),
    ("Transform", "transform"),
    ("TryAcquire", "try_acquire"),
    ("TryLock", "try_lock"),
    ("TryModify", "try_modify"),
    ("UntilReady", "until_ready"),
    ("Update", "update"),
    ("VerifyIndexes", "verify_indexes"),
    ("WaitFor", "wait_for"),
    ("Watch", "watch"),
    ("WriteManyResults", "write_many"),
];

/// The handles of recipes, which open their bucket when they are awaited.
pub(super) const HANDLES: &[&str] =
    &["Counters", "Election", "Group", "Ids", "Locks", "Once", "RateLimiter", "Semaphore"];

/// The async methods, and the names of their operations.
pub(super) const METHODS: &[(&str, &str)] = &[
    ("Bucket::destroy", "destroy"),
    ("Bucket::lock_holder", "lock_holder"),
    ("Counters::add", "add"),
    ("Counters::all", "all"),
    ("Counters::get", "get"),
    ("Counters::is_server_side", "is_server_side"),
    ("Counters::remove", "remove"),
    ("Election::all", "all"),
    ("Election::depose", "depose"),
    ("Election::leader", "leader"),
    ("Election::observe", "observe"),
    ("Group::get", "get"),
    ("Group::members", "members"),
    ("Group::view", "view"),
    ("Group::watch", "watch"),
    ("Ids::next", "next"),
    ("Ids::peek", "peek"),
    ("Leadership::proclaim", "proclaim"),
    ("Leadership::release", "release"),
    ("Leadership::resign", "resign"),
    ("Lease::ensure_remaining", "ensure_remaining"),
    ("LockGuard::release", "release"),
    ("Locks::all", "all"),
    ("Locks::break_lock", "break_lock"),
    ("Locks::holder", "holder"),
    ("Locks::waiters", "waiters"),
    ("Locks::watch", "watch"),
    ("Member::leave", "leave"),
    ("Member::update", "update"),
    ("Once::all", "all"),
    ("Once::forget", "forget"),
    ("Once::get", "get"),
    ("Permit::release", "release"),
    ("RateLimiter::check", "check"),
    ("RateLimiter::check_n", "check"),
    ("RateLimiter::peek", "peek"),
    ("RateLimiter::reset", "reset"),
    ("ReadBucket::card", "card"),
    ("ReadBucket::health", "health"),
    ("ReadBucket::status", "status"),
    ("Semaphore::available", "available"),
    ("Semaphore::holders", "holders"),
    ("Store::account", "account"),
    ("Store::backup", "backup"),
    ("Store::buckets", "buckets"),
    ("Store::close", "close"),
    ("Store::delete_bucket", "delete_bucket"),
    ("Store::health", "health"),
    ("Store::info", "info"),
    ("Store::ping", "ping"),
    ("Store::recipes", "recipes"),
    ("Store::shutdown", "shutdown"),
    ("Transaction::commit", "transaction"),
];

/// The async verbs that are not operations, and the reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("Backoff::pause", "a pause, without I/O"),
    ("Cache::wait_for_revision", "waits for the local copy"),
    ("Deadline::timeout", "bounds a future of the caller"),
    ("GroupView::changed", "waits for the local copy"),
    ("GroupView::wait_for", "waits for the local copy"),
    ("Lease::lost", "waits for the local state of the lease"),
    ("Lease::release", "callers own a guard, whose methods are observed, and no lease"),
    ("Lease::run", "runs work of the caller"),
    ("Live::changed", "waits for the local value"),
    ("NatsBackend::connect", "below the store, which has the observer"),
    ("NatsBackend::connect_with", "below the store, which has the observer"),
    ("OpenFile::backend", "hidden, for tests of the backend interface"),
    ("Precondition::write", "an integration: its writes are observed"),
    ("RunForever", "a loop: its campaigns and resignations are observed"),
    ("RunUntil", "a loop: its campaigns and resignations are observed"),
    ("Tx::create", "a part of `transact`"),
    ("Tx::get", "a part of `transact`"),
    ("Tx::get_by", "a part of `transact`"),
];

/// Returns the name of the operation of a verb.
pub(super) fn operation_of(verb: &str) -> &'static str {
    if HANDLES.contains(&verb) {
        return "open";
    }
    let row = BUILDERS.iter().chain(METHODS).find(|(name, _)| *name == verb);
    row.unwrap_or_else(|| panic!("`{verb}` is not in a table")).1
}

/// Returns all verbs that must be called.
pub(super) fn all() -> BTreeSet<&'static str> {
    BUILDERS.iter().chain(METHODS).map(|(name, _)| *name).chain(HANDLES.iter().copied()).collect()
}

/// The names of builders with an `IntoFuture`, read from the sources.
fn public_builders() -> BTreeSet<String> {
    let verb =
        Regex::new(r#"(?m)^\s*(?:verb!\((\w+)\(|many!\((.*)\);|impl.* IntoFuture for (\w+)|awaitable_handle!\((\w+))"#);
    let (verb, name) = (verb.unwrap(), Regex::new(r#"(\w+)\(""#).unwrap());
    let mut builders = BTreeSet::new();
    for path in files() {
        let text = fs::read_to_string(path).expect("it is text");
        for found in verb.captures_iter(&text) {
            if let Some(single) = found.get(1).or(found.get(3)).or(found.get(4)) {
                builders.insert(single.as_str().to_owned());
            }
            if let Some(many) = found.get(2) {
                builders.extend(name.captures_iter(many.as_str()).map(|name| name[1].to_owned()));
            }
        }
    }
    builders
}

/// Returns the type of an `impl` line: `Locks` of `impl<T> Clone for Locks<T> {`.
fn implementor(line: &str) -> Option<String> {
    let rest = line.strip_prefix("impl")?;
    let mut depth = 0_u32;
    let rest = rest.trim_start_matches(|c| {
        depth += u32::from(c == '<');
        let is_inside = depth > 0;
        depth -= u32::from(c == '>' && is_inside);
        is_inside || c == ' '
    });
    let rest = rest.split_once(" for ").map_or(rest, |(_, of)| of);
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned)
}

/// The names of async methods and functions, read from the sources.
fn public_methods() -> BTreeSet<String> {
    let mut methods = BTreeSet::new();
    let is_contract = |path: &std::path::PathBuf| path.starts_with(root().join("conformance"));
    for path in files().into_iter().filter(|path| !is_contract(path)) {
        let text = fs::read_to_string(path).expect("it is text");
        let mut of = String::new();
        for line in text.lines() {
            if let Some(implementor) = implementor(line) {
                of = implementor;
            }
            let Some(rest) = line.trim_start().strip_prefix("pub async fn ") else { continue };
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            methods.insert(if line.starts_with(' ') { format!("{of}::{name}") } else { name.to_owned() });
        }
    }
    methods
}

#[test]
fn every_async_verb_is_in_a_table() {
    let mut found = public_builders();
    found.extend(public_methods());
    let exceptions = EXCEPTIONS.iter().map(|(name, _)| *name);
    let known: BTreeSet<_> = all().into_iter().chain(exceptions).map(str::to_owned).collect();
    assert!(found.len() > 100, "only {} verbs were found", found.len());
    let missing: Vec<_> = found.difference(&known).collect();
    assert!(missing.is_empty(), "add a row and a call, or an exception with its reason: {missing:?}");
    let gone: Vec<_> = known.difference(&found).collect();
    assert!(gone.is_empty(), "these no longer exist: {gone:?}");
}

#[test]
fn implementor_of_line_is_found() {
    for (line, of) in [
        ("impl Locks {", "Locks"),
        ("impl<T: KvModel> ReadBucket<T> {", "ReadBucket"),
        ("impl<T> Election<T>", "Election"),
        ("impl<'a, T: Into<Vec<u8>>> Verb for Put<'a, T> {", "Put"),
    ] {
        assert_eq!(implementor(line).as_deref(), Some(of), "{line}");
    }
}

/// The file lists every field of a span, and the docs describe every field.
#[test]
fn span_attributes_are_documented_and_listed() {
    let read = |path: std::path::PathBuf| fs::read_to_string(path).expect("it is text");
    let (source, docs) = (read(root().join("observe/span.rs")), read(root().join("observe/mod.rs")));
    let field = Regex::new(r"(?m)^ {8}([a-z]+(?:\.[a-z_]+)+) = ").unwrap();
    let fields: BTreeSet<_> = field.captures_iter(&source).map(|field| field[1].to_owned()).collect();
    let listed = read("golden/span_attributes.txt".into());
    let listed: BTreeSet<_> = listed.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert_eq!(fields, listed);
    for field in fields {
        assert!(docs.contains(&format!("`{field}`")), "`{field}` is not documented");
    }
}
