//! Expiry of records in buckets whose server writes no markers: buckets with `max_bytes`, servers before 2.11, and
//! streams of other clients.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream;
use futures::{FutureExt, StreamExt};
use tokio::time::{Instant, sleep_until};

use super::UpdateStream;
use super::resume::WatchUpdate;
use crate::backend::{BucketStatus, Deadline, Operation, RawBucket, RawEntry};
use crate::error::Result;
use crate::key::Key;
use crate::revision::Revision;
use crate::ttl::Ttl;

/// How old the last reading of the server's clock may be when a record is evicted. If the clock was set back since, the
/// eviction could be premature.
const FRESH: Duration = Duration::from_secs(10);

/// How often the server's clock and the settings of the bucket are read while records can expire.
const REFRESH: Duration = Duration::from_secs(60);

/// The pause after a failed first reading.
const RETRY: Duration = Duration::from_secs(1);

/// The time limit of one reading.
const LOOK: Duration = Duration::from_secs(5);

/// Adds expiries that the server does not announce to the items of a watch.
///
/// The due time of a record is its creation time plus its TTL, both from the server. It is compared with an estimate of
/// the server's clock: the time in its last reply plus the time since that reply arrived. The estimate is never ahead
/// of the clock. An eviction has the revision of the expired record. If the server writes markers, nothing is tracked.
///
/// A due record may have been written again, and the reader may be slow, so pending items of the watch come first. In a
/// watch that always has pending items, a record is evicted if it was due at the server's last reply, and once every
/// item up to that reply was delivered.
pub(super) fn expire(news: UpdateStream, raw: Arc<dyn RawBucket>) -> UpdateStream {
    let expiry = Expiry::new(news, raw);
    // Without a rule no record is tracked, so the rule is never read again.
    if expiry.rule.is_none() {
        return expiry.news;
    }
    // Boxed, because it moves with each item.
    stream::unfold(Box::new(expiry), |mut expiry| async move {
        let news = expiry.next().await?;
        Some((news, expiry))
    })
    .boxed()
}

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
    fn of(status: &BucketStatus) -> Option<Self> {
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

struct Expiry {
    news: UpdateStream,
    raw: Arc<dyn RawBucket>,
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
    looked: Option<Instant>,
    look: Option<BoxFuture<'static, Result<BucketStatus>>>,
}

impl Expiry {
    fn new(news: UpdateStream, raw: Arc<dyn RawBucket>) -> Self {
        let config = raw.config();
        // The first reading of the clock also reports whether single records can expire.
        let rule = config.limit_markers.is_none().then_some(Rule { bucket: config.ttl, own: false });
        let (tracked, due) = (HashMap::new(), BTreeMap::new());
        Self { news, raw, rule, tracked, due, clock: None, position: Revision::ZERO, looked: None, look: None }
    }

    async fn next(&mut self) -> Option<Result<WatchUpdate>> {
        loop {
            if let Some(expired) = self.evict_sure() {
                return Some(Ok(WatchUpdate::Entry(expired, 0)));
            }
            if self.needs_look() {
                let raw = Arc::clone(&self.raw);
                self.look = Some(Box::pin(async move { raw.status(Deadline::after(LOOK)).await }));
            }
            if self.look.is_none() {
                if let Some(news) = self.news.next().now_or_never() {
                    return self.tell(news?);
                }
                if let Some(expired) = self.evict() {
                    return Some(Ok(WatchUpdate::Entry(expired, 0)));
                }
            }
            let wake = self.wake();
            tokio::select! {
                biased;
                status = async { Some(self.look.as_mut()?.await) }, if self.look.is_some() => {
                    self.look = None;
                    self.learn(status);
                }
                news = self.news.next() => return self.tell(news?),
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }

    /// Tracks an item of the watch, and returns it.
    fn tell(&mut self, news: Result<WatchUpdate>) -> Option<Result<WatchUpdate>> {
        if let Ok(news) = &news {
            self.track(news);
        }
        Some(news)
    }

    /// Tracks the records of the watch.
    fn track(&mut self, news: &WatchUpdate) {
        match news {
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
                (self.clock, self.looked, self.position) = (None, None, Revision::ZERO);
            }
            WatchUpdate::Alive(upto) => self.position = self.position.max(*upto),
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
    fn now(&self) -> Option<SystemTime> {
        let Clock { time, arrived, .. } = self.clock?;
        time.checked_add(arrived.elapsed())
    }

    /// Removes the next record that was due when the server replied, if everything up to then was delivered.
    fn evict_sure(&mut self) -> Option<RawEntry> {
        let ((due, _), _) = self.due.first_key_value()?;
        let clock = self.clock?;
        if clock.time < *due || self.position < clock.last { None } else { self.evict_next() }
    }

    /// Removes the next expired record, when the watch has no pending items. Returns `None` if no record has expired,
    /// or if the server's clock must be read first.
    fn evict(&mut self) -> Option<RawEntry> {
        let ((due, _), _) = self.due.first_key_value()?;
        if self.now()? < *due || self.looked?.elapsed() >= FRESH {
            return None;
        }
        self.evict_next()
    }

    fn evict_next(&mut self) -> Option<RawEntry> {
        let ((due, revision), key) = self.due.pop_first()?;
        self.tracked.remove(&key);
        let operation = Operation::Expired;
        Some(RawEntry { key, revision, created: due, operation, value: Bytes::new(), ttl: None, id: None })
    }

    /// Whether the server's clock must be read now.
    fn needs_look(&self) -> bool {
        self.look.is_none() && self.next_look().is_some_and(|at| at <= Instant::now())
    }

    /// When the server's clock must be read. `None` while nothing can expire.
    fn next_look(&self) -> Option<Instant> {
        if self.tracked.is_empty() {
            return None;
        }
        let (Some(looked), Some(now)) = (self.looked, self.now()) else {
            return Some(self.looked.map_or_else(Instant::now, |looked| looked + RETRY));
        };
        let refresh = looked + REFRESH;
        let Some(((due, _), _)) = self.due.first_key_value() else { return Some(refresh) };
        let due = Instant::now() + due.duration_since(now).unwrap_or_default().min(REFRESH);
        Some(refresh.min(due.max(looked + FRESH)))
    }

    /// When there is something to do although no item arrives.
    fn wake(&self) -> Option<Instant> {
        if self.look.is_some() {
            return None;
        }
        let look = self.next_look()?;
        let due = self.due.first_key_value().zip(self.now());
        let due = due.map(|(((due, _), _), now)| due.duration_since(now).unwrap_or_default().min(REFRESH));
        Some(due.map_or(look, |due| look.min(Instant::now() + due)))
    }

    /// Updates the time of the server and the settings of the bucket. Without a reply the last estimate is used.
    fn learn(&mut self, status: Option<Result<BucketStatus>>) {
        self.looked = Some(Instant::now());
        let status = match status {
            Some(Ok(status)) => status,
            Some(Err(error)) => {
                let bucket = &self.raw.config().name;
                tracing::debug!(bucket, %error, "cannot read the server's clock; expiry uses the last estimate");
                return;
            }
            None => return,
        };
        self.clock = Some(Clock { time: status.now, last: status.last_revision, arrived: Instant::now() });
        let rule = Rule::of(&status);
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
    use crate::backend::Backend;
    use crate::backend::memory::MemoryBackend;
    use crate::config::BucketConfig;

    const SECOND: Duration = Duration::from_secs(1);
    const EPOCH: SystemTime = SystemTime::UNIX_EPOCH;

    /// The expiry of a bucket whose records live for ten seconds, at this time of the server.
    async fn expiry(now: Duration) -> Expiry {
        let mut config = BucketConfig::new("b");
        config.max_bytes = Some(1 << 20);
        config.ttl = Some(10 * SECOND);
        let raw = MemoryBackend::new().create(config, Deadline::after(SECOND)).await.unwrap();
        let mut expiry = Expiry::new(stream::pending().boxed(), raw);
        expiry.says(now, |_| {}).await;
        expiry
    }

    impl Expiry {
        /// A reply of the server with this time and this expiry rule.
        async fn says(&mut self, now: Duration, also: impl FnOnce(&mut BucketStatus)) {
            let mut status = self.raw.status(Deadline::after(SECOND)).await.unwrap();
            status.now = EPOCH + now;
            also(&mut status);
            self.learn(Some(Ok(status)));
        }

        fn written(&mut self, key: &str, revision: u64, at: Duration, ttl: Option<Ttl>) {
            let entry = RawEntry {
                key: Key::new(key).unwrap(),
                revision: Revision::new(revision),
                created: EPOCH + at,
                operation: Operation::Put,
                value: Bytes::new(),
                ttl,
                id: None,
            };
            self.track(&WatchUpdate::Entry(entry, 0));
        }

        fn evicted(&mut self) -> Vec<u64> {
            std::iter::from_fn(|| self.evict()).map(|entry| entry.revision.get()).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn records_are_evicted_when_due_and_not_before() {
        let mut expiry = expiry(100 * SECOND).await;
        expiry.written("a", 1, 95 * SECOND, None);
        expiry.written("b", 2, 96 * SECOND, None);
        tokio::time::advance(5 * SECOND - Duration::from_millis(1)).await;
        assert_eq!(expiry.evicted(), [0; 0]);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(expiry.evicted(), [1]);
        tokio::time::advance(SECOND).await;
        assert_eq!(expiry.evicted(), [2]);
        assert!(expiry.tracked.is_empty() && expiry.due.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_revision_or_a_removal_replaces_the_due_time() {
        let mut expiry = expiry(100 * SECOND).await;
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
            id: None,
        };
        expiry.track(&WatchUpdate::Entry(removed, 0));
        tokio::time::advance(9 * SECOND - Duration::from_millis(1)).await;
        assert_eq!(expiry.evicted(), [0; 0]);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(expiry.evicted(), [3]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_of_the_server_is_read_again_before_an_eviction() {
        let mut expiry = expiry(100 * SECOND).await;
        expiry.written("a", 1, 95 * SECOND, None);
        assert!(!expiry.needs_look());
        expiry.written("b", 2, 102 * SECOND, None);
        tokio::time::advance(12 * SECOND).await;
        assert_eq!(expiry.evicted(), [0; 0], "the estimate is too old");
        assert!(expiry.needs_look());
        // The server's clock was set back.
        expiry.says(104 * SECOND, |_| {}).await;
        assert_eq!(expiry.evicted(), [0; 0]);
        tokio::time::advance(SECOND).await;
        assert_eq!(expiry.evicted(), [1]);
        // Without a reply the estimate is used.
        tokio::time::advance(20 * SECOND).await;
        expiry.learn(Some(Err(crate::error::Error::unavailable("no answer"))));
        assert_eq!(expiry.evicted(), [2]);
    }

    /// In a watch that always has pending items, an eviction does not wait for a pause.
    #[tokio::test(start_paused = true)]
    async fn record_is_evicted_between_news_once_all_before_its_due_time_was_told() {
        let mut expiry = expiry(100 * SECOND).await;
        expiry.written("a", 1, 95 * SECOND, None);
        expiry.written("b", 2, 96 * SECOND, None);
        expiry.says(106 * SECOND, |status| status.last_revision = Revision::new(4)).await;
        expiry.written("c", 3, 103 * SECOND, None);
        assert!(expiry.evict_sure().is_none(), "a later revision of the record may come");
        expiry.written("b", 4, 104 * SECOND, None);
        assert_eq!(expiry.evict_sure().map(|entry| entry.revision.get()), Some(1));
        assert!(expiry.evict_sure().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn own_times_to_live_count_where_they_take_effect() {
        let mut expiry = expiry(100 * SECOND).await;
        expiry.says(100 * SECOND, |status| status.entry_ttl = true).await;
        expiry.written("short", 1, 100 * SECOND, Ttl::new(3 * SECOND));
        expiry.written("long", 2, 100 * SECOND, Ttl::new(99 * SECOND));
        expiry.written("never", 3, 100 * SECOND, Some(Ttl::NEVER));
        tokio::time::advance(3 * SECOND).await;
        assert_eq!(expiry.evicted(), [1]);
        tokio::time::advance(6 * SECOND).await;
        assert_eq!(expiry.evicted(), [0; 0]);
        tokio::time::advance(SECOND).await;
        expiry.says(110 * SECOND, |status| status.entry_ttl = true).await;
        assert_eq!(expiry.evicted(), [2], "the TTL of the bucket bounds it");
        tokio::time::advance(3600 * SECOND).await;
        expiry.says(3710 * SECOND, |status| status.entry_ttl = true).await;
        assert_eq!(expiry.evicted(), [0; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn changed_settings_change_the_due_times() {
        let mut expiry = expiry(100 * SECOND).await;
        expiry.written("a", 1, 99 * SECOND, None);
        expiry.says(100 * SECOND, |status| status.config.ttl = Some(SECOND)).await;
        assert_eq!(expiry.evicted(), [1]);
        expiry.written("b", 2, 99 * SECOND, None);
        expiry.says(200 * SECOND, |status| status.config.limit_markers = Some(SECOND)).await;
        assert_eq!(expiry.evicted(), [0; 0], "the server announces it");
        assert_eq!(expiry.wake(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_resync_clears_the_tracked_records() {
        let mut expiry = expiry(100 * SECOND).await;
        expiry.written("a", 1, 80 * SECOND, None);
        expiry.track(&WatchUpdate::Resync);
        assert_eq!(expiry.evicted(), [0; 0]);
        assert!(expiry.next_look().is_none());
    }
}
