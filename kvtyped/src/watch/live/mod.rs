//! Live values: the current record of one key.
//!
//! A task follows a watch of the key and publishes each valid record. The handle reads the newest one without I/O.

mod updater;
pub(crate) mod handle;
pub(crate) mod builder;
