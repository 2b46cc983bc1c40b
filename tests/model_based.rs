//! Model-based test: the memory backend and a server run the same random operations, and all results are compared.
//!
//! The promise covers 1,000 sequences: `KVTYPED_MODEL_CASES=1000 cargo test -p kvtyped-tests --test suite model`.
//! Expiry takes time and is left to the conformance suite; a TTL here is one hour.

use std::collections::HashMap;
use std::env;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use harness::Server;
use kvtyped::backend::memory::MemoryBackend;
use kvtyped::backend::nats::{NatsBackend, NatsOptions};
use kvtyped::backend::{
    Backend, Deadline, KeySpace, Precondition, RawBucket, RawEntry, ReadAt, ScanRequest, Write, WriteKind,
};
use kvtyped::config::BucketConfig;
use kvtyped::key::Pattern;
use kvtyped::{Error, ErrorKind, Key, Outcome, Read, Revision, Storage, Ttl};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

use crate::needs::Feature;
use crate::support::unique;

/// Returns the number of sequences to run.
fn cases(quick: u32) -> u32 {
    env::var("KVTYPED_MODEL_CASES").map_or(quick, |cases| cases.parse().expect("KVTYPED_MODEL_CASES is a number"))
}

/// proptest is synchronous, so it blocks on this runtime.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime starts")
});

async fn server() -> Arc<NatsBackend> {
    static SERVER: OnceCell<Arc<NatsBackend>> = OnceCell::const_new();
    let connect = async || {
        let url = harness::shared().await.url();
        let backend = NatsBackend::connect(&url, NatsOptions::new()).await.expect("the server is there");
        // A permanent bucket: a server removes a directory with its last stream, and occasionally fails (10049) to
        // create the next stream at the same time.
        let anchor = BucketConfig::new(unique("anchor"));
        backend.create(anchor, deadline()).await.expect("the server makes a bucket");
        Arc::new(backend)
    };
    Arc::clone(SERVER.get_or_init(connect).await)
}

fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

/// The settings of a bucket that affect the results of operations.
#[derive(Clone, Debug)]
struct Settings {
    history: u8,
    storage: Storage,
    max_value_size: Option<u32>,
    max_bytes: Option<u64>,
    limit_markers: bool,
}

impl Settings {
    fn config(&self, name: &str) -> BucketConfig {
        let mut config = BucketConfig::new(name);
        config.history = Some(self.history);
        config.storage = Some(self.storage);
        config.max_value_size = self.max_value_size.filter(|_| limits_are_those_of_memory());
        config.max_bytes = self.max_bytes.filter(|_| limits_are_those_of_memory());
        config.limit_markers = (self.limit_markers && has(Feature::LimitMarkers)).then_some(Duration::from_secs(7200));
        config
    }
}

fn settings() -> impl Strategy<Value = Settings> {
    let history = prop_oneof![Just(1), Just(3), Just(64)];
    let storage = prop_oneof![Just(Storage::File), Just(Storage::Memory)];
    let small = prop_oneof![3 => Just(None), 1 => (60..400_u32).prop_map(Some)];
    let full = prop_oneof![1 => Just(None), 1 => (200..1_500_u64).prop_map(Some)];
    (history, storage, small, full, any::<bool>()).prop_map(
        |(history, storage, max_value_size, max_bytes, limit_markers)| Settings {
            history,
            storage,
            max_value_size,
            max_bytes,
            limit_markers,
        },
    )
}

/// A revision, described relative to the state of the bucket.
#[derive(Clone, Debug)]
enum Which {
    Zero,
    /// The newest revision of this key.
    Newest(Key),
    /// This number of revisions before the last one of the bucket.
    Back(u64),
    Ahead,
}

/// The precondition of a write.
#[derive(Clone, Debug)]
struct Expecting {
    /// The key of the precondition; `None` for the key of the write.
    on: Option<Key>,
    revision: Which,
}

#[derive(Clone, Debug)]
enum Step {
    Write { key: Key, kind: WriteKind, expecting: Option<Expecting>, ttl: bool },
    Read { key: Key, at: Option<Which> },
    Scan { patterns: Vec<Pattern>, history: bool, headers_only: bool },
    Status,
    Update { history: Option<u8>, max_value_size: Option<u32>, max_bytes: Option<u64> },
}

