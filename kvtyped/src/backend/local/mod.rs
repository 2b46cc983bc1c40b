//! An embedded backend: the backend interface over the state machine, a lock and a clock.

pub(crate) mod shared;

mod search;

pub(crate) mod scan;
pub(crate) mod watch;

pub(crate) mod backend;
