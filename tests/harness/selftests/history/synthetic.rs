//! Generates histories of a correct bucket with concurrent clients, lost replies and stale reads.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use crate::history::{Action, Checked, Expected, Freshness, Op, Outcome, Seen, Stored, VersionOrder, Wgl, assert_none};

/// The parameters of a generated history.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) ops: usize,
    pub(super) clients: usize,
    pub(super) keys: u64,
    /// The number of writes per thousand whose outcome is unknown.
    pub(super) unknown: u64,
    /// Whether the history contains reads.
    pub(super) reads: bool,
    pub(super) seed: u64,
}

/// The client of a delayed write whose reply is lost.
const NO_RESPONDERS: usize = usize::MAX;

/// Generates a history, and returns it with the final content of the bucket.
pub(super) fn history(plan: Plan) -> (Vec<Op>, Vec<Stored>) {
    let mut bucket = Bucket { chance: Chance(plan.seed << 1 | 1), ..Bucket::default() };
    // The scheduled effects, earliest first: the time, the operation, and the client.
    let mut due = BinaryHeap::new();
    for client in 0..plan.clients {
        due.push(Reverse((bucket.chance.below(1000), None, client)));
    }
    while let Some(Reverse((now, op, client))) = due.pop() {
        match op {
            // An idle client starts an operation.
            None if bucket.ops.len() < plan.ops => {
                let op = bucket.begin(plan, client, now);
                due.push(Reverse((now + 1 + bucket.chance.below(1000), Some(op), client)));
            }
            None => {}
            // A delayed write takes effect without a reply.
            Some(op) if client == NO_RESPONDERS => drop(bucket.apply(op)),
            Some(op) => {
                let lost = bucket.chance.below(1000) < plan.unknown && bucket.is_write(op);
                let answered = now + 1 + bucket.chance.below(1000);
                if lost && bucket.chance.below(2) == 0 {
                    // The write takes effect later, without a reply.
                    due.push(Reverse((now + bucket.chance.below(5_000), Some(op), NO_RESPONDERS)));
                } else if !lost {
                    let outcome = bucket.apply(op);
                    bucket.ops[op].done = Some(Duration::from_micros(answered));
                    bucket.ops[op].outcome = outcome;
                }
                due.push(Reverse((answered + bucket.chance.below(100), None, client)));
            }
        }
    }
    let last = bucket.records.iter().filter_map(|(key, versions)| {
        let (revision, value) = *versions.last()?;
        Some(Stored { key: key.to_string(), revision, value, at: Duration::MAX })
    });
    let last = last.collect();
    (bucket.ops, last)
}

#[derive(Default)]
struct Bucket {
    chance: Chance,
    ops: Vec<Op>,
    revision: u64,
    /// All versions of each key; `None` is a removal.
    records: BTreeMap<u64, Vec<(u64, Option<u64>)>>,
}

impl Bucket {
    fn begin(&mut self, plan: Plan, client: usize, now: u64) -> usize {
        let id = self.ops.len();
        let key = self.chance.below(plan.keys);
        let newest = self.records.get(&key).and_then(|versions| versions.last());
        let newest = newest.map_or(0, |(revision, _)| *revision);
        let write = |value: bool, expected| Action::Write { value: value.then_some(id as u64), expected };
        let action = match self.chance.below(if plan.reads { 10 } else { 6 }) {
            0 => write(true, Expected::Anything),
            1 | 2 if newest > 0 => write(true, Expected::Revision(newest)),
            1..=3 => write(true, Expected::Nothing),
            4 if newest > 0 => write(false, Expected::Revision(newest)),
            4 | 5 => write(false, Expected::Anything),
            6 => Action::Read(Freshness::Any),
            7 => Action::Read(Freshness::AtLeast(newest)),
            _ => Action::Read(Freshness::Leader),
        };
        let call = Duration::from_micros(now);
        self.ops.push(Op { id, client, key: key.to_string(), action, call, done: None, outcome: Outcome::Unknown });
        id
    }

