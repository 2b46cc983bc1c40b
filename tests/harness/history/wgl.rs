//! Whether some order of the operations on a key explains all that they returned: the search of Wing and Gong, with the
//! memory of Lowe.
//!
//! The model is a register with revisions: a write needs what it expects, and takes a higher revision than what is there. A
//! write of unknown outcome may take effect at any time after its call, or never.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use super::violation::{Rule, Violation, by_ops};
use super::writes::{KeyWrites, Writes};
use super::{Action, Expected, Freshness, Op, Outcome};

/// How many steps the search of a key may take.
const STEPS: usize = 2_000_000;

/// The check; see the [module](super).
#[derive(Debug, Clone, Copy)]
pub struct Wgl<'a> {
    ops: &'a [Op],
    leader_reads: bool,
    steps: usize,
}

/// What the search found.
#[derive(Debug, Clone, Default)]
pub struct Searched {
    /// How many operations were given an order, or not.
    pub operations: usize,
    /// Over how many keys.
    pub keys: usize,
    /// The keys whose operations have no order.
    pub violations: Vec<Violation>,
    /// The keys whose search was given up: nothing is said of them.
    pub given_up: Vec<String>,
    /// How many steps the search took.
    pub steps: usize,
    /// How long it took.
    pub took: Duration,
}

impl Searched {
    /// # Panics
    ///
    /// If there is a violation, or a key whose search was given up.
    pub fn assert_linearizable(&self) {
        super::assert_none("linearizability", &self.violations);
        assert!(self.given_up.is_empty(), "the search was given up for {:?}", self.given_up);
    }
}

impl<'a> Wgl<'a> {
    /// The check of the writes of a history.
    pub fn of(ops: &'a [Op]) -> Self {
        Self { ops, leader_reads: false, steps: STEPS }
    }

    /// Takes the reads of the leader in, too: they are linearizable as long as no leader is cut off or frozen.
    #[must_use]
    pub fn with_leader_reads(mut self) -> Self {
        self.leader_reads = true;
        self
    }

    /// How many steps the search of a key may take before it is given up.
    #[must_use]
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// Checks.
    ///
    /// # Panics
    ///
    /// If two writes of a key have the same value: nobody could tell which of them was seen.
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
        // Whose revision it is: what is expected and belongs to nobody may be a write of unknown outcome.
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

/// An operation, as the search sees it.
#[derive(Debug, Clone, Copy)]
struct Step<'a> {
    op: &'a Op,
    call: Duration,
    done: Duration,
    does: Does,
}

#[derive(Debug, Clone, Copy)]
enum Does {
    /// Writes; under which revision is not known of a write whose outcome is not.
    Write { live: bool, expected: Expected, revision: Option<u64> },
    /// Sees the live entry of this revision, or none.
    Read(Option<u64>),
}

/// What is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    /// The revision of the newest entry, or a lower bound of it.
    revision: u64,
    /// Whether it is known.
    known: bool,
    live: bool,
}

/// Which operations were given their place: all before `first`, of those behind it the ones in `window`, of those that
/// need not take effect the ones in `optional`. The vectors have no trailing zeros.
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
    /// Those that took effect, by call; behind them those that need not have.
    steps: Vec<Step<'a>>,
    /// How many of them took effect.
    certain: usize,
    owners: &'a HashMap<u64, usize>,
    taken: usize,
    /// The furthest that was come: how many were placed, and who could not be the next.
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
        // A write that nobody saw explains something only if somebody expected a revision that nobody else has, or if it
        // is a removal.
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
            // The last is tried first: those that took effect.
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

    /// Who can be the next: nobody who is not placed ended before it began.
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
        // Which is tried first does not matter for the answer: reads change nothing, and revisions tell the rest.
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

    /// What is there afterwards, if an operation can take place now.
    fn after(&self, state: State, does: Does) -> Option<State> {
        match does {
            Does::Read(None) => (!state.live).then_some(state),
            Does::Read(Some(revision)) => {
                // What was seen has a writer whose revision is known.
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

/// How many ones stand before the first zero.
fn leading(bits: &[u64]) -> usize {
    let full = bits.iter().take_while(|word| **word == u64::MAX).count();
    full * 64 + bits.get(full).map_or(0, |word| word.trailing_ones() as usize)
}

/// Without the first `by` bits.
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
