//! The harness keeps its own promises.

mod cluster;
mod history;
mod netns;
mod proxy;
mod server;
mod watchdog;
