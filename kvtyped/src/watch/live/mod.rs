//! Live values: the current record of one key.

mod updater;

pub(crate) mod handle;

pub(crate) mod builder;
