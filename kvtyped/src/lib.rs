//! Typed key-value buckets over NATS JetStream KV.
//!
//! A model is a struct, for example a configuration or a session. The derive macro generates its keys, filters and
//! settings. A typed [`Bucket`] reads and writes records with optimistic concurrency: conflicts are reported exactly,
//! and an unknown outcome is never reported as success or failure. The same program runs in memory and on a NATS server
//! or cluster. Only the URL differs.
//!
//! # A tour
//!
//! A **model** is a struct with `#[derive(KvModel)]`. Its attribute defines the bucket of the records and the template
//! of their keys. [The documentation of the derive](derive@KvModel) lists all settings.
//!
//! ```
//! use kvtyped::prelude::*;
//!
//! #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
//! #[kv(
//!     bucket = "sessions",
//!     key = "{tenant}.{id}",
//!     codec = MsgPack,
//!     history = 1,
//!     ttl = "30m"
//! )]
//! pub struct Session {
//!     pub tenant: String,
//!     pub id: u64,
//!     pub user: String,
//!     pub visits: u32,
//! }
//!
//! // The derive generates `SessionKey` and `SessionFilter`. A key accepts any text. Escaping
//! // keeps the text within its segment, and it never acts as a wildcard.
//! assert_eq!(SessionKey::new("acme", 7).to_string(), "acme.7");
//! assert_eq!(SessionKey::new("a.*", 7).to_string(), "a=2E=2A.7");
//! ```
//!
//! A **store** holds buckets, and a **bucket** holds the records of one model. Most operations are builders that you
//! await, with or without options. `into_future()` turns a builder into a plain future, for example for `join_all`. In a
//! spawned task, await the builder inside of an `async move` block that owns the handle and the arguments.
//!
//! ```
//! # use kvtyped::prelude::*;
//! # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
//! # #[kv(
//! #     bucket = "sessions", key = "{tenant}.{id}", codec = MsgPack, history = 1, ttl = "30m"
//! # )]
//! # pub struct Session {
//! #     pub tenant: String, pub id: u64, pub user: String, pub visits: u32,
//! # }
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
//! **Changing** a record that other writers may also change takes a closure. The closure runs on the newest record, and
//! runs again if another writer changed the record first. [`update`](Bucket::update) writes only if the record still
//! has a given revision, and leaves the reaction to a conflict to the caller.
//!
//! ```
//! # use kvtyped::prelude::*;
//! # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
//! # #[kv(key = "{tenant}.{id}")]
//! # pub struct Session {
//! #     pub tenant: String, pub id: u64, pub user: String, pub visits: u32,
//! # }
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
//! | operation | the record exists | the record is missing | returns |
//! |---|---|---|---|
//! | [`put`](Bucket::put) | replaces it | writes it | [`Revision`] |
//! | [`create`](Bucket::create) | `AlreadyExists` | writes it | [`Revision`] |
//! | [`update`](Bucket::update) | replaces it at the given revision, else `Conflict` | `Conflict` | [`Revision`] |
//! | [`modify`](Bucket::modify) | applies the closure | `NotFound` (see `or_insert_with`) | [`Entry`] |
//! | [`transform`](Bucket::transform) | the closure decides | the closure decides | `Option` of [`Entry`] |
//!
//! After an error, [`Error::outcome`] shows whether a repetition is safe. `NotApplied`: nothing was written, and nothing
//! will be. `Unknown`: the write may have been applied, because its acknowledgement was lost and the stored entries do
//! not show the outcome. Read the record, or repeat the write if it is idempotent.
//!
//! **Reading** more than one record: lists and keys by a typed filter, of any length and optionally in pages
//! ([`List::limit`](bucket::List::limit), [`List::after`](bucket::List::after)); many records by their keys in few round trips
//! ([`get_many`](ReadBucket::get_many)); the history of a key; the status of the bucket.
//!
//! ```
//! # use kvtyped::prelude::*;
//! # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
//! # #[kv(key = "{tenant}.{id}")]
//! # pub struct Session {
//! #     pub tenant: String, pub id: u64, pub user: String, pub visits: u32,
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), kvtyped::Error> {
//! # let sessions: Bucket<Session> = Store::memory().bucket().await?;
//! # let ada = Session { tenant: "acme".into(), id: 7, user: "ada".into(), visits: 1 };
//! # sessions.put(&ada).await?;
//! let filter = SessionKey::filter().tenant("acme");
//! let acme: Vec<Entry<Session>> = sessions.list(filter).await?.try_collect().await?;
//! assert_eq!(acme[0].user, "ada");
//! assert_eq!(sessions.status().await?.values, 1);
//! # Ok(())
//! # }
//! ```
//!
//! **Watching**: a stream of typed events that resumes after restarts and lost connections; a local cache of records; a
//! live value of one key.
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
//! **Several records at once**: a transaction writes records of any models that share a bucket, all or none. The
//! closure of `transact` runs again until the records that it read are still current when it commits. On a server,
//! transactions need nats-server 2.12.1.
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
//!     let mut from = tx.get(from).await?.expect("there");
//!     let mut to = tx.get(to).await?.expect("there");
//!     from.balance -= 5;
//!     to.balance += 5;
//!     tx.put(&from)?;
//!     Ok(tx.put(&to)?)
//! }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! **Coordination**: locks, elections, semaphores, counters and more. The docs of each recipe state its limits, and
//! [`recipes`] helps to choose one. The lock of a record fences writes to it: the server refuses a write with
//! `.fenced_by(&guard)` once another holder has taken the lock, however long the former holder was suspended.
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
//! # Terms and defaults
//!
//! * A **revision** is the number of a write in its bucket. It never repeats.
//! * A **delete marker** is the entry that a removal leaves, so that watches learn of it. A **limit marker** is the same
//!   for a record that expired.
//! * **Drift** is a difference between the settings of a model and an existing bucket.
//! * A **lease** is a lock, a leadership or a similar record with a TTL that its holder renews. A **fence** is the number
//!   of a lease; the server compares it, so that a former holder cannot write.
//! * A **recipe** is a coordination primitive over a bucket: lock, election, semaphore, group and others.
//!
//! Opening a bucket creates it, unless [`must_exist`](bucket::OpenBucket::must_exist) is set. A new bucket has one revision of each
//! key, file storage and **one replica**, also on a cluster, if the model sets nothing else. Its name is the name of the
//! struct in `snake_case`. Operations time out after 10 s. A TTL of a single record needs a bucket with one revision of
//! each key.
//!
//! # Should I use this?
//!
//! Yes, if several processes share configuration, sessions or other small records, and you use NATS or want to start
//! without a server. Conflicts and lost acknowledgements are separate errors, so a program does not have to guess.
//!
//! Records are stored in the format of every other NATS KV client. `nats kv get` and programs in other languages read
//! the records of this crate, and this crate reads theirs. [`comparison`] compares this crate with Redis, etcd and SQL
//! databases, and [`migrating`] translates their calls.
//!
//! # What it is not
//!
//! * Not a database: no query language, no joins. A record is found by its key, by a filter on keys, or by a declared
//!   [index](finding_records).
//! * Reads are not linearizable. A plain read or a list of a replicated bucket may be stale. [`Read::Leader`] sees
//!   every acknowledged write, but a leader that was cut off may answer for some seconds more. [`Read::AtLeast`] is
//!   never older than the given revision. To base a decision on a record, write it with its expected revision.
//! * Not a log: a watch yields the newest state of each record, and may skip states in between.
//! * Not more durable than its server: a NATS server acknowledges a write before it is synced to disk, by default up to
//!   two minutes before (`sync_interval`).
//! * Not for large values: a server accepts 1 MiB by default, and a value is always read whole.
//!
//! # Credentials and encryption
//!
//! A store authenticates with a user and a password, a token, an nkey or a credentials file. TLS supports custom CA
//! certificates and a client certificate. Set them in the URL or on the builder: see [the table of
//! `Store::connect`](Store::connect). Wrong credentials return `Unauthorized` at once. On a connection of
//! [`Store::connect`], an operation that the server denies returns `PermissionDenied` within half a second.
//! [`permissions`] lists the smallest sets of permissions, ready to copy. Logs, errors and `Debug` output of this crate
//! contain no credentials, and its logs and errors contain no values. The `Debug` output of a type that holds a record
//! contains the `Debug` output of the record.
//!
//! # In production
//!
//! The page [`operating`] has the details, and [`cookbook`] has recipes for common tasks.
//!
//! * **Health**: [`Store::health`] and [`ReadBucket::health`] show whether a process is ready for requests.
//!   [`Store::connection`] is a channel of the state of the connection.
//! * **Outages**: with [`fail_fast_after`](connect::Connect::fail_fast_after), operations fail at once during an outage.
//! * **Shutdown**: [`Store::shutdown`] releases every lock of the process, so that the next process gets them at once.
//! * **Tracing and metrics**: [`observe`] describes the spans of operations, and the observer that metrics need.
//! * **Secret keys**: a model with `#[kv(sensitive_key)]` has a hash in place of the key in all messages.
//!
//! ```
//! # use kvtyped::prelude::*;
//! # async fn serve() {}
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), kvtyped::Error> {
//! # let url = "memory:";
//! let store = Store::connect(url).fail_fast_after(Duration::from_secs(1)).await?;
//! assert!(store.health().await?.is_healthy());
//! serve().await; // until the process is asked to end
//! store.shutdown(Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Runtime
//!
//! The crate runs on tokio. The runtime needs the time driver, and the I/O driver for a server. Caches, live values,
//! locks and other background work are tasks of this runtime, and end with it.
//!
//! # Features
//!
//! | feature | default | what |
//! |---|---|---|
//! | `nats` | yes | the NATS backend; without it the crate works in memory |
//! | `nkeys` | no | authentication with an nkey or a credentials file (a JSON Web Token) |
//! | `file` | no | durable storage in a file of this machine (`file:` URLs), with SQLite |
//! | `uuid` | no | `Uuid` as a segment of a key |
//! | `schemars` | no | [schemas](schema) of types with `JsonSchema`, also for tagged enums, and a codec that stores them |
//! | `metrics-0_24` | no | [an observer](observe::MetricsObserver) for the crate `metrics` 0.24 |
//! | `conformance` | no | [the contract of backends](backend#contract) as a test suite |
//! | `tower-sessions-0_15` | no | a session store for `tower-sessions` |
//! | `tower` | no | a rate limit layer for tower services |
//! | `axum-0_8` | no | errors, `ETag` and `If-Match` for axum |
//! | `secrecy-0_10` | no | secret strings in records and credentials |
#![cfg_attr(docsrs, feature(doc_cfg))]

// Generated code names this crate `::kvtyped`. The alias makes that path valid inside the crate too.
extern crate self as kvtyped;

// From the top layer to the bottom layer. The lists of modules inside folders are in the opposite order. The store comes
// first, because rustdoc lists its methods in the order of the modules.
pub mod prelude;
pub mod stream;
mod store;
#[cfg(any(feature = "tower-sessions-0_15", feature = "tower", feature = "axum-0_8", feature = "secrecy-0_10"))]
pub mod integrations;
pub mod connect;
pub mod maintenance;
pub mod recipes;
pub mod index;
pub mod txn;
pub mod watch;
pub mod bucket;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod backend;
pub mod model;
mod context;
pub mod observe;
mod shutdown;
mod host;
mod error;
pub mod codec;
pub mod schema;
pub mod config;
pub mod key;
mod revision;
mod ttl;
mod jitter;

#[doc = include_str!("../docs/performance.md")]
#[doc = include_str!("../docs/performance-plot.svg")]
#[doc = include_str!("../docs/performance-costs.md")]
#[doc = include_str!("../docs/performance-table.md")]
pub mod performance {}

#[doc = include_str!("../docs/cookbook.md")]
#[doc = include_str!("../docs/cookbook-coordination.md")]
#[cfg_attr(
    all(feature = "axum-0_8", feature = "tower", feature = "tower-sessions-0_15"),
    doc = include_str!("../docs/cookbook-web.md")
)]
#[doc(alias("cron", "etag", "feature flags", "idempotency key", "job queue", "multi-tenant", "pagination"))]
#[doc(alias("presence", "rate limiting", "secondary index", "service discovery", "session"))]
#[doc(alias("tombstone", "unique", "upsert"))]
pub mod cookbook {}

