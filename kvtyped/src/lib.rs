//! Typed key-value buckets over NATS JetStream KV.
//!
//! Model configuration and sessions as structs; the derive makes their keys, filters and settings; a typed
//! [`Bucket`] reads and writes them, with optimistic concurrency that tells the truth. The same program runs in this
//! process's memory and on a NATS server or cluster: only the URL differs.
//!
//! # A tour
//!
//! A **model** is a struct with `#[derive(KvModel)]`. It says where its records live and what their key is made of; what
//! else it can say is in [the derive's documentation](derive@KvModel).
//!
//! ```
//! use kvtyped::prelude::*;
//!
//! #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
//! #[kv(bucket = "sessions", key = "{tenant}.{id}", codec = MsgPack, history = 1, ttl = "30m")]
//! pub struct Session {
//!     pub tenant: String,
//!     pub id: u64,
//!     pub user: String,
//!     pub visits: u32,
//! }
//!
//! // The derive wrote `SessionKey` and `SessionFilter`. Any text is legal in a key: it is escaped, and can neither leave
//! // its segment nor act as a wildcard.
//! assert_eq!(SessionKey::new("acme", 7).to_string(), "acme.7");
//! assert_eq!(SessionKey::new("a.*", 7).to_string(), "a=2E=2A.7");
//! ```
//!
//! A **store** holds buckets, and a **bucket** holds the records of one model. Every verb is a builder that is awaited:
//! plainly, or with options. Where a plain future is needed, for `join_all` or `tokio::spawn`, `into_future()` makes one.
//!
//! ```
//! # use kvtyped::prelude::*;
//! # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
//! # #[kv(bucket = "sessions", key = "{tenant}.{id}", codec = MsgPack, history = 1, ttl = "30m")]
//! # pub struct Session { pub tenant: String, pub id: u64, pub user: String, pub visits: u32 }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), kvtyped::Error> {
//! let store = Store::memory(); // or Store::connect("nats://127.0.0.1:4222").await?
//! let sessions: Bucket<Session> = store.bucket().await?;
//!
//! let ada = Session { tenant: "acme".into(), id: 7, user: "ada".into(), visits: 1 };
//! let revision = sessions.create(&ada).ttl(Duration::from_secs(600)).await?;
//! let entry = sessions.get(&ada.key()).await?.expect("just created");
//! assert_eq!((entry.user.as_str(), entry.revision()), ("ada", revision));
//! # Ok(())
//! # }
//! ```
//!
//! **Changing** a record that others change too takes a closure. It runs on the newest record, again if another writer
//! came between; [`update`](Bucket::update) by revision is there for those who want to decide themselves.
//!
//! ```
//! # use kvtyped::prelude::*;
//! # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
//! # #[kv(key = "{tenant}.{id}")]
//! # pub struct Session { pub tenant: String, pub id: u64, pub user: String, pub visits: u32 }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), kvtyped::Error> {
//! # let sessions: Bucket<Session> = Store::memory().bucket().await?;
//! # let ada = Session { tenant: "acme".into(), id: 7, user: "ada".into(), visits: 1 };
//! let read = sessions.put(&ada).await?;
//! sessions.modify(&ada.key(), |session| session.visits += 1).await?;
//!
//! let error = sessions.update(&ada, read).await.unwrap_err();
//! assert!(error.is_conflict());
//! assert_eq!(error.outcome(), Outcome::NotApplied);
//! # Ok(())
//! # }
//! ```
//!
//! **Looking around**: lists and keys by a typed filter, of any length, in pages if wanted ([`List::limit`],
//! [`List::after`]); many records by their keys in few round trips ([`get_many`](ReadBucket::get_many)); the history of a
//! key, the status of the bucket.
//!
//! ```
//! # use kvtyped::prelude::*;
//! # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
//! # #[kv(key = "{tenant}.{id}")]
//! # pub struct Session { pub tenant: String, pub id: u64, pub user: String, pub visits: u32 }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), kvtyped::Error> {
//! # let sessions: Bucket<Session> = Store::memory().bucket().await?;
//! # sessions.put(&Session { tenant: "acme".into(), id: 7, user: "ada".into(), visits: 1 }).await?;
//! let acme: Vec<Entry<Session>> = sessions.list(SessionKey::filter().tenant("acme")).await?.try_collect().await?;
//! assert_eq!(acme[0].user, "ada");
//! assert_eq!(sessions.status().await?.values, 1);
//! # Ok(())
//! # }
//! ```
//!
//! **Watching**: a stream of typed events that goes on over restarts and lost connections; a local copy that it keeps; one
//! value that is always at hand.
//!
//! ```
//! # use kvtyped::prelude::*;
//! # #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KvModel)]
//! # #[kv(key = "app")]
//! # struct AppConfig { limit: u32 }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), kvtyped::Error> {
//! # let configs: Bucket<AppConfig> = Store::memory().bucket().await?;
//! let config: Live<AppConfig> = configs.live(&AppConfigKey).or_default().await?;
//! let cache: Cache<AppConfig> = configs.cache(..).await?;
//!
//! let revision = configs.put(&AppConfig { limit: 10 }).await?;
//! cache.wait_for_revision(revision).await?;
//! assert_eq!(cache.get(&AppConfigKey).expect("cached").limit, 10);
//! assert_eq!(config.changed().await?.limit, 10);
//! # Ok(())
//! # }
//! ```
//!
//! **Several records at once**: all or nothing, of any models that share a bucket; and by a closure that runs again until
//! what it read is what is there. (On a server it needs nats-server 2.12.1.)
//!
//! ```
//! # use kvtyped::prelude::*;
//! # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
//! # #[kv(key = "account.{owner}")]
//! # struct Account { owner: String, balance: u64 }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), kvtyped::Error> {
//! # let accounts: Bucket<Account> = Store::memory().bucket().await?;
//! let [ada, bob] = ["ada", "bob"].map(|owner| Account { owner: owner.into(), balance: 10 });
//! accounts.transaction().create(&ada).create(&bob).commit().await?;
//!
//! let (from, to) = (&ada.key(), &bob.key());
//! accounts.transact(|tx| async move {
//!     let (mut from, mut to) = (tx.get(from).await?.expect("there"), tx.get(to).await?.expect("there"));
//!     (from.balance, to.balance) = (from.balance - 5, to.balance + 5);
//!     tx.put(&from)?;
//!     Ok(tx.put(&to)?)
//! }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! **Coordination**: locks, elections, semaphores, counters and more, each with a paragraph on what it does *not* guarantee;
//! [`recipes`] says which is for what. A lock that stands beside a record fences its writes: whoever was overtaken, however
//! long it slept, is refused by the server.
//!
//! ```
//! # use kvtyped::prelude::*;
//! # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
//! # #[kv(key = "{id}", history = 1)]
//! # struct Invoice { id: u64, sent: bool }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), kvtyped::Error> {
//! # let invoices: Bucket<Invoice> = Store::memory().bucket().await?;
//! let invoice = Invoice { id: 42, sent: true };
//! let guard = invoices.lock(&invoice.key()).wait(Duration::from_secs(30)).await?;
//! guard.run(async { /* dropped the moment the lock is lost */ }).await?;
//! invoices.put(&invoice).fenced_by(&guard).await?;
//! guard.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Should I use this?
//!
//! Yes, if several processes share configuration, sessions or other small records, you have NATS or would like to begin
//! without any server, and you want conflicts and lost acknowledgements told apart instead of guessed at.
//!
//! Records are stored as every other NATS KV client stores them, so `nats kv get` and programs in other languages read
//! what this crate writes, and the reverse.
//!
//! # What it is not
//!
//! * Not a database: no queries by value, no joins. A record is found by its key or by a filter on keys.
//! * Not linearizable when it reads. A plain read or a list of a replicated bucket may be stale; [`Read::Leader`]
//!   sees what was acknowledged, and still a leader that was cut off may answer for some seconds; [`Read::AtLeast`] is never
//!   older than the revision that it names. What decides is a write that expects a revision.
//! * Not a log: a watch tells the newest state of each record, not necessarily every state in between.
//! * Not more durable than its server: a NATS server acknowledges a write before it is synced to disk, by default up to
//!   two minutes before (`sync_interval`).
//! * Not for large values: a server takes 1 MiB by default, and reads them whole.
//!
//! # Credentials and encryption
//!
//! A user and a password, a token, an nkey or a credentials file; TLS with authorities and a certificate of one's own: in the
//! URL or on the builder, as [the table of `Store::connect`](Store::connect) says. Wrong credentials are `Unauthorized` at
//! once, what a server denies is `PermissionDenied` within half a second; [`permissions`] has the smallest sets of them, to
//! copy. No credential is in a log, an error or a `Debug` of this crate, and no value in its logs and errors; what holds a
//! record shows it in its `Debug` if the record's own does.
//!
//! # Runtime
//!
//! It runs on tokio: await it within a runtime that has time enabled, and I/O for a server. Caches, live values, locks and
//! what else goes on by itself are tasks of that runtime, and end with it.
//!
//! # Features
//!
//! | feature | default | what |
//! |---|---|---|
//! | `nats` | yes | the NATS backend; without it the crate works in memory |
//! | `nkeys` | no | signing in with an nkey or a credentials file (a JSON Web Token) |
//! | `uuid` | no | `Uuid` as a segment of a key |
//! | `conformance` | no | [the contract of backends](backend#contract) as a test suite |
#![cfg_attr(docsrs, feature(doc_cfg))]

