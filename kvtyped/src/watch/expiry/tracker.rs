//! The records that can expire, and the server's clock.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use crate::backend::{BucketStatus, Operation, RawEntry, RecordHeaders};
use crate::config::BucketConfig;
use crate::key::Key;
use crate::revision::Revision;
use crate::ttl::Ttl;
use crate::watch::update::WatchUpdate;

/// How old the last reading of the server's clock may be when a record is evicted. If the clock was set back since, the
/// eviction could be premature.
const FRESH: Duration = Duration::from_secs(10);

/// How often the server's clock and the settings of the bucket are read while records can expire.
const REFRESH: Duration = Duration::from_secs(60);

/// The pause after a failed first reading.
const RETRY: Duration = Duration::from_secs(1);

/// The rule for the expiry of records without a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    /// The TTL of the bucket.
    bucket: Option<Duration>,
    /// Whether a record's own TTL takes effect. If the bucket keeps older revisions, the newest of them reappears
    /// instead, which only a read would show.
    own: bool,
}

/// A record that can expire.
#[derive(Debug)]
struct Tracked {
    revision: Revision,
    created: SystemTime,
    ttl: Option<Ttl>,
}

/// A reply of the server.
#[derive(Debug, Clone, Copy)]
struct Clock {
    time: SystemTime,
    /// The last revision of the bucket at that time.
    last: Revision,
    arrived: Instant,
}

impl Rule {
    /// The rule of a bucket. `None` if the server writes markers.
    fn of_bucket(status: &BucketStatus) -> Option<Self> {
        let config = &status.config;
        let own = status.entry_ttl && config.history == Some(1);
        config.limit_markers.is_none().then_some(Self { bucket: config.ttl, own })
    }

    /// Returns the expiry time of a record, if any.
    fn due(self, record: &Tracked) -> Option<SystemTime> {
        if record.ttl.is_some_and(Ttl::is_never) {
            return None;
        }
        let own = record.ttl.filter(|_| self.own).map(Ttl::as_duration);
        let lives = own.into_iter().chain(self.bucket).min()?;
        record.created.checked_add(lives)
    }
}

/// The records of a watch that can expire. Its methods take the current time as an argument.
pub(super) struct ExpiryTracker {
    /// `None` if the server announces expiries.
    rule: Option<Rule>,
    tracked: HashMap<Key, Tracked>,
    /// The tracked records that expire, by due time.
    due: BTreeMap<(SystemTime, Revision), Key>,
    /// The server's last reply.
    clock: Option<Clock>,
    /// Everything up to this revision was delivered.
    position: Revision,
    /// When the server was last asked, with or without success.
    asked: Option<Instant>,
}

impl ExpiryTracker {
    /// Creates a tracker for a bucket with these settings.
    pub(super) fn new(config: &BucketConfig) -> Self {
        // The first reading of the clock also reports whether single records can expire.
        let rule = config.limit_markers.is_none().then_some(Rule { bucket: config.ttl, own: false });
        let (tracked, due) = (HashMap::new(), BTreeMap::new());
        Self { rule, tracked, due, clock: None, position: Revision::ZERO, asked: None }
    }

    /// Whether records expire without a marker.
    pub(super) fn has_rule(&self) -> bool {
        self.rule.is_some()
    }

    /// Tracks the records of the watch.
    pub(super) fn track(&mut self, update: &WatchUpdate) {
        match update {
            WatchUpdate::Entry(entry, _) => {
                self.position = self.position.max(entry.revision);
                self.forget(&entry.key);
                let Some(rule) = self.rule else { return };
                if !entry.is_live() || (rule.bucket.is_none() && entry.ttl.is_none()) {
                    return;
                }
                let record = Tracked { revision: entry.revision, created: entry.created, ttl: entry.ttl };
                if let Some(due) = rule.due(&record) {
                    self.due.insert((due, record.revision), entry.key.clone());
                }
                self.tracked.insert(entry.key.clone(), record);
            }
            WatchUpdate::Resync => {
                self.tracked.clear();
                self.due.clear();
                // The bucket may have been recreated with other settings.
                (self.clock, self.asked, self.position) = (None, None, Revision::ZERO);
            }
            WatchUpdate::Alive(through) => self.position = self.position.max(*through),
            WatchUpdate::Ready | WatchUpdate::Lagging(_) | WatchUpdate::Interrupted(_) => {}
        }
    }

    fn forget(&mut self, key: &Key) {
        if self.tracked.is_empty() {
            return;
        }
        let Some(record) = self.tracked.remove(key) else { return };
        if let Some(due) = self.rule.and_then(|rule| rule.due(&record)) {
            self.due.remove(&(due, record.revision));
        }
    }

    /// The estimated time of the server, which may be slightly behind.
    fn server_time(&self, now: Instant) -> Option<SystemTime> {
        let Clock { time, arrived, .. } = self.clock?;
        time.checked_add(now.saturating_duration_since(arrived))
    }

