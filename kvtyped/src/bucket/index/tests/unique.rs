//! Claims of unique values, with and without entries.

use super::explore::{caught, holds};
use super::model::{A, B, C, Model, Mutant, NONE, Program};
use crate::bucket::index::attempt::Means;

fn first(value: u8) -> Program {
    Program::Write { key: 0, value, means: Means::Singly }
}

fn second(value: u8) -> Program {
    Program::Write { key: 1, value, means: Means::Singly }
}

fn batch(key: u8, value: u8) -> Program {
    Program::Write { key, value, means: Means::Batch }
}

fn compact(key: u8) -> Program {
    Program::Compact { key }
}

fn programs() -> [Vec<Program>; 5] {
    [
        vec![first(B), second(B)],
        vec![first(B), second(A), first(A)],
        vec![first(B), first(B), second(B)],
        vec![first(NONE), second(A), first(A)],
        vec![first(B), first(C), second(B)],
    ]
}

fn cases() -> Vec<Model> {
    programs().iter().map(|programs| Model::unique(programs)).collect()
}

fn compact_cases() -> Vec<Model> {
    let cases: [&[Program]; 6] = [
        &[first(NONE), compact(0), second(A)],
        &[first(NONE), compact(0), second(A), first(A)],
        &[first(B), first(NONE), compact(0), second(B)],
        &[second(B), second(NONE), compact(1), first(B)],
        &[second(B), first(B), compact(1), second(B)],
        &[second(B), first(B), first(NONE), compact(1), compact(0)],
    ];
    cases.iter().map(|programs| Model::unique(programs)).collect()
}

#[test]
fn unique_value_has_one_record_and_its_claim() {
    let states: Vec<_> = cases().iter().map(|case| holds("unique", case)).collect();
    println!("unique: {states:?} states");
}

#[test]
fn broken_rules_of_claims_are_caught() {
    let cases = cases();
    caught(&cases, Mutant::NoRewriteOfPendingOwner, 5);
    caught(&cases, Mutant::LoweredExpectation, 1);
    caught(&cases, Mutant::BlindTakeOver, 5);
    caught(&cases, Mutant::BlindRecord, 5);
    caught(&cases, Mutant::ErasureReadsRevisionLate, 2);
    caught(&cases, Mutant::ErasureWithoutRevision, 3);
    caught(&cases, Mutant::FailedWriterErasesForeignClaim, 1);
}

#[test]
fn removed_markers_keep_claims() {
    let states: Vec<_> = compact_cases().iter().map(|case| holds("compact", case)).collect();
    println!("compact: {states:?} states");
}

#[test]
fn broken_rules_of_removed_markers_are_caught() {
    let cases = compact_cases();
    caught(&cases, Mutant::NoMarkerForMissingOwner, 1);
    caught(&cases, Mutant::MarkerRemovedTooEarly, 3);
}

#[test]
fn claims_and_entries_hold_together() {
    // With two attempts, two writers of one value alone have 142,464 states.
    let contended = holds("both", &Model::both(&[first(B), second(B)]).with_attempts(1));
    let cases =
        [vec![first(NONE), second(A)], vec![first(B), second(A)], vec![first(B), first(B)], vec![second(B), second(C)]];
    let states: Vec<_> = cases.iter().map(|programs| holds("both", &Model::both(programs))).collect();
    println!("claims and entries: {contended}, {states:?} states");
}

#[test]
fn claims_survive_a_third_attempt() {
    let states = [
        holds("three attempts", &Model::unique(&[first(B), second(B)]).with_attempts(4)),
        holds("three attempts", &Model::unique(&[first(B), second(A), first(A)]).with_attempts(3)),
    ];
    println!("claims, more attempts: {states:?} states");
}

#[test]
fn claims_survive_lost_replies() {
    let states: Vec<_> = [
        Model::unique(&[first(B), second(B)]).with_lost_replies(1),
        Model::unique(&[first(NONE), second(A)]).with_lost_replies(2),
        Model::unique(&[first(B), first(B)]).with_lost_replies(1),
        Model::unique(&[first(B), second(A)]).with_lost_replies(1),
    ]
    .iter()
    .map(|case| holds("lost replies", case))
    .collect();
    println!("claims, lost replies: {states:?} states");
}

#[test]
fn claims_survive_stale_answers_of_a_leader() {
    let states: Vec<_> = programs()
        .iter()
        .chain([&vec![first(NONE), compact(0), second(A)]])
        .map(|programs| holds("stale leader", &Model::unique(programs).with_stale_leader()))
        .collect();
    println!("claims, stale leader: {states:?} states");
}

#[test]
fn claims_survive_batches_beside_single_writes() {
    let states: Vec<_> = [
        Model::both(&[batch(0, B), second(B)]),
        Model::both(&[first(B), batch(1, B)]),
        Model::both(&[batch(0, B), batch(1, B)]).with_lost_replies(1),
        Model::unique(&[batch(0, B), second(A), first(A)]),
        Model::unique(&[batch(0, B), batch(0, C), second(B)]),
        Model::unique(&[batch(0, NONE), batch(1, A), first(A)]),
    ]
    .iter()
    .map(|case| holds("batches", case))
    .collect();
    println!("claims, batches: {states:?} states");
}

#[test]
fn cleaner_keeps_claims_of_live_records() {
    let clean = |value| Program::CleanClaim { value };
    let cases: Vec<_> = [
        Model::unique(&[first(B), second(A), clean(A)]),
        Model::unique(&[first(B), second(B), clean(B)]),
        Model::unique(&[first(NONE), second(A), clean(A), compact(0)]),
        Model::unique(&[second(B), second(C), clean(B)]),
    ]
    .into_iter()
    .collect();
    let states: Vec<_> = cases.iter().map(|case| holds("cleaner", case)).collect();
    println!("claims, cleaner: {states:?} states");
    caught(&cases, Mutant::CleanerLeavesPendingWriters, 3);
}
