//! The durable backend in a file: contract, crashes, damage, limits.

mod basics;
pub(crate) mod child;
mod conformance;
mod copies;
mod damage;
mod failing;
mod formats;
mod full_open;
pub(crate) mod folder;
mod groups;
mod indexes;
mod kill;
mod large;
mod lifetimes;
mod model;
mod paths;
pub(crate) mod power;
mod processes;
mod recipes;
pub(crate) mod recovery;
mod reopening;
pub(crate) mod small_disk;
mod space;
mod time;
mod trace;
mod wal;
pub(crate) mod writer;