    /// Removes the next record that was due when the server replied, if everything up to then was delivered.
    pub(super) fn evict_sure(&mut self) -> Option<RawEntry> {
        let ((due, _), _) = self.due.first_key_value()?;
        let clock = self.clock?;
        if clock.time < *due || self.position < clock.last { None } else { self.evict_next() }
    }

    /// Removes the next expired record, when the watch has no pending items. Returns `None` if no record has expired,
    /// or if the server's clock must be read first.
    pub(super) fn evict(&mut self, now: Instant) -> Option<RawEntry> {
        let ((due, _), _) = self.due.first_key_value()?;
        if self.server_time(now)? < *due || now.saturating_duration_since(self.asked?) >= FRESH {
            return None;
        }
        self.evict_next()
    }

    fn evict_next(&mut self) -> Option<RawEntry> {
        let ((due, revision), key) = self.due.pop_first()?;
        self.tracked.remove(&key);
        let operation = Operation::Expired;
        Some(RawEntry {
            key,
            revision,
            created: due,
            operation,
            value: Bytes::new(),
            ttl: None,
            headers: RecordHeaders::default(),
            id: None,
        })
    }

    /// Whether the server's clock must be read now.
    pub(super) fn needs_status(&self, now: Instant) -> bool {
        self.next_status(now).is_some_and(|at| at <= now)
    }

    /// When the server's clock must be read. `None` while nothing can expire.
    fn next_status(&self, now: Instant) -> Option<Instant> {
        if self.tracked.is_empty() {
            return None;
        }
        let (Some(asked), Some(time)) = (self.asked, self.server_time(now)) else {
            return Some(self.asked.map_or(now, |asked| asked + RETRY));
        };
        let refresh = asked + REFRESH;
        let Some(((due, _), _)) = self.due.first_key_value() else { return Some(refresh) };
        let due = now + due.duration_since(time).unwrap_or_default().min(REFRESH);
        Some(refresh.min(due.max(asked + FRESH)))
    }