fn segment() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b"), Just("ab"), Just("a=2Ab")]
}

/// Generates keys from a small set, so that keys repeat.
fn key() -> impl Strategy<Value = Key> {
    let texts = prop_oneof![
        6 => prop_oneof![Just("a"), Just("a.b"), Just("b.b"), Just("a.ab")].prop_map(str::to_owned),
        1 => vec(segment(), 1..4).prop_map(|segments| segments.join(".")),
    ];
    texts.prop_map(|text| Key::new(text).expect("it is legal"))
}

fn kind() -> impl Strategy<Value = WriteKind> {
    // Many values have the same size, because the capacity of a full bucket depends on it.
    let value = prop_oneof![3 => Just(10_usize), 3 => 0..40_usize, 1 => 40..500_usize];
    prop_oneof![
        6 => value.prop_map(|size| WriteKind::Put(vec![b'v'; size].into())),
        2 => Just(WriteKind::Delete),
        1 => Just(WriteKind::Purge),
    ]
}

fn which() -> impl Strategy<Value = Which> {
    prop_oneof![
        2 => Just(Which::Zero),
        3 => key().prop_map(Which::Newest),
        3 => (0..6_u64).prop_map(Which::Back),
        1 => Just(Which::Ahead),
    ]
}

fn write() -> impl Strategy<Value = Step> {
    let parts = || (key(), kind(), proptest::bool::weighted(0.2));
    let plain = parts().prop_map(|(key, kind, ttl)| Step::Write { key, kind, expecting: None, ttl });
    // Most of these writes are applied, because they expect the newest revision of their own key.
    let guarded = parts().prop_map(|(key, kind, ttl)| {
        let expecting = Some(Expecting { on: None, revision: Which::Newest(key.clone()) });
        Step::Write { key, kind, expecting, ttl }
    });
    let on = prop_oneof![2 => Just(None), 1 => key().prop_map(Some)];
    let wild = (parts(), on, which()).prop_map(|((key, kind, ttl), on, revision)| {
        let expecting = Some(Expecting { on, revision });
        Step::Write { key, kind, expecting, ttl }
    });
    prop_oneof![plain, guarded, wild]
}

/// Generates the patterns that the typed API can build: literals, fields with a value, and open fields with an optional
/// prefix and suffix.
fn pattern() -> impl Strategy<Value = Pattern> {
    let beside = || prop_oneof![3 => Just(""), 1 => Just("a"), 1 => Just("b")];
    let token = prop_oneof![
        3 => segment().prop_map(|text| (Some(text), "", "")),
        2 => (beside(), beside()).prop_map(|(prefix, suffix)| (None, prefix, suffix)),
    ];
    let tokens = vec(token, 1..4).prop_map(|tokens| {
        tokens.into_iter().fold(Pattern::new(), |pattern, token| match token {
            (Some(text), ..) => pattern.literal(text),
            (None, prefix, suffix) => pattern.segment::<String>(None, prefix, suffix),
        })
    });
    prop_oneof![1 => Just(Pattern::all()), 5 => tokens]
}

fn patterns() -> impl Strategy<Value = Vec<Pattern>> {
    prop_oneof![1 => Just(vec![Pattern::all()]), 2 => vec(pattern(), 0..4)]
}

fn step() -> BoxedStrategy<Step> {
    let read = (key(), proptest::option::of(which())).prop_map(|(key, at)| Step::Read { key, at });
    let scan = (patterns(), any::<bool>(), any::<bool>()).prop_map(|(patterns, history, headers_only)| Step::Scan {
        patterns,
        history,
        headers_only,
    });
    let update = (
        proptest::option::of(prop_oneof![Just(1), Just(3), Just(64)]),
        proptest::option::weighted(0.2, 60..400_u32),
        proptest::option::weighted(0.3, 200..3_000_u64),
    );
    let update =
        update.prop_map(|(history, max_value_size, max_bytes)| Step::Update { history, max_value_size, max_bytes });
    prop_oneof![20 => write(), 4 => read, 4 => scan, 2 => Just(Step::Status), 1 => update].boxed()
}

/// Generates the sequences. The revision of a precondition is determined when the operation runs, so the generator
/// needs no state.
struct Sequences;

