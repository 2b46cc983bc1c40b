//! Tests of the harness itself.

mod cluster;
mod history;
mod netns;
mod proxy;
mod server;
mod watchdog;