    /// When there is something to do although no item arrives.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        let status = self.next_status(now)?;
        let due = self.due.first_key_value().zip(self.server_time(now));
        let due = due.map(|(((due, _), _), time)| due.duration_since(time).unwrap_or_default().min(REFRESH));
        Some(due.map_or(status, |due| status.min(now + due)))
    }

    /// Records that the server did not reply. The last estimate of its time stays.
    pub(super) fn on_no_status(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// Updates the time of the server and the settings of the bucket.
    pub(super) fn on_status(&mut self, status: &BucketStatus, now: Instant) {
        self.asked = Some(now);
        self.clock = Some(Clock { time: status.now, last: status.last_revision, arrived: now });
        let rule = Rule::of_bucket(status);
        if rule == self.rule {
            return;
        }
        self.rule = rule;
        self.due.clear();
        match rule {
            Some(rule) => {
                let due = |(key, record): (&Key, &Tracked)| Some(((rule.due(record)?, record.revision), key.clone()));
                self.due.extend(self.tracked.iter().filter_map(due));
            }
            None => self.tracked.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const EPOCH: SystemTime = SystemTime::UNIX_EPOCH;

    /// The tracker of a bucket whose records live for ten seconds, and its status.
    struct TestTracker {
        tracker: ExpiryTracker,
        status: BucketStatus,
    }

    /// Returns a tracker after a reply of the server with this time.
    fn expiry(now: Duration) -> TestTracker {
        let mut config = BucketConfig::new("b");
        config.max_bytes = Some(1 << 20);
        config.ttl = Some(10 * SECOND);
        let config = config.with_defaults(true, true);
        let tracker = ExpiryTracker::new(&config);
        let mut expiry = TestTracker { tracker, status: BucketStatus::new(config, "test", EPOCH) };
        expiry.on_reply(now, |_| {});
        expiry
    }

    impl TestTracker {
        /// A reply of the server with this time. `change` changes the status of this reply.
        fn on_reply(&mut self, now: Duration, change: impl FnOnce(&mut BucketStatus)) {
            let mut status = self.status.clone();
            status.now = EPOCH + now;
            change(&mut status);
            self.tracker.on_status(&status, Instant::now());
        }

        fn written(&mut self, key: &str, revision: u64, at: Duration, ttl: Option<Ttl>) {
            let entry = RawEntry {
                key: Key::new(key).unwrap(),
                revision: Revision::new(revision),
                created: EPOCH + at,
                operation: Operation::Put,
                value: Bytes::new(),
                ttl,
                headers: RecordHeaders::default(),
                id: None,
            };
            self.tracker.track(&WatchUpdate::Entry(entry, 0));
        }

        fn evicted(&mut self) -> Vec<u64> {
            std::iter::from_fn(|| self.tracker.evict(Instant::now())).map(|entry| entry.revision.get()).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn records_are_evicted_when_due_and_not_before() {
        let mut expiry = expiry(100 * SECOND);
        expiry.written("a", 1, 95 * SECOND, None);
        expiry.written("b", 2, 96 * SECOND, None);
        tokio::time::advance(5 * SECOND - Duration::from_millis(1)).await;
        assert_eq!(expiry.evicted(), [0; 0]);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(expiry.evicted(), [1]);
        tokio::time::advance(SECOND).await;
        assert_eq!(expiry.evicted(), [2]);
        assert!(expiry.tracker.tracked.is_empty() && expiry.tracker.due.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn later_revision_or_removal_replaces_due_time() {
        let mut expiry = expiry(100 * SECOND);
        expiry.written("a", 1, 95 * SECOND, None);
        expiry.written("b", 2, 95 * SECOND, None);
        expiry.written("a", 3, 99 * SECOND, None);
        let removed = RawEntry {
            operation: Operation::Delete,
            key: Key::new("b").unwrap(),
            revision: Revision::new(4),
            created: EPOCH,
            value: Bytes::new(),
            ttl: None,
            headers: RecordHeaders::default(),
            id: None,
        };
        expiry.tracker.track(&WatchUpdate::Entry(removed, 0));
        tokio::time::advance(9 * SECOND - Duration::from_millis(1)).await;
        assert_eq!(expiry.evicted(), [0; 0]);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(expiry.evicted(), [3]);
    }

    #[tokio::test(start_paused = true)]
    async fn server_clock_is_reread_before_eviction() {
        let mut expiry = expiry(100 * SECOND);
        expiry.written("a", 1, 95 * SECOND, None);
        assert!(!expiry.tracker.needs_status(Instant::now()));
        expiry.written("b", 2, 102 * SECOND, None);
        tokio::time::advance(12 * SECOND).await;
        assert_eq!(expiry.evicted(), [0; 0], "the estimate is too old");
        assert!(expiry.tracker.needs_status(Instant::now()));
        // The server's clock was set back.
        expiry.on_reply(104 * SECOND, |_| {});
        assert_eq!(expiry.evicted(), [0; 0]);
        tokio::time::advance(SECOND).await;
        assert_eq!(expiry.evicted(), [1]);
        // Without a reply the estimate is used.
        tokio::time::advance(20 * SECOND).await;
        expiry.tracker.on_no_status(Instant::now());
        assert_eq!(expiry.evicted(), [2]);
    }

    /// In a watch that always has pending items, an eviction does not wait for a pause.
    #[tokio::test(start_paused = true)]
    async fn eviction_waits_for_items_before_due_time() {
        let mut expiry = expiry(100 * SECOND);
        expiry.written("a", 1, 95 * SECOND, None);
        expiry.written("b", 2, 96 * SECOND, None);
        expiry.on_reply(106 * SECOND, |status| status.last_revision = Revision::new(4));
        expiry.written("c", 3, 103 * SECOND, None);
        assert!(expiry.tracker.evict_sure().is_none(), "a later revision of the record may come");
        expiry.written("b", 4, 104 * SECOND, None);
        assert_eq!(expiry.tracker.evict_sure().map(|entry| entry.revision.get()), Some(1));
        assert!(expiry.tracker.evict_sure().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn bucket_ttl_limits_due_times_of_record_ttls() {
        let mut expiry = expiry(100 * SECOND);
        expiry.on_reply(100 * SECOND, |status| status.entry_ttl = true);
        expiry.written("short", 1, 100 * SECOND, Ttl::new(3 * SECOND));
        expiry.written("long", 2, 100 * SECOND, Ttl::new(99 * SECOND));
        expiry.written("never", 3, 100 * SECOND, Some(Ttl::NEVER));
        tokio::time::advance(3 * SECOND).await;
        assert_eq!(expiry.evicted(), [1]);
        tokio::time::advance(6 * SECOND).await;
        assert_eq!(expiry.evicted(), [0; 0]);
        tokio::time::advance(SECOND).await;
        expiry.on_reply(110 * SECOND, |status| status.entry_ttl = true);
        assert_eq!(expiry.evicted(), [2], "the TTL of the bucket bounds it");
        tokio::time::advance(3600 * SECOND).await;
        expiry.on_reply(3710 * SECOND, |status| status.entry_ttl = true);
        assert_eq!(expiry.evicted(), [0; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn changed_settings_change_the_due_times() {
        let mut expiry = expiry(100 * SECOND);
        expiry.written("a", 1, 99 * SECOND, None);
        expiry.on_reply(100 * SECOND, |status| status.config.ttl = Some(SECOND));
        assert_eq!(expiry.evicted(), [1]);
        expiry.written("b", 2, 99 * SECOND, None);
        expiry.on_reply(200 * SECOND, |status| status.config.limit_markers = Some(SECOND));
        assert_eq!(expiry.evicted(), [0; 0], "the server announces it");
        assert_eq!(expiry.tracker.wake(Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn resync_clears_the_tracked_records() {
        let mut expiry = expiry(100 * SECOND);
        expiry.written("a", 1, 80 * SECOND, None);
        expiry.tracker.track(&WatchUpdate::Resync);
        assert_eq!(expiry.evicted(), [0; 0]);
        assert!(expiry.tracker.next_status(Instant::now()).is_none());
    }
}
