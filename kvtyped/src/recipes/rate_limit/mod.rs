//! A limited number of events in a period, across all processes.
//!
//! Each key has one record with the state of the algorithm (GCRA), changed by compare-and-set. All processes use the
//! clock of the server. A handle estimates it from the timestamps of its probe records.

pub(crate) mod gcra;
pub(crate) mod server_clock;
pub(crate) mod limiter;
pub(crate) mod inspect;

pub use self::gcra::Quota;
pub use self::limiter::{RateLimitDecision, RateLimiter, UntilReady};
