//! A session store for `tower-sessions` 0.15.
//!
//! ```
//! # use kvtyped::prelude::*;
//! use kvtyped::integrations::tower_sessions_0_15::{KvStore, SessionRecord};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), kvtyped::Error> {
//! # let store = Store::memory();
//! let bucket: Bucket<SessionRecord> = store.bucket().await?;
//! let sessions = KvStore::new(bucket);
//! // let layer = SessionManagerLayer::new(sessions).with_always_save(true);
//! # let _ = sessions;
//! # Ok(())
//! # }
//! ```
//!
//! * **A request keeps the changes of concurrent requests of its session.** A save merges by key: it changes only the
//!   keys that its request changed. If two requests changed the same key, the later save wins, and so does its time of
//!   expiry. [`OnConflict`] selects another reaction.
//! * **A logout is final.** A save never creates a session, so a slow request does not restore a deleted one.
//! * **Sessions expire on the server**, by the TTL of their record. There is no cleanup task.
//! * **The session id is not stored.** The key is a digest of the id. Errors, logs and backups do not reveal it.
//!
//! # Costs
//!
//! A load is one read from the leader, so that a login is visible on every instance at once. A save without contention
//! is one write. A conflicting save needs one more read and one more write.
//!
//! A loaded session contains the key [`LOADED`] with a copy of its data, which the merge needs. The memory for the data
//! of a request doubles. `Session::get_value` and `Session::is_empty` see this key, and the store never writes it.
//! `Session::clear` removes it: the next save then replaces all data.
//!
//! # Sliding expiry
//!
//! `Expiry::OnInactivity` is extended by saves only. To extend it by reads too, set `with_always_save(true)` on the
//! layer. Each request then costs one write.
//!
//! # Requirements
//!
//! The TTL of a single record needs nats-server 2.11. On an older server, opening the bucket returns `Unsupported`.
//! `CachingSessionStore` of `tower-sessions` does not see the saves and logouts of other processes: use
//! [`KvStore::cached`].

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Read};
use serde_json::Value;
use time::OffsetDateTime;
use tower_sessions_core::session::{Id, Record};
use tower_sessions_core::session_store::{self, SessionStore};

use super::digest::digest;

/// The key in the data of a loaded session that contains the data and the revision of the record.
pub const LOADED: &str = "=kvtyped";

/// The life of the delete marker of a session.
const MARKER_TTL: Duration = Duration::from_secs(60);

/// The longest TTL of a session.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The number of ids that `create` tries. A collision of two random ids of 128 bits practically does not occur.
const IDS: usize = 8;

/// A session in its bucket, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "tower_sessions", key = "{id}", history = 1, limit_markers = "60s")]
pub struct SessionRecord {
    /// The digest of the session id.
    pub id: String,
    /// The data of the session.
    pub data: HashMap<String, Value>,
    /// The time of expiry: seconds since 1970, and nanoseconds.
    pub expires: (i64, u32),
}

impl SessionRecord {
    /// Returns the key of the session with this id.
    ///
    /// ```
    /// use kvtyped::integrations::tower_sessions_0_15::SessionRecord;
    /// use tower_sessions_core::session::Id;
    ///
    /// assert_eq!(SessionRecord::key_of(&Id(7)).to_string(), "76108f84396dc2d72ce275fdb0e0ef37");
    /// ```
    pub fn key_of(id: &Id) -> SessionRecordKey {
        SessionRecordKey::new(digest(&id.0.to_le_bytes()))
    }

    fn expiry_date(&self) -> Option<OffsetDateTime> {
        let (seconds, nanoseconds) = self.expires;
        let date = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
        date.replace_nanosecond(nanoseconds).ok()
    }
}

/// The reaction of a save to a session that another request changed since the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnConflict {
    /// Changes only the keys that this request changed, and keeps the other changes.
    #[default]
    Merge,
    /// Replaces the session by the data of this request.
    Overwrite,
    /// Fails the save, and keeps the session.
    Fail,
}

