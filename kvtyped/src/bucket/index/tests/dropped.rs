//! Lookups and writers while an index is dropped.

use super::explore::{caught, holds};
use super::model::{A, B, C, DropGuard, Model, Mutant, NONE, Program};
use crate::bucket::index::attempt::Means;

fn write(key: u8, value: u8) -> Program {
    Program::Write { key, value, means: Means::Singly }
}

fn batch(key: u8, value: u8) -> Program {
    Program::Write { key, value, means: Means::Batch }
}

const DROP: Program = Program::Drop;
const REBUILD: Program = Program::Rebuild;

fn lookups() -> Vec<Model> {
    let look = |value| Program::Lookup { value };
    let cases: [&[Program]; 5] = [
        &[DROP, look(A)],
        &[DROP, REBUILD, look(A)],
        &[DROP, REBUILD, look(A), look(A)],
        &[DROP, write(0, B), look(A), look(B)],
        &[DROP, REBUILD, write(0, NONE), write(1, A), look(A)],
    ];
    cases.iter().map(|programs| Model::unique(programs).with_attempts(1)).collect()
}

fn writers(guard: DropGuard) -> Vec<Model> {
    let cases: [&[Program]; 7] = [
        &[DROP, write(1, A)],
        &[DROP, write(0, B), write(1, B)],
        &[DROP, batch(0, B), write(1, B)],
        &[DROP, batch(1, A), write(0, NONE)],
        &[DROP, REBUILD, write(1, A)],
        &[DROP, REBUILD, write(0, B), write(1, B)],
        &[DROP, REBUILD, batch(0, B), batch(1, B)],
    ];
    cases.iter().map(|programs| Model::unique(programs).with_guard(guard)).collect()
}

fn entries(guard: DropGuard) -> Vec<Model> {
    let cases: [&[Program]; 5] = [
        &[DROP, REBUILD, write(0, B)],
        &[DROP, REBUILD, batch(0, B)],
        &[DROP, REBUILD, write(1, B)],
        &[DROP, REBUILD, write(0, B), write(0, NONE)],
        &[DROP, REBUILD, write(0, B), batch(0, C)],
    ];
    cases.iter().map(|programs| Model::entries(programs).with_guard(guard)).collect()
}

#[test]
fn lookup_during_a_drop_misses_no_record() {
    let states: Vec<_> = lookups().iter().map(|case| holds("lookups during a drop", case)).collect();
    println!("lookups during a drop: {states:?} states");
}

#[test]
fn writers_during_a_drop_store_no_value_twice() {
    for guard in [DropGuard::Epoch, DropGuard::Wait] {
        let states: Vec<_> = writers(guard).iter().map(|case| holds("writers during a drop", case)).collect();
        println!("writers during a drop, {guard:?}: {states:?} states");
    }
}

#[test]
fn index_that_was_dropped_and_built_again_misses_no_record() {
    for guard in [DropGuard::Epoch, DropGuard::Wait] {
        let states: Vec<_> = entries(guard).iter().map(|case| holds("a drop and a build", case)).collect();
        println!("entries during a drop and a build, {guard:?}: {states:?} states");
    }
}

#[test]
fn broken_rules_of_a_drop_are_caught() {
    let lookups = lookups();
    caught(&lookups, Mutant::DropErasesBeforeSwitch, 5);
    caught(&lookups, Mutant::LookupTrustsOldCard, 5);
    caught(&lookups, Mutant::LookupReadsCardFirst, 5);
    caught(&lookups, Mutant::LookupIgnoresBuild, 3);
    caught(&writers(DropGuard::Epoch), Mutant::DropKeepsEpoch, 4);
    caught(&writers(DropGuard::Epoch), Mutant::WriterKeepsEntriesOverBuild, 1);
    caught(&writers(DropGuard::Wait), Mutant::DropDoesNotWait, 4);
    caught(&writers(DropGuard::Wait), Mutant::WriterKeepsEntriesOverBuild, 1);
    caught(&entries(DropGuard::Epoch), Mutant::WriterKeepsEntriesOverBuild, 4);
    caught(&entries(DropGuard::Wait), Mutant::DropDoesNotWait, 4);
}
