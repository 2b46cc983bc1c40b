//! The maintenance of index entries and claims by the verbs of a bucket.
//!
//! [`attempt`] and [`clean`] decide and perform no I/O. The tests explore all interleavings of their steps.

pub(crate) mod attempt;
pub(crate) mod clean;
pub(crate) mod slot;
pub(crate) mod known;
pub(crate) mod store;
pub(crate) mod write;
pub(crate) mod batch;
pub(crate) mod repair;

#[cfg(test)]
mod tests;
