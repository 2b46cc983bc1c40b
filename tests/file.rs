//! The durable backend in a file: contract, crashes, damage, limits.

mod basics;
mod conformance;
pub(crate) mod folder;
mod kill;
mod power;
mod trace;
pub(crate) mod writer;