// What generated code calls `::kvtyped` is this crate, also in its own documentation.
extern crate self as kvtyped;

pub mod prelude;
mod store;
// In reading order, from the top of the house to its ground.
pub mod recipes;
mod txn;
mod watch;
mod bucket;
pub mod model;
pub mod backend;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
pub mod codec;
pub mod config;
pub mod key;
mod revision;
mod ttl;
mod chance;
mod closing;

#[doc = include_str!("../docs/performance.md")]
#[doc = include_str!("../docs/performance-plot.svg")]
#[doc = include_str!("../docs/performance-table.md")]
pub mod performance {}

#[doc = include_str!("../docs/permissions.md")]
#[cfg(feature = "nats")]
pub mod permissions {}

#[doc = include_str!("../docs/guarantees.md")]
#[doc = include_str!("../docs/guarantees-table.md")]
#[doc = include_str!("../docs/guarantees-limits.md")]
#[cfg(feature = "nats")]
pub mod guarantees {}

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;

#[cfg(feature = "nats")]
pub use async_nats;

#[cfg(feature = "nats")]
pub use crate::backend::nats::NatsOptions;
pub use crate::backend::{BucketStatus, Read};
pub use crate::bucket::{
    Bucket, Change, Compact, Compacted, Count, Create, Cursor, Delete, DeleteMany, Entries, Entry, Get, GetEach,
    GetMany, History, Keys, KeysStream, List, Modify, ModifyError, OpenBucket, OpenReadBucket, Progress, Purge, Put,
    PutMany, ReadBucket, Removed, Touch, Transform, TryModify, Update, Version, WriteEach, Written,
};
pub use crate::config::{BucketConfig, Difference, Drift, LimitMarkers, Placement, Republish, Source, Storage};
pub use crate::error::{Error, ErrorKind, Outcome, Result};
pub use crate::key::{Key, KeySegment};
pub use crate::model::{Filter, KvModel, SingleRevision};
pub use crate::recipes::{
    Acquire, Campaign, Counters, Decision, Departure, Election, Fence, Group, GroupEvent, GroupEvents, GroupView,
    Holder, Ids, Join, Leader, Leaders, Leadership, Lease, Lock, LockGuard, Locks, Member, MemberInfo, Once,
    OpenCounters, OpenIds, OpenLocks, OpenRateLimiter, Permit, Quota, RateLimiter, Run, RunError, RunOutput, Semaphore,
    TryAcquire, TryLock, UntilReady,
};
pub use crate::revision::Revision;
pub use crate::store::{Connect, Store};
pub use crate::ttl::Ttl;
pub use crate::txn::{Abort, Committed, Transact, TransactError, Transaction, Tx};
pub use crate::watch::{
    Cache, CacheChange, CacheChanges, Event, Events, Index, Live, OpenCache, OpenLive, WaitFor, Watch,
};
pub use kvtyped_derive::{KeySegment, KvModel};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
