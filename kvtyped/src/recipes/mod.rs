//! Coordination: what several processes agree on by a bucket.

#![allow(dead_code, unused_macros, unused_imports, reason = "its users come next")]

mod counters;
mod ids;
mod rate;
mod clock;
mod quota;
mod place;
mod slot;

pub use self::counters::{Counters, OpenCounters};
pub use self::ids::{Ids, OpenIds};
pub use self::quota::Quota;
pub use self::rate::{Decision, OpenRateLimiter, RateLimiter, UntilReady};
