//! Linearizability check by search: the algorithm of Wing and Gong with Lowe's memoization.
//!
//! The model is a register with revisions. A write takes effect only if its precondition holds, and its revision is
//! higher than the current one. A write of unknown outcome may take effect at any time after its call, or never.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use super::violation::{Rule, Violation, by_ops};
use super::writes::{KeyWrites, Writes};
use super::{Action, Expected, Freshness, Op, Outcome};

/// The default limit of search steps per key.
const STEPS: usize = 2_000_000;

/// The checker; see the [module](super).
#[derive(Debug, Clone, Copy)]
pub struct Wgl<'a> {
    ops: &'a [Op],
    leader_reads: bool,
    steps: usize,
}

/// The result of the search.
#[derive(Debug, Clone, Default)]
pub struct Searched {
    /// The number of operations in the search.
    pub operations: usize,
    /// The number of keys.
    pub keys: usize,
    /// The keys whose operations have no valid order.
    pub violations: Vec<Violation>,
    /// The keys whose search exceeded the step limit. Their result is undetermined.
    pub given_up: Vec<String>,
    /// The number of search steps.
    pub steps: usize,
    /// The duration of the search.
    pub took: Duration,
}

impl Searched {
    /// Asserts that all keys are linearizable.
    ///
    /// # Panics
    ///
    /// Panics if there is a violation, or if the search of a key exceeded the step limit.
    pub fn assert_linearizable(&self) {
        super::assert_none("linearizability", &self.violations);
        assert!(self.given_up.is_empty(), "the search was given up for {:?}", self.given_up);
    }
}

impl<'a> Wgl<'a> {
    /// Creates a checker of the writes of a history.
    pub fn of(ops: &'a [Op]) -> Self {
        Self { ops, leader_reads: false, steps: STEPS }
    }

    /// Includes the reads of the leader. They are linearizable unless a leader is partitioned or frozen.
    #[must_use]
    pub fn with_leader_reads(mut self) -> Self {
        self.leader_reads = true;
        self
    }

    /// Sets the limit of search steps per key.
    #[must_use]
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// Runs the check.
    ///
    /// # Panics
    ///
    /// Panics if two writes of a key have the same value: an observation of that value would be ambiguous.
    pub fn check(self) -> Searched {
        let start = Instant::now();
        let mut writes = Writes::of(self.ops, std::iter::empty());
        let mut reads: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
        for op in self.ops.iter().filter(|_| self.leader_reads) {
            if let (Action::Read(Freshness::Leader), Outcome::Seen(_)) = (op.action, op.outcome) {
                reads.entry(&op.key).or_default().push(op);
                writes.keys.entry(&op.key).or_default();
            }
        }
        // The owner of each revision. An expected revision without an owner may belong to a write of unknown outcome.
        let applied = writes.keys.values().flat_map(|key| &key.applied);
        let owners: HashMap<u64, usize> = applied.map(|write| (write.revision, write.op.id)).collect();
        let mut found = Searched { keys: writes.keys.len(), ..Searched::default() };
        for (key, of_key) in &writes.keys {
            let mut search = Search::new(of_key, reads.get(key).map_or(&[], Vec::as_slice), &owners);
            found.operations += search.steps.len();
            match search.run(self.steps) {
                End::Explained => {}
                End::GivenUp => found.given_up.push((*key).to_owned()),
                End::Inexplicable => {
                    let stuck = search.deepest.1.iter().map(|at| search.steps[*at].op);
                    let why = format!("nothing explains {key}: none of these can be the next");
                    found.violations.push(by_ops(Rule::Linearizable, &why, stuck));
                }
            }
            found.steps += search.taken;
        }
        found.took = start.elapsed();
        found
    }
}

/// An operation as a step of the search.
#[derive(Debug, Clone, Copy)]
struct Step<'a> {
    op: &'a Op,
    call: Duration,
    done: Duration,
    does: Does,
}