#[doc = include_str!("../docs/migrating.md")]
#[doc(alias("etcd", "redis"))]
pub mod migrating {}

#[doc = include_str!("../docs/comparison.md")]
pub mod comparison {}

#[doc = include_str!("../docs/operating.md")]
#[doc(alias("backup", "health check", "limits", "metrics", "opentelemetry", "prometheus", "readiness"))]
#[doc(alias("restore", "shutdown", "sigterm", "tracing", "upgrade"))]
pub mod operating {}

#[doc = include_str!("../docs/changing-a-model.md")]
#[cfg(feature = "nats")]
pub mod changing_a_model {}

#[doc = include_str!("../docs/finding-records.md")]
pub mod finding_records {}

#[doc = include_str!("../docs/permissions.md")]
#[cfg(feature = "nats")]
pub mod permissions {}

#[doc = include_str!("../docs/durability.md")]
#[cfg(feature = "file")]
pub mod durability {}

#[doc = include_str!("../docs/guarantees.md")]
#[doc = include_str!("../docs/guarantees-table.md")]
#[doc = include_str!("../docs/guarantees-file-table.md")]
#[doc = include_str!("../docs/guarantees-limits.md")]
#[cfg(feature = "nats")]
pub mod guarantees {}

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;

#[cfg(feature = "nats")]
pub use async_nats;

pub use crate::backend::Read;
pub use crate::bucket::{Bucket, Change, Entry, ModifyError, ReadBucket, Removed, Version};
pub use crate::config::{Drift, Storage};
pub use crate::error::{Error, ErrorKind, Outcome, Result};
pub use crate::key::{Key, KeySegment};
pub use crate::model::{Filter, KvModel, KvVersion, RawRecord, SingleRevision, UnknownFields, golden};
pub use crate::revision::Revision;
pub use crate::store::Store;
pub use crate::ttl::Ttl;
pub use crate::watch::{Cache, Event, Live};
pub use kvtyped_derive::{KeySegment, KvModel, KvVersion};

#[cfg(all(doctest, feature = "nats"))]
#[doc = include_str!("../README.md")]
struct Readme;