/// A session store over a bucket; see the [module](self). Cheap to clone.
#[derive(Clone)]
pub struct KvStore {
    bucket: Bucket<SessionRecord>,
    cache: Option<Cache<SessionRecord>>,
    on_conflict: OnConflict,
}

impl KvStore {
    /// Creates a store of the sessions in this bucket. [`Store::bucket`] opens the bucket, and sets its name and its
    /// replicas.
    pub fn new(bucket: Bucket<SessionRecord>) -> Self {
        Self { bucket, cache: None, on_conflict: OnConflict::default() }
    }

    /// Sets the reaction to a conflict. The default is [`OnConflict::Merge`].
    pub fn on_conflict(mut self, reaction: OnConflict) -> Self {
        self.on_conflict = reaction;
        self
    }

    /// Answers loads from a cache of the bucket. A session that is not cached is read from the leader.
    ///
    /// A load may then return a session as it was some milliseconds ago, or longer during a lost connection. A save
    /// stays exact, because it expects the revision of its load.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # use kvtyped::integrations::tower_sessions_0_15::{KvStore, SessionRecord};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let bucket: Bucket<SessionRecord> = Store::memory().bucket().await?;
    /// let cache = bucket.cache(..).await?;
    /// let sessions = KvStore::new(bucket.clone()).cached(cache.clone());
    ///
    /// // The cache also finds all sessions of a user, for example to log the user out everywhere.
    /// let by_user = cache.index_by(|session| session.data.get("user").map(ToString::to_string));
    /// for session in by_user.get(&Some("\"ada\"".to_owned())) {
    ///     bucket.purge(session.key()).ttl(Duration::from_secs(60)).await?;
    /// }
    /// # let _ = sessions;
    /// # Ok(())
    /// # }
    /// ```
    pub fn cached(mut self, cache: Cache<SessionRecord>) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Returns the bucket of the sessions.
    pub fn bucket(&self) -> &Bucket<SessionRecord> {
        &self.bucket
    }

    async fn read(&self, key: &SessionRecordKey) -> Result<Option<Entry<SessionRecord>>, Error> {
        match self.cache.as_ref().and_then(|cache| cache.get(key)) {
            Some(cached) => Ok(Some(Entry::clone(&cached))),
            None => self.bucket.get(key).read(Read::Leader).await,
        }
    }

    /// Writes a session that was not loaded, or that changed since its load.
    async fn save_over(&self, change: &Changed, ttl: Duration) -> Result<(), Error> {
        let key = change.new.key();
        let save = self.bucket.transform(&key, |current| match current {
            // Another request logged out.
            None => Change::Keep,
            Some(stored) => Change::Put(match self.on_conflict {
                OnConflict::Overwrite => change.new.clone(),
                OnConflict::Merge | OnConflict::Fail => change.merged(stored),
            }),
        });
        save.ttl(ttl).await.map(drop)
    }
}