impl ReferenceStateMachine for Sequences {
    type State = Settings;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Settings> {
        settings().boxed()
    }

    fn transitions(_: &Settings) -> BoxedStrategy<Step> {
        step()
    }

    fn apply(settings: Settings, _: &Step) -> Settings {
        settings
    }
}

/// Returns whether the server has a feature. The memory backend has all features.
fn has(feature: Feature) -> bool {
    !feature.is_missing(harness::binary::version())
}

/// Returns whether the server checks size limits like the memory backend: before or after the precondition, and also
/// for delete markers. The order changed between versions; the memory backend follows 2.15.
fn limits_are_those_of_memory() -> bool {
    harness::binary::version() >= [2, 15, 0]
}

/// Removes the settings that this server does not support.
fn comparable(config: &BucketConfig) -> BucketConfig {
    let mut config = config.clone();
    config.limit_markers = config.limit_markers.filter(|_| has(Feature::LimitMarkers));
    config.atomic = config.atomic.filter(|_| has(Feature::Transactions));
    config
}

/// A bucket of the memory backend, and its twin on the server.
struct Twins {
    memory: Arc<dyn Backend>,
    server: Arc<dyn Backend>,
    of_memory: Arc<dyn RawBucket>,
    of_server: Arc<dyn RawBucket>,
    last: Revision,
    newest: HashMap<Key, Revision>,
}

impl Twins {
    async fn new(settings: &Settings) -> Self {
        let name = unique("model");
        let memory: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
        let server: Arc<dyn Backend> = server().await;
        let of_memory = memory.create(settings.config(&name), deadline()).await.expect("memory makes a bucket");
        let of_server = server.create(settings.config(&name), deadline()).await.expect("the server makes a bucket");
        assert_eq!(comparable(of_memory.config()), comparable(of_server.config()));
        Self { memory, server, of_memory, of_server, last: Revision::ZERO, newest: HashMap::new() }
    }

    fn revision(&self, which: &Which) -> Revision {
        match which {
            Which::Zero => Revision::ZERO,
            Which::Newest(key) => self.newest.get(key).copied().unwrap_or_default(),
            Which::Back(steps) => Revision::new(self.last.get().saturating_sub(*steps)),
            Which::Ahead => Revision::new(self.last.get() + 1),
        }
    }

    async fn apply(&mut self, step: &Step) {
        match step {
            Step::Write { key, kind, expecting, ttl } => {
                let mut write = Write::new(key.clone(), kind.clone());
                write.ttl = (*ttl && has(Feature::RecordTtl))
                    .then(|| Ttl::new(Duration::from_secs(3600)).expect("a legal TTL"));
                write.precondition = expecting.as_ref().map(|Expecting { on, revision }| Precondition {
                    space: KeySpace::Records,
                    // A precondition on another key requires the same server version as per-record TTLs.
                    key: on.clone().filter(|_| has(Feature::RecordTtl)).unwrap_or_else(|| key.clone()),
                    revision: self.revision(revision),
                });
                let in_memory = self.of_memory.write(write.clone(), deadline()).await;
                let on_server = self.of_server.write(write.clone(), deadline()).await;
                assert_eq!(reported(&in_memory), reported(&on_server), "{write:?}: memory, server");
                if let Ok(revision) = in_memory {
                    self.last = revision;
                    self.newest.insert(key.clone(), revision);
                }
            }
            Step::Read { key, at } => {
                let at = match at {
                    None => ReadAt::Newest(Read::Any),
                    Some(which) => ReadAt::Revision(self.revision(which)),
                };
                let in_memory =
                    self.of_memory.read(KeySpace::Records, key, at, deadline()).await.map(|found| found.map(timeless));
                let on_server =
                    self.of_server.read(KeySpace::Records, key, at, deadline()).await.map(|found| found.map(timeless));
                assert_eq!(reported(&in_memory), reported(&on_server), "a read of {key} at {at:?}: memory, server");
            }
            Step::Scan { patterns, history, headers_only } => {
                self.compare_scan(patterns, *history, *headers_only).await;
            }
            Step::Status => self.compare_status().await,
            Step::Update { history, max_value_size, max_bytes } => {
                let mut config = BucketConfig::new(self.of_memory.config().name.clone());
                config.history = *history;
                config.max_value_size = max_value_size.filter(|_| limits_are_those_of_memory());
                config.max_bytes = max_bytes.filter(|_| limits_are_those_of_memory());
                let in_memory = self.memory.update(config.clone(), deadline()).await;
                let on_server = self.server.update(config.clone(), deadline()).await;
                let configs = [&in_memory, &on_server]
                    .map(|bucket| reported(&bucket.as_ref().map(|bucket| comparable(bucket.config()))));
                assert_eq!(configs[0], configs[1], "an update with {config:?}: memory, server");
                if let (Ok(of_memory), Ok(of_server)) = (in_memory, on_server) {
                    (self.of_memory, self.of_server) = (of_memory, of_server);
                }
            }
        }
    }

