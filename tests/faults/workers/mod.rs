//! The workers that run during faults, one file for each kind of work.

mod writer;
mod toucher;
mod changer;
mod reader;
mod watcher;
mod locker;
mod candidate;
mod bank;
mod adder;

pub(crate) use adder::{Added, adder};
pub(crate) use bank::{Moved, auditor, open_bank, teller};
pub(crate) use candidate::candidate;
pub(crate) use changer::{Changed, changer};
pub(crate) use locker::{locker, named_locker};
pub(crate) use reader::reader;
pub(crate) use toucher::{Touched, toucher};
pub(crate) use watcher::{Cached, cacher, liver, watcher};
pub(crate) use writer::{HOT, client, writer};
