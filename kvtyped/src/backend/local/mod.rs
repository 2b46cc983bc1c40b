//! An embedded backend: the traits over the state machine, a lock and a clock.

pub(crate) mod backend;
pub(crate) mod scan;
pub(crate) mod watch;
