//! The durable backend in a file: contract, crashes, damage, limits.

mod basics;
mod conformance;
pub(crate) mod folder;
mod kill;
pub(crate) mod writer;
