//! Caches: local copies of the records that match a filter.

pub(crate) mod change;

pub(crate) mod index;
mod state;

mod updater;

pub(crate) mod handle;

pub(crate) mod builder;