#[async_trait]
impl SessionStore for KvStore {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        record.data.remove(LOADED);
        let Some(ttl) = remaining(record.expiry_date) else { return Ok(()) };
        let mut attempts = 0;
        loop {
            let new = stored(record);
            attempts += 1;
            match self.bucket.create(&new).ttl(ttl).await {
                Ok(revision) => {
                    record.data.insert(LOADED.to_owned(), loaded(&new, revision));
                    return Ok(());
                }
                Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists) && attempts < IDS => {
                    record.id = Id::default();
                }
                Err(error) => return Err(store_error(&error)),
            }
        }
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let Some(ttl) = remaining(record.expiry_date) else { return self.delete(&record.id).await };
        let change = Changed { new: stored(record), old: record.data.get(LOADED).and_then(Loaded::read) };
        let Some(old) = &change.old else {
            return self.save_over(&change, ttl).await.map_err(|error| store_error(&error));
        };
        let saved = match self.bucket.update(&change.new, Revision::new(old.revision)).ttl(ttl).await {
            Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => match self.on_conflict {
                OnConflict::Fail => Err(error),
                OnConflict::Merge | OnConflict::Overwrite => self.save_over(&change, ttl).await,
            },
            saved => saved.map(drop),
        };
        saved.map_err(|error| store_error(&error))
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let found = self.read(&SessionRecord::key_of(id)).await.map_err(|error| store_error(&error))?;
        let Some(entry) = found else { return Ok(None) };
        let Some(expiry_date) = entry.expiry_date() else {
            return Err(session_store::Error::Decode("the time of expiry of a session is out of range".to_owned()));
        };
        if remaining(expiry_date).is_none() {
            return Ok(None);
        }
        let loaded = loaded(&entry, entry.revision());
        let mut data = entry.into_value().data;
        data.insert(LOADED.to_owned(), loaded);
        Ok(Some(Record { id: *id, data, expiry_date }))
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        let key = SessionRecord::key_of(id);
        self.bucket.purge(&key).ttl(MARKER_TTL).await.map(drop).map_err(|error| store_error(&error))
    }
}

impl fmt::Debug for KvStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvStore")
            .field("bucket", &self.bucket)
            .field("is_cached", &self.cache.is_some())
            .field("on_conflict", &self.on_conflict)
            .finish()
    }
}

/// A session as it was loaded. It is part of the data of the loaded session.
#[derive(Serialize, Deserialize)]
struct Loaded {
    revision: u64,
    data: HashMap<String, Value>,
}

impl Loaded {
    fn read(value: &Value) -> Option<Self> {
        Self::deserialize(value).ok()
    }
}

/// A session of a request: as it was loaded, and as it is now.
struct Changed {
    old: Option<Loaded>,
    new: SessionRecord,
}

impl Changed {
    /// Applies the changes of the request to the stored session. Without the loaded session, all data is a change.
    fn merged(&self, stored: SessionRecord) -> SessionRecord {
        let Self { old: Some(old), new } = self else { return self.new.clone() };
        // The TTL of the write is that of this request, so the time of expiry is too.
        let mut merged = SessionRecord { expires: new.expires, ..stored };
        for (key, value) in &new.data {
            if old.data.get(key) != Some(value) {
                merged.data.insert(key.clone(), value.clone());
            }
        }
        for key in old.data.keys().filter(|key| !new.data.contains_key(*key)) {
            merged.data.remove(key);
        }
        merged
    }
}

/// Returns the record to store for a session.
fn stored(session: &Record) -> SessionRecord {
    let data = session.data.iter().filter(|(key, _)| *key != LOADED);
    SessionRecord {
        id: digest(&session.id.0.to_le_bytes()),
        data: data.map(|(key, value)| (key.clone(), value.clone())).collect(),
        expires: (session.expiry_date.unix_timestamp(), session.expiry_date.nanosecond()),
    }
}

/// Returns the value of [`LOADED`].
fn loaded(record: &SessionRecord, revision: Revision) -> Value {
    serde_json::json!({ "revision": revision.get(), "data": record.data })
}

/// Returns the time until a session expires, or `None` if it has expired.
fn remaining(expiry: OffsetDateTime) -> Option<Duration> {
    let left = Duration::try_from(expiry - OffsetDateTime::now_utc()).ok()?;
    // A TTL has at least one second and at most a century. `load` ends a shorter session in time.
    (!left.is_zero()).then(|| left.clamp(Duration::from_secs(1), CENTURY))
}

/// Returns the error for `tower-sessions`, which takes a text.
fn store_error(error: &Error) -> session_store::Error {
    let text = error.report();
    match error.kind() {
        ErrorKind::Encode { .. } => session_store::Error::Encode(text),
        ErrorKind::Decode { .. } => session_store::Error::Decode(text),
        _ => session_store::Error::Backend(text),
    }
}
