//! The workers that run during faults, one file for each kind of work.

mod writer;
mod toucher;
mod modifier;
mod reader;
mod watcher;
mod locker;
mod candidate;
mod accounts;
mod counter;

pub(crate) use accounts::{Moved, auditor, open_bank, teller};
pub(crate) use candidate::candidate;
pub(crate) use counter::{Added, adder};
pub(crate) use locker::{locker, named_locker};
pub(crate) use modifier::{Changed, changer};
pub(crate) use reader::reader;
pub(crate) use toucher::{Touched, toucher};
pub(crate) use watcher::{Cached, cacher, liver, watcher};
pub(crate) use writer::{HOT, client, writer};