#[derive(Debug, Clone, Copy)]
enum Does {
    /// A write. Its revision is `None` if its outcome is unknown.
    Write { live: bool, expected: Expected, revision: Option<u64> },
    /// A read that returned the live entry of this revision, or no live entry.
    Read(Option<u64>),
}

/// The state of the register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    /// The revision of the newest entry, or a lower bound.
    revision: u64,
    /// Whether `revision` is exact.
    known: bool,
    live: bool,
}

/// The set of operations that already have a position in the order: all before `first`, those in the bit set `window`
/// after it, and the optional ones in the bit set `optional`. The vectors have no trailing zeros.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Placed {
    first: usize,
    window: Vec<u64>,
    optional: Vec<u64>,
}

enum End {
    Explained,
    Inexplicable,
    GivenUp,
}

struct Search<'a> {
    /// The operations that took effect, by call time, followed by the optional ones, which may have had no effect.
    steps: Vec<Step<'a>>,
    /// The number of operations that took effect.
    certain: usize,
    owners: &'a HashMap<u64, usize>,
    taken: usize,
    /// The deepest search state: the number of placed operations, and the candidates that were tried next.
    deepest: (usize, Vec<usize>),
}

impl<'a> Search<'a> {
    fn new(writes: &KeyWrites<'a>, reads: &[&'a Op], owners: &'a HashMap<u64, usize>) -> Self {
        let mut steps: Vec<_> = writes
            .applied
            .iter()
            .map(|write| {
                let (live, expected, revision) = (write.value.is_some(), write.expected, Some(write.revision));
                let does = Does::Write { live, expected, revision };
                Step { op: write.op, call: write.op.call, done: write.done, does }
            })
            .collect();
        steps.extend(reads.iter().map(|op| {
            let seen = if let Outcome::Seen(seen) = op.outcome { seen } else { None };
            let done = op.done.unwrap_or(Duration::MAX);
            Step { op, call: op.call, done, does: Does::Read(seen.map(|seen| seen.revision)) }
        }));
        steps.sort_by_key(|step| step.call);
        let certain = steps.len();
        // An unobserved write of unknown outcome can only matter in two cases: another write expects a revision that
        // has no owner, or the write is a removal.
        let somebody_expects_it = steps.iter().map(|step| step.does).chain(writes.unknown.iter().map(|op| does(op))).any(
            |does| matches!(does, Does::Write { expected: Expected::Revision(e), .. } if e > 0 && !owners.contains_key(&e)),
        );
        let optional = writes
            .unknown
            .iter()
            .filter(|op| somebody_expects_it || matches!(op.action, Action::Write { value: None, .. }));
        steps.extend(optional.map(|op| Step { op, call: op.call, done: Duration::MAX, does: does(op) }));
        Self { steps, certain, owners, taken: 0, deepest: (0, Vec::new()) }
    }

    fn run(&mut self, limit: usize) -> End {
        let start = Placed { first: 0, window: Vec::new(), optional: Vec::new() };
        let mut seen = HashSet::new();
        let mut stack = vec![(start, State { revision: 0, known: true, live: false }, 0)];
        while let Some((placed, state, depth)) = stack.pop() {
            if placed.first == self.certain {
                return End::Explained;
            }
            self.taken += 1;
            if self.taken > limit {
                return End::GivenUp;
            }
            let candidates = self.candidates(&placed);
            if depth > self.deepest.0 || self.deepest.1.is_empty() {
                let certain = candidates.iter().copied().filter(|at| *at < self.certain).collect();
                self.deepest = (depth, certain);
            }
            // The stack is last in, first out: pushed last and tried first are the operations that took effect.
            for at in candidates.into_iter().rev() {
                if let Some(next) = self.after(state, self.steps[at].does) {
                    let placed = self.with(&placed, at);
                    if seen.insert((placed.clone(), next)) {
                        stack.push((placed, next, depth + 1));
                    }
                }
            }
        }
        End::Inexplicable
    }

    /// Returns the operations that can come next: all that started before every unplaced operation ended.
    fn candidates(&self, placed: &Placed) -> Vec<usize> {
        let mut end = Duration::MAX;
        let mut candidates = Vec::new();
        for at in placed.first..self.certain {
            let step = &self.steps[at];
            if step.call > end {
                break;
            }
            if !bit(&placed.window, at - placed.first) {
                end = end.min(step.done);
                candidates.push(at);
            }
        }
        candidates.retain(|at| self.steps[*at].call <= end);
        // The order of the candidates does not affect the answer. Reads change nothing, and revisions order the writes.
        candidates.sort_by_key(|at| match self.steps[*at].does {
            Does::Read(_) => 0,
            Does::Write { revision, .. } => revision.unwrap_or(u64::MAX),
        });
        let optional = self.certain..self.steps.len();
        candidates
            .extend(optional.filter(|at| self.steps[*at].call <= end && !bit(&placed.optional, at - self.certain)));
        candidates
    }

    fn with(&self, placed: &Placed, at: usize) -> Placed {
        let mut placed = placed.clone();
        if at >= self.certain {
            set(&mut placed.optional, at - self.certain);
            return placed;
        }
        set(&mut placed.window, at - placed.first);
        let ones = leading(&placed.window);
        if ones > 0 {
            placed.first += ones;
            placed.window = shifted(&placed.window, ones);
        }
        placed
    }

    /// Returns the state after the operation, or `None` if the operation cannot take effect in this state.
    fn after(&self, state: State, does: Does) -> Option<State> {
        match does {
            Does::Read(None) => (!state.live).then_some(state),
            Does::Read(Some(revision)) => {
                // An observed entry has exactly one writer, so its revision is exact.
                (state.live && state.known && state.revision == revision).then_some(state)
            }
            Does::Write { live, expected, revision } => {
                let mut least = state.revision;
                match expected {
                    Expected::Anything => {}
                    Expected::Nothing if state.live => return None,
                    Expected::Nothing => {}
                    Expected::Revision(expected) if state.known => {
                        if expected != state.revision {
                            return None;
                        }
                    }
                    Expected::Revision(expected) => {
                        if expected < state.revision || self.owners.contains_key(&expected) {
                            return None;
                        }
                        least = expected;
                    }
                }
                match revision {
                    Some(revision) => (revision > least).then_some(State { revision, known: true, live }),
                    None => Some(State { revision: least + 1, known: false, live }),
                }
            }
        }
    }
}

