//! Entries of one record.

use super::explore::{caught, holds};
use super::model::{A, B, C, Model, Mutant, NONE, Program};
use crate::bucket::index::attempt::Means;

fn write(value: u8) -> Program {
    Program::Write { key: 0, value, means: Means::Singly }
}

fn batch(value: u8) -> Program {
    Program::Write { key: 0, value, means: Means::Batch }
}

fn clean(value: u8) -> Program {
    Program::CleanEntry { value }
}

fn cases() -> Vec<Model> {
    let cases: [&[Program]; 5] = [
        &[write(B), write(A), write(B)],
        &[write(B), write(A), clean(A), clean(B)],
        &[write(NONE), write(A), write(B)],
        &[write(B), write(B), clean(B)],
        &[write(B), write(A), write(NONE), clean(A)],
    ];
    cases.iter().map(|programs| Model::entries(programs)).collect()
}

#[test]
fn entry_exists_for_each_record() {
    let states: Vec<_> = cases().iter().map(|case| holds("entries", case)).collect();
    println!("entries: {states:?} states");
}

#[test]
fn broken_rules_of_entries_are_caught() {
    let cases = cases();
    caught(&cases, Mutant::RecordBeforeEntry, 5);
    caught(&cases, Mutant::BlindRecord, 5);
    caught(&cases, Mutant::ErasureReadsRevisionLate, 4);
    caught(&cases, Mutant::ErasureWithoutRevision, 5);
    caught(&cases, Mutant::FailedWriterErasesForeignEntry, 2);
    caught(&cases, Mutant::CleanerLeavesPendingWriters, 3);
}

#[test]
fn entries_survive_a_third_attempt() {
    let states = [
        holds("three attempts", &Model::entries(&[write(B), write(C), write(A)]).with_attempts(3)),
        holds("three attempts", &Model::entries(&[write(B), write(NONE), clean(B)]).with_attempts(4)),
    ];
    println!("entries, more attempts: {states:?} states");
}

#[test]
fn entries_survive_lost_replies() {
    let states: Vec<_> = [
        Model::entries(&[write(B), write(A)]).with_lost_replies(2),
        Model::entries(&[write(B), clean(A), clean(B)]).with_lost_replies(1),
        Model::entries(&[write(NONE), write(B), clean(A)]).with_lost_replies(1),
    ]
    .iter()
    .map(|case| holds("lost replies", case))
    .collect();
    println!("entries, lost replies: {states:?} states");
}

#[test]
fn entries_survive_batches_beside_single_writes() {
    let states: Vec<_> = [
        Model::entries(&[batch(B), write(A), write(B)]),
        Model::entries(&[batch(B), write(A), clean(A), clean(B)]),
        Model::entries(&[batch(B), batch(A), write(NONE), clean(B)]),
        Model::entries(&[batch(B), write(B)]).with_lost_replies(2),
    ]
    .iter()
    .map(|case| holds("batches", case))
    .collect();
    println!("entries, batches: {states:?} states");
}

#[test]
fn removed_markers_keep_entries() {
    let compact = Program::Compact { key: 0 };
    let cases = [
        Model::entries(&[write(NONE), compact, write(A)]),
        Model::entries(&[write(NONE), compact, write(A), write(B)]),
        Model::entries(&[write(NONE), compact, write(A), clean(A)]),
    ];
    let states: Vec<_> = cases.iter().map(|case| holds("removed markers", case)).collect();
    println!("entries, removed markers: {states:?} states");
}

/// The limit of every `create`: it may still be applied after the marker of the record is gone.
#[test]
fn marker_removed_before_a_pending_create_loses_the_entry() {
    let compact = Program::Compact { key: 0 };
    let mut case = Model::entries(&[write(B), write(NONE), write(B), compact]);
    // The key has no entry at the start.
    case.start.history[0] = vec![super::model::Record { value: NONE, revision: 0, is_kept: true }];
    case.start.records[0] = case.start.history[0][0];
    case.start.entries[0] = [0; super::model::VALUES];
    caught(&[case], Mutant::MarkerRemovedTooEarly, 1);
}
