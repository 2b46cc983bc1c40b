//! The durable backend in a file: contract, crashes, damage, limits.

mod basics;
pub(crate) mod child;
mod conformance;
mod copies;
mod damage;
mod failing;
pub(crate) mod folder;
mod kill;
mod large;
mod model;
mod paths;
pub(crate) mod power;
mod processes;
mod recipes;
mod space;
mod time;
mod trace;
pub(crate) mod writer;