    async fn compare_scan(&self, patterns: &[Pattern], history: bool, headers_only: bool) {
        let (after, wanted, idle_limit) = (Revision::ZERO, None, Duration::from_secs(10));
        let scan = || ScanRequest {
            patterns: patterns.to_vec().into(),
            history,
            headers_only,
            after,
            limit: wanted,
            idle_timeout: idle_limit,
        };
        let in_memory = entries(&self.of_memory, scan()).await;
        let on_server = entries(&self.of_server, scan()).await;
        assert_eq!(reported(&in_memory), reported(&on_server), "{:?}: memory, server", scan());
    }

    async fn compare_status(&self) {
        let in_memory = self.of_memory.status(deadline()).await.expect("the memory backend returns its status");
        let on_server = self.of_server.status(deadline()).await.expect("the server returns its status");
        assert_eq!(comparable(&in_memory.config), comparable(&on_server.config));
        assert_eq!(
            (in_memory.values, in_memory.bytes, in_memory.last_revision),
            (on_server.values, on_server.bytes, on_server.last_revision),
            "values, bytes and the last revision: memory, server"
        );
    }

    /// Compares the whole content, and deletes the bucket of the server.
    async fn end(self) {
        self.compare_scan(&[Pattern::all()], true, false).await;
        self.compare_scan(&[Pattern::all()], false, false).await;
        self.compare_status().await;
        let name = &self.of_server.config().name;
        assert!(self.server.delete(name, deadline()).await.expect("the server deletes the bucket"));
    }
}

async fn entries(bucket: &Arc<dyn RawBucket>, scan: ScanRequest) -> Result<Vec<RawEntry>, Error> {
    bucket.scan(scan).map_ok(|scanned| timeless(scanned.entry)).try_collect().await
}

/// Removes the server's timestamp from an entry.
fn timeless(entry: RawEntry) -> RawEntry {
    RawEntry { created: std::time::UNIX_EPOCH, ..entry }
}

/// Formats a result: for an error, its kind, its outcome, and the data that a program can use.
fn reported<T: std::fmt::Debug, E: std::borrow::Borrow<Error>>(result: &Result<T, E>) -> String {
    let error = match result {
        Ok(value) => return format!("{value:?}"),
        Err(error) => error.borrow(),
    };
    assert_eq!(error.outcome(), Outcome::NotApplied, "{error}");
    match error.kind() {
        ErrorKind::Unsupported { .. } => "Unsupported".into(),
        ErrorKind::InvalidConfig { .. } => "InvalidConfig".into(),
        kind => format!("{kind:?}"),
    }
}

struct MemoryIsAServer;

impl StateMachineTest for MemoryIsAServer {
    type SystemUnderTest = Twins;
    type Reference = Sequences;

    fn init_test(settings: &Settings) -> Twins {
        RUNTIME.block_on(Twins::new(settings))
    }

    fn apply(mut twins: Twins, _: &Settings, step: Step) -> Twins {
        RUNTIME.block_on(twins.apply(&step));
        twins
    }

    fn teardown(twins: Twins, _: Settings) {
        RUNTIME.block_on(twins.end());
    }
}

prop_state_machine! {
    #![proptest_config(Config { cases: cases(100), max_shrink_iters: 4_096, failure_persistence: None, ..Config::default() })]

    #[test]
    fn memory_backend_behaves_like_server(sequential 5..60 => MemoryIsAServer);
}

