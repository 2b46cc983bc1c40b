//! The backend under test, and operations that every test needs.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;

use crate::backend::{
    Backend, Batch, Deadline, KeySpace, Operation, OperationId, Precondition, RawBucket, RawEntry, Read, ReadAt,
    RecordHeaders, ScanRequest, Write, WriteKind,
};
use crate::config::{BucketConfig, Storage};
use crate::error::{Error, Outcome};
use crate::key::{Key, Pattern};
use crate::revision::Revision;
use crate::ttl::Ttl;

/// A backend under test, and the settings of its test buckets.
#[derive(Clone)]
pub struct BackendUnderTest {
    backend: Arc<dyn Backend>,
    replicas: u8,
    storage: Storage,
    max_payload: usize,
    idle_timeout: Duration,
    keeps: Vec<Arc<dyn Any + Send + Sync>>,
    made: Arc<Mutex<Vec<String>>>,
}

impl BackendUnderTest {
    /// Creates a backend under test with one replica of each bucket and file storage.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            replicas: 1,
            storage: Storage::File,
            max_payload: 1024 * 1024,
            idle_timeout: Duration::from_secs(15),
            keeps: Vec::new(),
            made: Arc::default(),
        }
    }

    /// Sets the number of replicas of each bucket.
    #[must_use]
    pub fn replicas(mut self, replicas: u8) -> Self {
        self.replicas = replicas;
        self
    }

    /// Sets the storage of the buckets.
    #[must_use]
    pub fn storage(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    /// Sets the size of the largest message that the backend accepts. Default: 1 MiB, like a server.
    #[must_use]
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = bytes;
        self
    }

    /// Sets the timeout of operations, and of expected events. Default: 15 s.
    #[must_use]
    pub fn idle_timeout(mut self, idle_timeout: Duration) -> Self {
        self.idle_timeout = idle_timeout;
        self
    }

    /// Keeps a value until `self` is dropped, for example the server under test.
    #[must_use]
    pub fn keep_alive(mut self, kept: impl Any + Send + Sync) -> Self {
        self.keeps.push(Arc::new(kept));
        self
    }

    /// Returns a copy without created buckets.
    pub(super) fn fresh(&self) -> Self {
        Self { made: Arc::default(), ..self.clone() }
    }

    /// Removes the created buckets. Their names are unique, so failures do not matter.
    pub(super) async fn clean(&self) {
        let made = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        for name in made {
            let _ = self.backend.delete(&name, Deadline::after(Duration::from_secs(5))).await;
        }
    }

    pub(super) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    pub(super) fn deadline(&self) -> Deadline {
        Deadline::after(self.idle_timeout)
    }

    pub(super) fn largest_message(&self) -> usize {
        self.max_payload
    }

    /// Returns the configuration of a bucket with a unique name. [`clean`](Self::clean) removes the bucket.
    pub(super) fn config(&self, change: impl FnOnce(&mut BucketConfig)) -> BucketConfig {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut config = BucketConfig::new(format!("conformance-{:08x}-{number}", rand::random::<u32>()));
        config.replicas = Some(self.replicas);
        config.storage = Some(self.storage);
        change(&mut config);
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(config.name.clone());
        config
    }

    /// Creates a bucket.
    pub(super) async fn bucket(&self, change: impl FnOnce(&mut BucketConfig)) -> Bucket {
        let config = self.config(change);
        match self.backend.create(config.clone(), self.deadline()).await {
            Ok(raw) => Bucket { raw, subject: self.clone() },
            Err(error) => panic!("cannot create {config:?}: {error:?}"),
        }
    }

    /// Whether a key can have a TTL; see [`Capabilities::key_ttl`](crate::backend::Capabilities::key_ttl).
    pub(super) async fn has_key_ttl(&self) -> bool {
        self.backend.capabilities(self.deadline()).await.expect("the backend returns its capabilities").key_ttl
    }

    /// Whether buckets support batches; see [`Capabilities::atomic`](crate::backend::Capabilities::atomic).
    pub(super) async fn has_batches(&self) -> bool {
        self.backend.capabilities(self.deadline()).await.expect("the backend returns its capabilities").atomic
    }

    /// Calls `ask` until it returns a value. `what` describes the value.
    pub(super) async fn eventually<T>(&self, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + self.idle_timeout;
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            assert!(Instant::now() < deadline, "not within {:?}: {what}", self.idle_timeout);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl fmt::Debug for BackendUnderTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendUnderTest")
            .field("backend", &self.backend)
            .field("replicas", &self.replicas)
            .field("storage", &self.storage)
            .finish_non_exhaustive()
    }
}

impl From<Arc<dyn Backend>> for BackendUnderTest {
    fn from(backend: Arc<dyn Backend>) -> Self {
        Self::new(backend)
    }
}

