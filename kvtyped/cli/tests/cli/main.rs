//! The tool as its users run it: through pipes and through a pseudo-terminal, on memory, a file and a server.
#![allow(clippy::disallowed_methods, reason = "the processes of a test follow the real clock")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

mod contract;
mod doctor;
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
