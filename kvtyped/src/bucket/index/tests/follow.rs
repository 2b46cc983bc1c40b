//! Programs without the index, and followers that repair the entries of their records.

use super::explore::{caught, holds};
use super::model::{A, B, C, Model, Mutant, NONE, Program};
use crate::bucket::index::attempt::Means;

fn write(key: u8, value: u8) -> Program {
    Program::Write { key, value, means: Means::Singly }
}

fn foreign(value: u8) -> Program {
    Program::Foreign { key: 0, value }
}

const FOLLOW: Program = Program::Follow { key: 0, rounds: 1 };
const FOLLOW_TWICE: Program = Program::Follow { key: 0, rounds: 2 };

fn entries() -> Vec<Model> {
    let cases: [&[Program]; 7] = [
        &[foreign(B), FOLLOW_TWICE, write(0, C)],
        // The writer is about to erase an entry that the foreign record needs again.
        &[write(0, B), foreign(A), FOLLOW_TWICE],
        &[write(0, B), foreign(A), write(0, A)],
        &[foreign(NONE), FOLLOW_TWICE, write(0, A)],
        &[foreign(B), FOLLOW, FOLLOW, write(0, A)],
        &[foreign(B), foreign(A), FOLLOW, write(0, B)],
        &[foreign(B), FOLLOW, write(0, NONE), write(0, A)],
    ];
    cases.iter().map(|programs| Model::entries(programs)).collect()
}

fn unique() -> Vec<Model> {
    let cases: [&[Program]; 5] = [
        &[foreign(B), FOLLOW_TWICE, write(1, A)],
        &[foreign(B), FOLLOW, write(1, B)],
        &[write(0, B), foreign(A), FOLLOW],
        &[foreign(B), FOLLOW, FOLLOW, write(0, A)],
        &[foreign(B), write(0, B), write(1, B)],
    ];
    cases.iter().map(|programs| Model::unique(programs)).collect()
}

fn compact() -> Vec<Model> {
    let compact = Program::Compact { key: 0 };
    vec![
        Model::entries(&[foreign(NONE), FOLLOW, compact, write(0, B)]),
        Model::entries(&[write(0, NONE), compact, foreign(A), FOLLOW_TWICE]),
        Model::unique(&[foreign(NONE), FOLLOW, compact, write(1, A)]),
        Model::unique(&[write(0, NONE), compact, foreign(B), FOLLOW]),
    ]
}

/// No writer stores entries of an eventual index. Two followers run at once if a lease has expired.
fn eventual() -> Vec<Model> {
    let once = Program::FollowEventual { rounds: 1 };
    let twice = Program::FollowEventual { rounds: 2 };
    let cases: [&[Program]; 5] = [
        &[foreign(B), once],
        &[foreign(B), foreign(A), once, once],
        &[foreign(B), foreign(A), twice, twice],
        &[foreign(NONE), foreign(A), twice, once],
        &[foreign(B), foreign(C), foreign(B), once, once],
    ];
    cases.iter().map(|programs| Model::entries(programs)).collect()
}

#[test]
fn record_has_its_entry_of_an_eventual_index() {
    let states: Vec<_> = eventual().iter().map(|case| holds("eventual", case)).collect();
    println!("eventual: {states:?} states");
}

#[test]
fn broken_rules_of_eventual_indexes_are_caught() {
    caught(&eventual(), Mutant::EventualErasesWithoutBound, 3);
    caught(&eventual(), Mutant::EventualReadsBoundLate, 3);
}

#[test]
fn followed_record_has_its_entry() {
    let states: Vec<_> = entries().iter().map(|case| holds("followed entries", case)).collect();
    println!("followed entries: {states:?} states");
}

#[test]
fn followed_record_has_its_claim() {
    let states: Vec<_> = unique().iter().map(|case| holds("followed claims", case)).collect();
    println!("followed claims: {states:?} states");
    let both = holds("both", &Model::both(&[foreign(B), FOLLOW, write(1, A)]));
    println!("followed entries and claims: {both} states");
}

#[test]
fn followers_hold_beside_removed_markers() {
    let states: Vec<_> = compact().iter().map(|case| holds("followed, removed markers", case)).collect();
    println!("followed, removed markers: {states:?} states");
}

#[test]
fn followers_survive_lost_replies() {
    let states = [
        holds("lost replies", &Model::entries(&[write(0, B), foreign(A), FOLLOW]).with_lost_replies(1)),
        holds("lost replies", &Model::unique(&[foreign(B), FOLLOW, write(1, A)]).with_lost_replies(1)),
    ];
    println!("followed, lost replies: {states:?} states");
}

#[test]
fn broken_rules_of_followers_are_caught() {
    let entries = entries();
    caught(&entries, Mutant::FollowerErasesWithoutCondition, 3);
    caught(&entries, Mutant::FollowerTrustsFoundEntries, 1);
    caught(&entries, Mutant::CleanerLeavesPendingWriters, 1);
    caught(&entries, Mutant::WriterTrustsForeignRecords, 1);
    caught(&unique(), Mutant::WriterTrustsForeignRecords, 1);
}
