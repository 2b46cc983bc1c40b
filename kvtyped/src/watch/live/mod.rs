//! Live values: the current record of one key.

pub(crate) mod handle;
pub(crate) mod updater;
