//! Caches: local copies of the records that match a filter.

pub(crate) mod handle;
pub(crate) mod index;
pub(crate) mod updater;
