//! What the workers store.

use std::collections::BTreeMap;

use kvtyped::prelude::*;

/// A record of which only the value matters: no other write of the run stores the same.
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

/// A counter that many change by closures, and that tells which increments it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "tallies", key = "tally", codec = MsgPack, history = 1)]
pub(crate) struct Tally {
    pub(crate) value: u64,
    /// The increments of each worker, as ranges: those that follow each other are one.
    pub(crate) held: BTreeMap<usize, Vec<(u64, u64)>>,
    /// How many increments came upon themselves.
    pub(crate) twice: u64,
}

impl Tally {
    /// Takes in an increment, however often it is told to.
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

/// An account of the bank, whose money moves from one to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "bank", key = "account.{id}", history = 1)]
pub(crate) struct Account {
    pub(crate) id: u64,
    pub(crate) balance: i64,
}

/// What is left of a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "bank", key = "transfer.{id}", history = 1)]
pub(crate) struct Transfer {
    pub(crate) id: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) amount: i64,
}