    fn is_write(&self, op: usize) -> bool {
        matches!(self.ops[op].action, Action::Write { .. })
    }

    fn apply(&mut self, op: usize) -> Outcome {
        let versions = self.records.entry(self.ops[op].key.parse().expect("a number")).or_default();
        let newest = versions.last().copied();
        match self.ops[op].action {
            Action::Write { value, expected } => {
                let fits = match expected {
                    Expected::Anything => true,
                    Expected::Nothing => newest.is_none_or(|(_, value)| value.is_none()),
                    Expected::Revision(revision) => newest.is_some_and(|(newest, _)| newest == revision),
                };
                if !fits {
                    return Outcome::Refused;
                }
                self.revision += 1;
                versions.push((self.revision, value));
                Outcome::Written(self.revision)
            }
            Action::Read(freshness) => {
                // A plain read may return an older version.
                let proxied = if freshness == Freshness::Any { self.chance.below(3) as usize } else { 0 };
                let seen = versions.len().checked_sub(1 + proxied).map(|at| versions[at]);
                Outcome::Seen(seen.and_then(|(revision, value)| Some(Seen { revision, value: value? })))
            }
        }
    }
}

/// A pseudo-random number generator (xorshift).
#[derive(Default)]
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Asserts that both checkers accept a history with all available evidence.
fn passes(plan: Plan) -> Checked {
    let (ops, last) = history(plan);
    let checked = VersionOrder::of(&ops).last(&last).leader_is_fresh().check();
    let searched = Wgl::of(&ops).with_leader_reads().check();
    eprintln!("{plan:?}\n  {checked}\n  {searched}");
    assert_none("the version order", &checked.violations);
    assert!(checked.unfounded.is_empty(), "{checked}");
    searched.assert_linearizable();
    assert_eq!(checked.operations, plan.ops);
    assert!(!plan.reads || checked.any.stale > 0, "the plain reads were all fresh");
    checked
}

#[test]
fn history_of_2_000_operations_passes() {
    let mut settled = 0;
    for seed in 1..=5 {
        let plan = Plan { ops: 2_000, clients: 8, keys: 5, unknown: 20, reads: true, seed };
        settled += passes(plan).settled + passes(Plan { clients: 4, keys: 1, ..plan }).settled;
    }
    assert!(settled > 0, "no write of unknown outcome was seen");
}

#[test]
fn history_of_100_000_operations_passes() {
    let plan = Plan { ops: 100_000, clients: 9, keys: 5, unknown: 1, reads: true, seed: 7 };
    passes(plan);
    passes(Plan { keys: 500, unknown: 10, ..plan });
}

/// The control: a violation planted in a long history is found and named.
#[test]
fn planted_violation_in_long_history_is_found() {
    let (mut ops, last) = history(Plan { ops: 100_000, clients: 9, keys: 5, unknown: 1, reads: true, seed: 9 });
    let written =
        |op: &Op| matches!((op.action, op.outcome), (Action::Write { value: Some(_), .. }, Outcome::Written(_)));
    let later = ops.iter().rposition(written).expect("there are writes");
    let earlier =
        ops[..later / 2].iter().rposition(|op| written(op) && op.key == ops[later].key).expect("there are more");
    // Swaps two acknowledgements.
    (ops[earlier].outcome, ops[later].outcome) = (ops[later].outcome, ops[earlier].outcome);
    let checked = VersionOrder::of(&ops).last(&last).check();
    assert!(checked.violations.iter().any(|violation| violation.ops.contains(&earlier)), "{checked}");
    assert!(checked.violations.iter().any(|violation| violation.ops.contains(&later)), "{checked}");
    let searched = Wgl::of(&ops).steps(100_000).check();
    assert_eq!(searched.violations.len() + searched.given_up.len(), 1, "{searched}");
}
