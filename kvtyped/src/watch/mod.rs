//! Watches: streams of the current records and of all later changes.
//!
//! [`ReadBucket::watch`](crate::ReadBucket::watch) is a stream of typed events that continues over restarts, lost connections and recreated
//! buckets. The other features use it: [`ReadBucket::cache`](crate::ReadBucket::cache) keeps a local copy, [`ReadBucket::live`](crate::ReadBucket::live) keeps a single
//! value, and [`ReadBucket::wait_for`](crate::ReadBucket::wait_for) waits for a record.

// Each module imports only from modules above it.
//
// | file | content |
// |---|---|
// | `update` | the items of a watch below its typed events |
// | `resume` | the state machine that continues a watch over many sessions |
// | `coalesce` | the buffer of a slow reader |
// | `event` | typed events |
// | `expiry` | expiry of records whose removal the server does not report |
// | `start` | the start and the end of a watch |
// | `builder`, `wait` | the operations `watch` and `wait_for` |
// | `health` | the health of a bucket and its caches |
// | `cache`, `live` | local copies of many records, and of one record |
pub(crate) mod update;
mod resume;
mod coalesce;
mod event;
mod expiry;
pub(crate) mod start;
mod builder;
mod wait;
mod health;
mod cache;
mod live;

pub use self::builder::Watch;
pub use self::cache::builder::OpenCache;
pub use self::cache::change::CacheChange;
pub use self::cache::handle::{Cache, CacheChanges};
pub use self::cache::index::CacheIndex;
pub use self::event::{Event, Events};
pub use self::health::BucketHealth;
pub use self::live::builder::{OpenDerived, OpenLive};
pub use self::live::handle::Live;
pub use self::wait::WaitFor;