fn does(op: &Op) -> Does {
    match op.action {
        Action::Write { value, expected } => Does::Write { live: value.is_some(), expected, revision: None },
        Action::Read(_) => Does::Read(None),
    }
}

fn bit(bits: &[u64], at: usize) -> bool {
    bits.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
}

fn set(bits: &mut Vec<u64>, at: usize) {
    if bits.len() <= at / 64 {
        bits.resize(at / 64 + 1, 0);
    }
    bits[at / 64] |= 1 << (at % 64);
}

/// Returns the number of leading ones.
fn leading(bits: &[u64]) -> usize {
    let full = bits.iter().take_while(|word| **word == u64::MAX).count();
    full * 64 + bits.get(full).map_or(0, |word| word.trailing_ones() as usize)
}

/// Removes the first `by` bits.
fn shifted(bits: &[u64], by: usize) -> Vec<u64> {
    let (words, rest) = (by / 64, by % 64);
    let word = |at: usize| bits.get(at).copied().unwrap_or(0);
    let mut shifted: Vec<u64> = (words..bits.len())
        .map(|at| if rest == 0 { word(at) } else { word(at) >> rest | word(at + 1) << (64 - rest) })
        .collect();
    while shifted.last() == Some(&0) {
        shifted.pop();
    }
    shifted
}

impl fmt::Display for Searched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operations, keys, violations, given_up, steps, took } = self;
        write!(f, "{operations} operations on {keys} keys, {} violations, ", violations.len())?;
        write!(f, "{} keys given up; {steps} steps, {took:.1?}", given_up.len())
    }
}