proptest! {
    #![proptest_config(Config { cases: cases(20), max_shrink_iters: 512, failure_persistence: None, ..Config::default() })]

    #[test]
    fn patterns_match_like_server(
        keys in vec(vec(segment(), 1..5).prop_map(|segments| segments.join(".")), 1..40),
        filters in vec(vec(pattern(), 1..5), 1..6),
    ) {
        let keys: Vec<_> = keys.into_iter().map(|text| Key::new(text).expect("it is legal")).collect();
        RUNTIME.block_on(async { compare_with_subjects((harness::shared().await, &*server().await), &keys, &filters).await });
    }

    // This version miscounts the pending messages of several filters, and a scan must not rely on the count.
    #[test]
    fn patterns_match_like_old_server(
        keys in vec(vec(segment(), 1..5).prop_map(|segments| segments.join(".")), 1..40),
        filters in vec(vec(pattern(), 1..5), 1..6),
    ) {
        let keys: Vec<_> = keys.into_iter().map(|text| Key::new(text).expect("it is legal")).collect();
        RUNTIME.block_on(async { { let (api, server) = old_server().await; compare_with_subjects((api, server), &keys, &filters).await } });
    }
}

/// Returns a server of the oldest version, and a connection to it.
async fn old_server() -> &'static (Server, NatsBackend) {
    static OLD: OnceCell<(Server, NatsBackend)> = OnceCell::const_new();
    let start = async || {
        let server = Server::builder().version(crate::support::OLD).start().await;
        let backend = NatsBackend::connect(&server.url(), NatsOptions::new()).await.expect("the server is there");
        backend.create(BucketConfig::new("anchor"), deadline()).await.expect("the server makes a bucket");
        (server, backend)
    };
    OLD.get_or_init(start).await
}

async fn compare_with_subjects((api, server): (&Server, &NatsBackend), keys: &[Key], filters: &[Vec<Pattern>]) {
    let mut config = BucketConfig::new(unique("filters"));
    config.storage = Some(Storage::Memory);
    let bucket = server.create(config, deadline()).await.expect("the server makes a bucket");
    let name = bucket.config().name.clone();
    let puts = keys.iter().map(|key| bucket.write(Write::new(key.clone(), WriteKind::Put("v".into())), deadline()));
    futures::future::try_join_all(puts).await.expect("the server takes them");

    let matched = |patterns: &[Pattern]| {
        let keys = keys.iter().filter(|key| patterns.iter().any(|pattern| pattern.matches(key.as_str())));
        let mut keys: Vec<_> = keys.map(|key| key.as_str().to_owned()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    };
    for patterns in filters {
        let (after, wanted, idle_limit) = (Revision::ZERO, None, Duration::from_secs(10));
        let patterns = patterns.clone();
        let scan = ScanRequest {
            patterns: patterns.clone().into(),
            history: false,
            headers_only: true,
            after,
            limit: wanted,
            idle_timeout: idle_limit,
        };
        let found = bucket.scan(scan).map(|scanned| scanned.expect("the scan has no error").entry.key.to_string());
        let mut found: Vec<_> = found.collect().await;
        found.sort_unstable();
        assert_eq!(matched(&patterns), found, "{patterns:?}: matched here, found by a scan");

        // The subject filter of each pattern matches the same keys on the server, except for half-open segments, which
        // it cannot express.
        for pattern in &patterns {
            let asked = json!({ "subjects_filter": format!("$KV.{name}.{pattern}") });
            let info = api.api(&format!("$JS.API.STREAM.INFO.KV_{name}"), &asked).await;
            let info = info.expect("the server tells");
            let subjects = info["state"]["subjects"].as_object().into_iter().flatten();
            let subjects = subjects.map(|(subject, _)| subject[format!("$KV.{name}.").len()..].to_owned());
            let mut subjects: Vec<_> = subjects.collect();
            subjects.sort_unstable();
            let widened = widened(pattern);
            assert_eq!(matched(&[widened]), subjects, "{pattern}: matched here, by the server");
        }
    }
    assert!(server.delete(&name, deadline()).await.expect("the server deletes the bucket"));
}

/// Replaces each half-open segment with an open one.
fn widened(pattern: &Pattern) -> Pattern {
    if pattern.to_string() == ">" {
        return Pattern::all();
    }
    pattern.to_string().split('.').fold(Pattern::new(), |widened, token| match token {
        "*" => widened.segment::<String>(None, "", ""),
        literal => widened.literal(literal),
    })
}