/// A bucket under test. Its methods panic on unexpected errors.
pub(super) struct Bucket {
    pub(super) raw: Arc<dyn RawBucket>,
    subject: BackendUnderTest,
}

impl Bucket {
    pub(super) fn idle_timeout(&self) -> Duration {
        self.subject.idle_timeout
    }

    pub(super) async fn eventually<T>(&self, what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
        self.subject.eventually(what, ask).await
    }

    pub(super) async fn try_write(&self, write: Write) -> Result<Revision, Error> {
        self.raw.write(write, self.subject.deadline()).await
    }

    pub(super) async fn write(&self, write: Write) -> Revision {
        match self.try_write(write.clone()).await {
            Ok(revision) => revision,
            Err(error) => panic!("{write:?} is refused: {error:?}"),
        }
    }

    /// Returns the error of a write that must be refused, and must report that it was not applied.
    pub(super) async fn refusal(&self, write: Write) -> Error {
        let error = match self.try_write(write.clone()).await {
            Ok(revision) => panic!("{write:?} is applied at revision {revision}"),
            Err(error) => error,
        };
        assert_eq!(error.outcome(), Outcome::NotApplied, "{write:?} is refused with {error:?}");
        error
    }

    pub(super) async fn try_commit(&self, writes: &[Write], checks: &[Precondition]) -> Result<Vec<Revision>, Error> {
        let batch = Batch { writes: writes.to_vec(), preconditions: checks.to_vec() };
        self.raw.commit(batch, self.subject.deadline()).await
    }

    pub(super) async fn commit(&self, writes: &[Write], checks: &[Precondition]) -> Vec<Revision> {
        match self.try_commit(writes, checks).await {
            Ok(revisions) => revisions,
            Err(error) => panic!("{writes:?} with {checks:?} is refused: {error:?}"),
        }
    }

    /// Returns the error of a batch that must be refused, report that it was not applied, and change nothing.
    pub(super) async fn refusal_of_batch(&self, writes: &[Write], checks: &[Precondition]) -> Error {
        let before = self.counts().await;
        let error = match self.try_commit(writes, checks).await {
            Ok(revisions) => panic!("{writes:?} with {checks:?} is applied at {revisions:?}"),
            Err(error) => error,
        };
        assert_eq!(error.outcome(), Outcome::NotApplied, "{writes:?} with {checks:?} is refused with {error:?}");
        assert_eq!(self.counts().await, before, "the number of entries and the last revision after {error:?}");
        error
    }

    pub(super) async fn read(&self, on: &Key, at: ReadAt) -> Option<RawEntry> {
        match self.raw.read(KeySpace::Records, on, at, self.subject.deadline()).await {
            Ok(entry) => entry,
            Err(error) => panic!("a read of {on:?}, {at:?}, fails: {error:?}"),
        }
    }

    pub(super) async fn read_many(&self, keys: &[Key], read: Read) -> Vec<Option<RawEntry>> {
        self.read_many_of(KeySpace::Records, keys, read).await
    }

    pub(super) async fn read_many_of(&self, space: KeySpace, keys: &[Key], read: Read) -> Vec<Option<RawEntry>> {
        match self.raw.read_many(space, keys, read, self.subject.deadline()).await {
            Ok(entries) => entries,
            Err(error) => panic!("a read of {} keys, {read:?}, fails: {error:?}", keys.len()),
        }
    }

    /// Erases the entries of a key up to a revision. Returns their number.
    pub(super) async fn erase(&self, on: &Key, through: Revision) -> u64 {
        self.raw
            .purge_through(KeySpace::Records, on, through, self.subject.deadline())
            .await
            .expect("the entries are erased")
    }

    /// Returns the newest entry of a key on the leader.
    pub(super) async fn newest(&self, on: &Key) -> Option<RawEntry> {
        self.read(on, ReadAt::Newest(Read::Leader)).await
    }

    /// Returns the operation of the newest entry of a key.
    pub(super) async fn operation(&self, on: &Key) -> Option<Operation> {
        self.newest(on).await.map(|entry| entry.operation)
    }

    /// Returns the number of entries and the last revision.
    pub(super) async fn counts(&self) -> (u64, Revision) {
        let status = self.raw.status(self.subject.deadline()).await.expect("the bucket has a status");
        (status.values, status.last_revision)
    }

    /// Returns the entries of a scan. Fails if a key or a revision is repeated or out of order.
    pub(super) async fn scan(&self, patterns: &[Pattern], history: bool, headers_only: bool) -> Vec<RawEntry> {
        self.scan_as(ScanRequest { history, headers_only, ..self.scan_of(patterns) }).await
    }

    /// Returns a scan of the newest entries.
    pub(super) fn scan_of(&self, patterns: &[Pattern]) -> ScanRequest {
        ScanRequest {
            patterns: patterns.to_vec().into(),
            history: false,
            headers_only: false,
            after: Revision::ZERO,
            limit: None,
            idle_timeout: self.subject.idle_timeout,
        }
    }

