//! The state machine of the embedded backends. It does no I/O, spawns no task and reads no clock: each call that depends
//! on the time takes it as an argument.

pub(crate) mod backlog;
pub(crate) mod bucket;
pub(crate) mod expiry;
pub(crate) mod limits;
pub(crate) mod machine;
pub(crate) mod notify;
