//! The models that the workers store.

use std::collections::BTreeMap;

use kvtyped::prelude::*;

/// A record with a value that no other write of the run stores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "records", key = "{group}.{id}", history = 1)]
pub(crate) struct Record {
    pub(crate) group: String,
    pub(crate) id: usize,
    pub(crate) value: u64,
}

impl Record {
    pub(crate) fn new(group: &str, id: usize, value: u64) -> Self {
        Self { group: group.into(), id, value }
    }
}

/// A counter that many workers increment by closures. It lists the increments that it contains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "tallies", key = "tally", codec = MsgPack, history = 1)]
pub(crate) struct Tally {
    pub(crate) value: u64,
    /// The increments of each worker, as half-open ranges. Adjacent increments share a range.
    pub(crate) held: BTreeMap<usize, Vec<(u64, u64)>>,
    /// The number of increments that were applied more than once.
    pub(crate) twice: u64,
}

impl Tally {
    /// Applies an increment, even if the tally already contains it.
    pub(crate) fn add(&mut self, worker: usize, id: u64) {
        if self.holds(worker, id) {
            self.twice += 1;
        }
        self.value += 1;
        let ranges = self.held.entry(worker).or_default();
        match ranges.last_mut() {
            Some((_, end)) if *end == id => *end += 1,
            _ => ranges.push((id, id + 1)),
        }
    }

    pub(crate) fn holds(&self, worker: usize, id: u64) -> bool {
        let ranges = self.held.get(&worker);
        ranges.is_some_and(|ranges| ranges.iter().any(|(start, end)| (*start..*end).contains(&id)))
    }
}

/// A bank account. Transfers move money between accounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "bank", key = "account.{id}", history = 1)]
pub(crate) struct Account {
    pub(crate) id: u64,
    pub(crate) balance: i64,
}

/// The record of a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "bank", key = "transfer.{id}", history = 1)]
pub(crate) struct Transfer {
    pub(crate) id: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) amount: i64,
}
