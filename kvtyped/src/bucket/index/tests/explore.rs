//! Breadth-first search over all interleavings.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use super::action::Label;
use super::model::{Model, World};
use super::step::successors;

/// A hasher that is fast without optimization.
#[derive(Default)]
struct FastHasher(u64);

impl FastHasher {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for FastHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.add(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.add(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.add(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.add(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.add(word.unsigned_abs() as u64);
    }
}

/// The shortest way to a violation.
#[derive(Debug)]
pub(super) struct Violation {
    /// The number of states until the violation.
    pub(super) states: usize,
    pub(super) invariant: &'static str,
    pub(super) path: Vec<String>,
}

/// Explores all states of a model. Returns their number, or the first violation.
pub(super) fn explore(model: &Model) -> Result<usize, Violation> {
    let mut known: HashSet<Rc<World>, BuildHasherDefault<FastHasher>> = HashSet::default();
    let start = Rc::new(model.start.clone());
    known.insert(Rc::clone(&start));
    let mut states = vec![(start, 0)];
    let mut at = 0;
    while at < states.len() {
        let world = Rc::clone(&states[at].0);
        if let Some(invariant) = world.violation(model) {
            return Err(Violation { states: at + 1, invariant, path: path(model, &states, at) });
        }
        for (_, next) in successors(model, &world) {
            if known.contains(&next) {
                continue;
            }
            let next = Rc::new(next);
            known.insert(Rc::clone(&next));
            states.push((next, at));
        }
        at += 1;
    }
    Ok(states.len())
}

fn path(model: &Model, states: &[(Rc<World>, usize)], mut at: usize) -> Vec<String> {
    let mut path = Vec::new();
    while at > 0 {
        let (world, parent) = &states[at];
        let label = successors(model, &states[*parent].0).into_iter().find(|(_, next)| *next == **world);
        path.push(label.map_or("?".to_owned(), |(Label { process, action }, _)| format!("{process}: {action:?}")));
        at = *parent;
    }
    path.reverse();
    path
}

/// Explores a model that holds.
pub(super) fn holds(name: &str, model: &Model) -> usize {
    match explore(model) {
        Ok(states) => states,
        Err(violation) => panic!("{name}: {}\n{}", violation.invariant, violation.path.join("\n")),
    }
}

/// Explores the cases with a broken rule, and checks that at least this many of them find a violation.
pub(super) fn caught(cases: &[Model], mutant: super::model::Mutant, least: usize) {
    let found: Vec<_> = cases.iter().filter_map(|case| explore(&case.clone().with_mutant(mutant)).err()).collect();
    let states: Vec<_> = found.iter().map(|violation| violation.states).collect();
    println!("{mutant:?}: {} of {} cases, after {states:?} states", found.len(), cases.len());
    let shortest = found.iter().min_by_key(|violation| violation.path.len());
    if let Some(Violation { invariant, path, .. }) = shortest {
        println!("  {invariant}:\n    {}", path.join("\n    "));
    }
    assert!(found.len() >= least, "{mutant:?} must be caught by {least} of {} cases", cases.len());
}
