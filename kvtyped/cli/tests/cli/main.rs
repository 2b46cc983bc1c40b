//! The tool as its users run it: through pipes and through a pseudo-terminal, on memory, a file and a server.

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
