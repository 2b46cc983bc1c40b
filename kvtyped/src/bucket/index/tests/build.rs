//! The online build of an index, while programs with and without the index write.

use super::explore::{caught, holds};
use super::model::{A, B, Model, Mutant, NONE, Program};
use crate::bucket::index::attempt::Means;

fn write(value: u8) -> Program {
    Program::Write { key: 0, value, means: Means::Singly }
}

fn old(value: u8, is_blind: bool) -> Program {
    Program::Old { value, is_blind }
}

fn cases(is_blind: bool) -> Vec<Model> {
    let clean = |value| Program::CleanEntry { value };
    let cases = [
        vec![Program::Build, old(B, is_blind), write(B)],
        vec![Program::Build, old(B, is_blind), old(A, is_blind), write(B), write(A)],
        vec![Program::Build, write(NONE), write(B), clean(A)],
        vec![Program::Build, old(B, is_blind), write(B), clean(A), clean(B)],
    ];
    cases.iter().map(|programs| Model::build(programs)).collect()
}

#[test]
fn built_index_misses_no_record() {
    let states: Vec<_> = cases(false).iter().map(|case| holds("build", case)).collect();
    println!("build: {states:?} states");
}

/// The epoch refuses blind writes, too.
#[test]
fn built_index_misses_no_blind_write_of_an_old_program() {
    let states: Vec<_> = [0, 3].map(|case| holds("build, blind", &cases(true)[case])).into_iter().collect();
    println!("build, blind: {states:?} states");
}

#[test]
fn broken_rules_of_a_build_are_caught() {
    let cases = cases(false);
    caught(&cases, Mutant::NoEpoch, 3);
    caught(&cases, Mutant::ScanBeforeSwitch, 3);
    caught(&cases, Mutant::ReadableBeforeScan, 4);
}
