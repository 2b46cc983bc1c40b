//! The state machine of the embedded backends.
//!
//! It performs no I/O, spawns no task and reads no clock: a call that depends on the time takes it as an argument. Each
//! verb is one function that changes the state and returns its [`Changes`](changes::Changes).

pub(crate) mod entry;
pub(crate) mod changes;
pub(crate) mod limits;
pub(crate) mod notify;

pub(crate) mod index_entries;
pub(crate) mod unread_removals;
pub(crate) mod bucket;
pub(crate) mod expiry;
pub(crate) mod effect;
pub(crate) mod log;
pub(crate) mod machine;
pub(crate) mod rollback;

#[cfg(test)]
mod tests;
