//! Coordination: what several processes agree on by a bucket.
//!
//! # Which recipe do I need?
//!
//! | I want | take | it is |
//! |---|---|---|
//! | a record that others change, too, changed without loss | no recipe: [`modify`](crate::Bucket::modify) | a compare-and-set that is tried again |
//! | several records changed all or nothing | no recipe: [`transact`](crate::Bucket::transact) | a batch that is applied as a whole |
//! | one at a time to work on something | [`Store::locks`](crate::Store::locks) | a lease that is renewed and handed over |
//! | the same, and the server to refuse who was overtaken | [`Bucket::lock`](crate::Bucket::lock), [`fenced_by`](crate::Put::fenced_by) | a lock and its fence beside the record |
//! | one process to lead, and all to know which | [`Store::election`](crate::Store::election) | a lease in which its holder says who it is |
//! | so many at a time | [`Store::semaphore`](crate::Store::semaphore) | as many leases, of which each takes any |
//! | to know who is there | [`Store::group`](crate::Store::group) | a lease for each member |
//! | work done one time for a key, and its result | [`Store::once`](crate::Store::once) | a lease that gives way to the result |
//! | a number that many add to | [`Store::counters`](crate::Store::counters) | a counter of the server (ADR-49), or a compare-and-set |
//! | numbers that come once | [`Store::ids`](crate::Store::ids) | blocks that are taken by compare-and-set |
//! | no more than so many in a time | [`Store::rate_limiter`](crate::Store::rate_limiter) | one record a key, by the server's clock |
//!
//! Two records of a bucket that change together need no lock either.
//! A lock is for what is outside of the bucket: a file, a device, a service that is to be called by one at a time.
//!
//! # Leases
//!
//! All that is *held* here is a [`Lease`]: a record with a time to live (30 s) that a task renews (every 10 s) by
//! compare-and-set.
//! It counts from before its last renewal was sent, by this machine's monotonic clock, and is given up a margin (3 s) before
//! the server can let it expire: so its holder knows without a network that it is lost, before anybody else has it.
//! A renewal whose acknowledgement is lost is looked up at the leader, never assumed.
//! The wall clocks of two machines are never compared.
//!
//! | | default | relation |
//! |---|---|---|
//! | `ttl` | 30 s | 1 s at least (ADR-43); below 15 s it may not survive the election of a new leader |
//! | `renew_every` | a third of `ttl` | `renew_every < ttl - margin` |
//! | `margin` | a tenth of `ttl`, 1 s at least where that is no more than a third | `margin < ttl` |
//!
//! The renewal starts when the caller has the guard. A future that is polled once and then left holds a lease for at
//! most one TTL. The work of [`Once::run`] keeps its lease while it is not polled, like an unused guard.
//!
//! It needs nats-server 2.11 and a bucket that keeps one revision of each key and leaves markers of what expired, as every
//! bucket that this crate makes for one; a bucket that is not fit is refused with `Unsupported` when it is opened.
//!
//! # Durability
//!
//! A NATS server acknowledges a write before it is synced to disk: by default up to two minutes before (`sync_interval`).
//! A process that dies loses nothing; a machine that loses its power may, and a replicated bucket whose servers lose theirs
//! together, too.
//! Then two processes may hold the same lock, and a [`Fence`] may come twice.
//! Where correctness hangs on a recipe: three replicas in different places, and `sync_interval: always`.
//!
//! # Where the records are
//!
//! In the bucket of the recipe's name, or the one that it is told, under keys that begin with
//! [`=kvtyped`](crate::Key::RESERVED): `=kvtyped.lock.invoice-42.lease`. They are JSON and readable with `nats kv get`.
//! Each record declares its format (`"v":1`). A rewrite keeps unknown fields. A record of a newer format is
//! `Unsupported`. Lists, watches and caches of models do not see them, so recipes and records share a bucket without
//! meeting.

mod lock;
mod election;
mod semaphore;
mod group;
mod group_watch;
mod group_view;
mod once;
mod once_run;
mod counters;
mod ids;
mod rate;
mod lease;
mod fence;
mod holding;
mod tenure;
mod times;
mod wait;
mod progress;
mod ticket;
mod line;
mod queue;
mod home;
mod terms;
mod told;
mod clock;
mod quota;
mod place;
mod slot;
mod task;

pub use self::counters::{Counters, OpenCounters};
pub use self::election::{Campaign, Election, Leader, Leaders, Leadership};
pub use self::fence::Fence;
pub use self::group::{Group, Join, Member, MemberInfo};
pub use self::group_view::GroupView;
pub use self::group_watch::{Departure, GroupEvent, GroupEvents};
pub use self::holding::Holder;
pub use self::ids::{Ids, OpenIds};
pub use self::lease::Lease;
pub use self::lock::{Lock, LockGuard, Locks, OpenLocks, TryLock};
pub use self::once::{Once, Run};
pub use self::once_run::{RunError, RunOutput};
pub use self::quota::Quota;
pub use self::rate::{Decision, OpenRateLimiter, RateLimiter, UntilReady};
pub use self::semaphore::{Acquire, Permit, Semaphore, TryAcquire};
