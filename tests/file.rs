//! The durable backend in a file: contract, crashes, damage, limits.

mod basics;
mod conformance;
mod damage;
mod failing;
pub(crate) mod folder;
mod kill;
mod model;
mod power;
mod processes;
mod time;
mod trace;
pub(crate) mod writer;
