//! The harness keeps its own promises.

mod cluster;
mod proxy;
mod server;
mod watchdog;
