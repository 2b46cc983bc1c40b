//! Caches: local copies of the records that match a filter.
//!
//! A task follows a watch of the filter and applies each event to a shared map and its indexes. Handles read the map
//! without I/O.

pub(crate) mod change;
pub(crate) mod index;
mod state;
mod updater;
pub(crate) mod handle;
pub(crate) mod builder;
