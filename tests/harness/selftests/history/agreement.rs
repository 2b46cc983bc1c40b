//! Compares the two linearizability checkers on valid and invalid histories of writes.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::synthetic::{Plan, history};
use crate::history::{Action, Expected, Op, Outcome, VersionOrder, Wgl};

/// A mutation of a history.
#[derive(Debug, Clone, Copy)]
enum Change {
    /// Swaps the outcomes of two operations.
    Swap(usize, usize),
    /// Replaces the outcome of an operation with an acknowledgement of this revision.
    Revision(usize, u64),
    /// Makes a write expect a revision. Zero means that it expects no record.
    Expect(usize, u64),
    /// Moves the start of an operation to another time and keeps its duration.
    Move(usize, u64),
    /// Makes the outcome of an operation unknown.
    Forget(usize),
}

fn change(n: usize) -> impl Strategy<Value = Change> {
    prop_oneof![
        (0..n, 0..n).prop_map(|(a, b)| Change::Swap(a, b)),
        (0..n, 1..n as u64 + 2).prop_map(|(at, revision)| Change::Revision(at, revision)),
        (0..n, 0..n as u64 + 2).prop_map(|(at, revision)| Change::Expect(at, revision)),
        (0..n, 0..8000_u64).prop_map(|(at, time)| Change::Move(at, time)),
        (0..n).prop_map(Change::Forget),
    ]
}

fn broken(mut ops: Vec<Op>, changes: &[Change]) -> Vec<Op> {
    for change in changes {
        match *change {
            Change::Swap(a, b) => (ops[a].outcome, ops[b].outcome) = (ops[b].outcome, ops[a].outcome),
            Change::Revision(at, revision) => ops[at].outcome = Outcome::Written(revision),
            Change::Expect(at, revision) => {
                if let Action::Write { expected, .. } = &mut ops[at].action {
                    *expected = if revision == 0 { Expected::Nothing } else { Expected::Revision(revision) };
                }
            }
            Change::Move(at, time) => {
                let took = ops[at].done.map(|done| done.saturating_sub(ops[at].call));
                ops[at].call = std::time::Duration::from_micros(time);
                ops[at].done = took.map(|took| ops[at].call + took);
            }
            Change::Forget(at) => ops[at].outcome = Outcome::Unknown,
        }
        for op in &mut ops {
            match op.outcome {
                Outcome::Unknown => op.done = None,
                _ => op.done = op.done.or(Some(op.call + std::time::Duration::from_micros(700))),
            }
        }
    }
    ops
}

/// Returns whether the version order and the search accept the history.
fn verdicts(ops: &[Op]) -> (bool, bool) {
    let searched = Wgl::of(ops).check();
    assert!(searched.given_up.is_empty(), "{searched}");
    (VersionOrder::of(ops).check().violations.is_empty(), searched.violations.is_empty())
}

const OPS: usize = 9;

fn histories(unknown: u64) -> impl Strategy<Value = Vec<Op>> {
    (any::<u64>(), 2..5_usize, proptest::collection::vec(change(OPS), 0..4)).prop_map(
        move |(seed, clients, changes)| {
            let (ops, _) = history(Plan { ops: OPS, clients, keys: 1, unknown, reads: false, seed });
            broken(ops, &changes)
        },
    )
}

#[test]
fn version_order_and_search_agree() {
    let (sound, unsound, lenient) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(5_000) };
    proptest!(config, |(ops in histories(100))| {
        let certain = ops.iter().all(|op| op.outcome != Outcome::Unknown);
        match verdicts(&ops) {
            (true, true) => sound.fetch_add(1, Ordering::Relaxed),
            (false, false) => unsound.fetch_add(1, Ordering::Relaxed),
            // With unknown outcomes, only the search checks whether all results are possible together.
            (true, false) if !certain => lenient.fetch_add(1, Ordering::Relaxed),
            (order, search) => return Err(TestCaseError::fail(format!("order: {order}, search: {search}"))),
        };
    });
    let (sound, unsound, lenient) = (sound.into_inner(), unsound.into_inner(), lenient.into_inner());
    eprintln!("{sound} sound, {unsound} unsound, {lenient} that the search alone calls unsound");
    assert!(sound > 500 && unsound > 500, "{sound} sound, {unsound} unsound: too few to compare");
    assert!(lenient * 25 < unsound, "{lenient} of {unsound} unsound histories passed the version order");
}
