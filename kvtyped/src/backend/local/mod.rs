//! An embedded backend: the backend interface over the state machine, a lock and a clock.

pub(crate) mod clock;
pub(crate) mod durable;
pub(crate) mod shared;

#[cfg(feature = "file")]
pub(crate) mod writer;

mod search;

pub(crate) mod list_keys;
pub(crate) mod scan;
pub(crate) mod watch;

pub(crate) mod backend;
