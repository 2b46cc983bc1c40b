//! Coordination of several processes through a bucket.
//!
//! # Which recipe do I need?
//!
//! | I want | use | implementation |
//! |---|---|---|
//! | to change a record that others change too, without lost updates | no recipe: [`modify`](crate::Bucket::modify) | a compare-and-set loop |
//! | to change several records, all or nothing | no recipe: [`transact`](crate::Bucket::transact) | an atomic batch |
//! | one process at a time to work on something | [`Store::locks`](crate::Store::locks) | a lease that is renewed and handed over |
//! | the same, and the server to refuse writes of a former holder | [`Bucket::lock`](crate::Bucket::lock), [`fenced_by`](crate::bucket::Put::fenced_by) | a lock and its fence next to the record |
//! | one leader, visible to all processes | [`Store::election`](crate::Store::election) | a lease that contains the leader's value |
//! | a limited number of holders at a time | [`Store::semaphore`](crate::Store::semaphore) | a numbered lease for each permit |
//! | a list of live members | [`Store::group`](crate::Store::group) | a lease for each member |
//! | work that runs once for a key, and its result | [`Store::once`](crate::Store::once) | a lease that the result replaces |
//! | a number that many processes increment | [`Store::counters`](crate::Store::counters) | a counter of the server (ADR-49), or a compare-and-set loop |
//! | unique numbers | [`Store::ids`](crate::Store::ids) | blocks that are allocated by compare-and-set |
//! | a limited number of events in a period | [`Store::rate_limiter`](crate::Store::rate_limiter) | one record for each key, timed by the server's clock |
//!
//! Two records of a bucket that change together need no lock either. A lock protects something outside of the bucket: a
//! file, a device, or a service that accepts one caller at a time.
//!
//! # Handles
//!
//! Every method of a recipe on [`Store`](crate::Store) returns a handle, and performs no I/O. The first use of the
//! handle opens the bucket, once for all clones. Awaiting the handle opens the bucket at once, so that a program finds
//! a wrong configuration when it starts. An option changes a handle and keeps its clones unchanged. Invalid options are
//! reported by the first use or by the await.
//!
//! ```
//! # use kvtyped::prelude::*;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), kvtyped::Error> {
//! # let store = Store::memory();
//! let locks = store.locks("jobs").ttl(Duration::from_secs(15)).await?; // opens the bucket
//! let guard = locks.lock("invoice-42").await?;
//! let hits = store.counters("hits"); // no I/O
//! hits.add("home", 1).await?; // opens the bucket
//! # drop(guard);
//! # Ok(())
//! # }
//! ```
//!
//! Keep a handle or its clones: each handle opens the bucket again, and shares no state with other handles of the
//! same name. If the bucket is deleted, the next use fails with `BucketNotFound`. After that, locks, elections,
//! semaphores, groups and `once` open (and create) the bucket again. Counters, ids and rate limiters do not, because
//! their records are lost: create a new handle.
//!
//! # Leases
//!
//! Everything that is *held* here is a [`Lease`]: a record with a TTL (30 s) that a task renews (every 10 s) by
//! compare-and-set. The holder counts from the moment before it sent the last renewal, by this machine's monotonic
//! clock. It gives the lease up a margin (3 s) before the server can expire the record. So the holder detects the loss
//! without a network, before another process can take the lease. If the acknowledgement of a renewal is lost, the
//! keeper asks the leader, and never assumes an outcome. The wall clocks of two machines are never compared.
//!
//! | | default | relation |
//! |---|---|---|
//! | `ttl` | 30 s | at least 1 s (ADR-43); below 15 s it may not survive the election of a new leader |
//! | `renew_every` | a third of `ttl`, or half of `ttl - safety_margin` if that is shorter | `renew_every < ttl - safety_margin` |
//! | `safety_margin` | a tenth of `ttl`, but at least 1 s and at most a third of `ttl` | `safety_margin < ttl` |
//!
//! The renewal starts when the caller has the guard. A future that is polled once and never again holds a lease for at
//! most one TTL. The work of [`Once::run`] keeps its lease while it is not polled, like an unused guard.
//!
//! Leases need nats-server 2.11, and a bucket that keeps one revision of each key and writes delete markers for expired
//! records. Each bucket that this crate creates for leases has these settings. A bucket without them is refused with
//! `Unsupported` when it is opened.
//!
//! # Who holds it?
//!
//! Each recipe has methods for an operator, which write nothing. They report the owner and the time left by the
//! server's clock, without a comparison of the clocks of two machines: [`Locks::all`], [`Locks::waiters`],
//! [`Locks::watch`], [`Election::all`], [`Semaphore::holders`], [`Group::members`], [`Once::all`],
//! [`RateLimiter::peek`], [`Ids::peek`]. [`Store::recipes`](crate::Store::recipes) lists the recipes of a bucket.
//! [`Locks::break_lock`], [`Election::depose`], [`Once::forget`] and [`RateLimiter::reset`] intervene.
//!
//! # Durability
//!
//! A NATS server acknowledges a write before it syncs the write to disk: by default up to two minutes before
//! (`sync_interval`). The crash of a process loses nothing. A machine that loses power may lose acknowledged writes. So
//! may a replicated bucket whose servers all lose power together. Then two processes may hold the same lock, and a
//! [`Fence`] may repeat. If correctness depends on a recipe, use three replicas in different locations, and
//! `sync_interval: always`.
//!
//! # Where the records are
//!
//! The records are in the bucket of the recipe's name, or in the bucket that the option `bucket` names. Their keys
//! start with [`=kvtyped`](crate::Key::RESERVED): `=kvtyped.lock.invoice-42.lease`. They are JSON and readable with
//! `nats kv get`. Each record declares its format (`"v":1`). A rewrite keeps unknown fields. A record of a newer format
//! is `Unsupported`. Lists, watches and caches of models do not see these records, so recipes and models can share a
//! bucket without collisions.

