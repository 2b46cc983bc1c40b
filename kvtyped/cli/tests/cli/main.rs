//! The tool as its users run it: through pipes and through a pseudo-terminal, on memory, a file and a server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic fails the test")]
#![allow(clippy::disallowed_methods, reason = "the tests wait for processes, outside of a runtime and its clock")]

mod conditions;
mod contract;
mod doctor;
mod failures;
mod lock_run;
mod picture;
mod reading;
mod recipes;
mod safety;
mod schema;
mod terminal;
mod transfer;
mod walkthrough;
mod world;
mod writing;
