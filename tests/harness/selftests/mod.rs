//! The harness keeps its own promises.

mod cluster;
mod history;
mod proxy;
mod server;
mod watchdog;