// Each module imports only from modules above it. One import is an exception: `lease/wait.rs` uses `context`.
//
// | file | content |
// |---|---|
// | `record`, `location`, `open` | the records of recipes, their bucket, and its lazy opening |
// | `counters`, `ids`, `rate_limit` | recipes without leases |
// | `lease` | acquisition, renewal and release of a lease |
// | `context` | the state of a handle whose recipe consists of leases |
// | `announcement` | the value that a holder shows to other processes |
// | `lock`, `semaphore` | locks, their wait queue, and permits |
// | `election`, `group`, `once` | recipes whose leases contain a value |
// | `list` | the recipes of a bucket |
pub(crate) mod record;
pub(crate) mod location;
mod open;
mod counters;
mod ids;
mod rate_limit;
pub(crate) mod lease;
mod context;
mod announcement;
mod lock;
mod semaphore;
mod election;
mod group;
mod once;
mod list;

pub use self::counters::Counters;
pub use self::election::{AllLeaders, Campaign, Election, Leader, Leaders, Leadership, RunForever, RunUntil};
pub use self::group::{Group, GroupEvent, GroupEvents, GroupView, Join, LeaveReason, Member, MemberInfo};
pub use self::ids::Ids;
pub use self::lease::{Fence, Lease};
pub use self::list::{RecipeInfo, RecipeKind};
pub use self::lock::{HeldLocks, Lock, LockEvent, LockEvents, LockGuard, LockHolder, LockWaiter, Locks, TryLock};
pub use self::once::{Once, OnceError, OnceKeys, OnceOutput, OnceResult, OnceRun, OnceRunStatus, OnceState};
pub use self::rate_limit::{Quota, RateLimitDecision, RateLimiter, UntilReady};
pub use self::semaphore::{Acquire, Permit, PermitHolder, Semaphore, TryAcquire};