    /// Returns the number of consumers on the server, if there is a server.
    pub(super) async fn consumers(&self) -> Option<u64> {
        let status = self.raw.status(self.subject.deadline()).await.expect("the bucket has a status");
        let of_stream = status.raw.filter(|raw| raw.get("state").is_some());
        of_stream.map(|raw| raw["state"]["consumer_count"].as_u64().expect("a server counts its consumers"))
    }

    /// Runs a scan with the checks of [`scan`](Self::scan).
    pub(super) async fn scan_as(&self, scan: ScanRequest) -> Vec<RawEntry> {
        let (idle_timeout, history) = (scan.idle_timeout, scan.history);
        let entries = self.raw.scan(scan).map(|scanned| scanned.expect("the scan has no error").entry);
        let entries: Vec<_> = tokio::time::timeout(2 * idle_timeout, entries.collect()).await.expect("the scan ends");
        let brief: Vec<_> = entries.iter().map(|entry| (entry.revision.get(), entry.key.as_str())).collect();
        assert!(brief.is_sorted_by(|a, b| a.0 < b.0), "the scan is in the order of revisions: {brief:?}");
        let mut keys: Vec<_> = brief.iter().map(|(_, key)| key).collect();
        keys.sort_unstable();
        assert!(history || keys.is_sorted_by(|a, b| a < b), "the scan gives each key once: {brief:?}");
        entries
    }

    /// Scans until the result has these revisions: a scan may be slightly stale.
    pub(super) async fn scan_finds(&self, patterns: &[Pattern], history: bool, wanted: &[Revision]) -> Vec<RawEntry> {
        let what = format!("a scan of {patterns:?} (history: {history}) gives the revisions {wanted:?}");
        let found = async || {
            let entries = self.scan(patterns, history, false).await;
            entries.iter().map(|entry| entry.revision).eq(wanted.iter().copied()).then_some(entries)
        };
        self.subject.eventually(&what, found).await
    }
}

pub(super) fn key(text: &str) -> Key {
    Key::new(text).expect("a legal key")
}

pub(super) fn put(on: &Key, value: &str) -> Write {
    Write::new(on.clone(), WriteKind::Put(value.to_owned().into()))
}

pub(super) fn delete(on: &Key) -> Write {
    Write::new(on.clone(), WriteKind::Delete)
}

pub(super) fn purge(on: &Key) -> Write {
    Write::new(on.clone(), WriteKind::Purge)
}

/// Headers with every field set.
pub(super) fn full_headers() -> RecordHeaders {
    RecordHeaders::of_version(Some(4_000_000_007))
        .with_encoding(Some("zstd, aead"))
        .with_key_id(Some("2026-11"))
        .with_signature(Some(vec![0, 9, 10, 13, 255].into()))
        .with_cause(Some(RecordHeaders::REWRITE))
}

pub(super) fn seconds(seconds: u64) -> Ttl {
    Ttl::new(Duration::from_secs(seconds)).expect("a legal TTL")
}

pub(super) fn id_of(entry: &RawEntry) -> Option<&str> {
    entry.id.as_ref().map(OperationId::as_str)
}

type Texts = &'static [&'static str];

/// Returns keys, and for each of several lists of patterns the keys that match.
pub(super) fn overlapping_patterns() -> (Texts, Vec<(Vec<Pattern>, Texts)>) {
    const KEYS: Texts = &["a", "a.1", "a.2", "a.2.x", "b.1", "b.p-1", "b.p-", "b.q-1", "c.1.x"];
    let literal = |text: &str| Pattern::new().literal(text);
    let any = |pattern: Pattern| pattern.segment::<String>(None, "", "");
    let half = |pattern: Pattern| pattern.segment::<String>(None, "p-", "");
    let cases: Vec<(_, Texts)> = vec![
        (vec![Pattern::exact(&key("a.1"))], &["a.1"]),
        (vec![any(literal("a"))], &["a.1", "a.2"]),
        (vec![any(literal("a")), Pattern::exact(&key("a.1"))], &["a.1", "a.2"]),
        (vec![any(literal("a")), any(Pattern::new()).literal("1")], &["a.1", "a.2", "b.1"]),
        (vec![any(literal("a")), any(literal("c")).literal("x")], &["a.1", "a.2", "c.1.x"]),
        (vec![half(literal("b"))], &["b.p-1"]),
        (vec![half(literal("b")), Pattern::exact(&key("b.q-1"))], &["b.p-1", "b.q-1"]),
        (vec![Pattern::exact(&key("c.1.x")), Pattern::exact(&key("a"))], &["a", "c.1.x"]),
        (vec![any(Pattern::new()), Pattern::exact(&key("b.1"))], &["a", "b.1"]),
        (vec![any(literal("a")), Pattern::all()], KEYS),
    ];
    (KEYS, cases)
}
