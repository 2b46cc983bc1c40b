//! The tool as its users run it: through pipes and through a pseudo-terminal, on memory, a file and a server.

mod contract;
mod reading;
mod safety;
mod terminal;
mod transfer;
mod world;
mod writing;
