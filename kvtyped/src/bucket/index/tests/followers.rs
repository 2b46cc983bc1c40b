//! The steps of followers.

use super::action::{Action, DONE, Successors, changes, continue_cleaning, outcomes, push};
use super::model::{InFlight, Model, Mutant, NONE, Record, Slot, VALUES, World};
use crate::bucket::index::attempt::{Attempt, End, Means};
use crate::bucket::index::clean::Cleaning;
use crate::revision::Revision;

/// The newest record, its entry and claim, and then the other entries of the record, by the cleaner's way.
pub(super) fn follow(model: &Model, world: &World, process: usize, (key, rounds): (u8, u8), out: &mut Successors) {
    const READ: u8 = 0;
    const STORE: u8 = 1;
    const CLEAN: u8 = 2;
    let own = &world.processes[process];
    let last = CLEAN + VALUES as u8;
    match own.pc {
        READ => {
            let record = world.records[key as usize];
            if record.revision == world.followed[key as usize] {
                return;
            }
            let mut next = world.clone();
            let own = &mut next.processes[process];
            own.read = Some(record);
            own.pc = CLEAN + 1;
            if record.value != NONE && !record.is_kept {
                let changes = changes(model, key, Record { value: NONE, ..record }, record.value);
                let revision = Revision::new(record.revision);
                (own.attempt, own.pc) = (Some(Attempt::new(key, revision, changes, Means::SlotsOnly)), STORE);
            }
            push(out, process, Action::Read(record), next);
        }
        STORE => {
            let Some(attempt) = &own.attempt else { return };
            for (task, effect) in attempt.pending() {
                let on = InFlight { process, key, expected: attempt.expected().get(), effect };
                for (mut next, reply) in outcomes(model, world, &on) {
                    let mut attempt = attempt.clone();
                    attempt.apply(task, reply.clone());
                    let end = attempt.end().cloned();
                    let own = &mut next.processes[process];
                    own.attempt = end.is_none().then_some(attempt);
                    match end {
                        None => {}
                        Some(End::Stored) => {
                            let record = own.read.expect("it was read");
                            own.pc = CLEAN + 1;
                            if next.records[key as usize] == record {
                                next.followed[key as usize] = record.revision;
                            }
                        }
                        // A duplicate is reported, and another writer has another event.
                        Some(_) => own.pc = CLEAN + 1,
                    }
                    push(out, process, Action::Do(on.effect.clone(), reply), next);
                }
            }
        }
        step if step < last => {
            let value = step - CLEAN;
            let slot = Slot::Entry { key, value };
            let is_listed = model.has_entries && world.revision_of(slot) > 0;
            let is_stale = own.read.is_some_and(|record| record.value != value) && is_listed;
            if own.cleaning.is_none() && !is_stale {
                let mut next = world.clone();
                next.processes[process].pc += 1;
                push(out, process, Action::List, next);
                return;
            }
            if model.is(Mutant::FollowerErasesWithoutCondition) {
                let mut next = world.clone();
                next.processes[process].pc += 1;
                next.erase(slot, u64::MAX);
                push(out, process, Action::Erase(slot, u64::MAX), next);
                return;
            }
            let cleaning = own.cleaning.clone().unwrap_or_else(|| Cleaning::of_entry(slot, key));
            continue_cleaning(model, world, (process, step + 1), (slot, cleaning), out);
        }
        DONE => {}
        _ => {
            let mut next = world.clone();
            let own = &mut next.processes[process];
            (own.read, own.failed) = (None, own.failed + 1);
            own.pc = if own.failed < rounds { READ } else { DONE };
            push(out, process, Action::List, next);
        }
    }
}

/// The newest record of key 0 and its entry. Then the last revision of the bucket, the record again, and the erasure of its
/// other entries up to that revision.
pub(super) fn follow_eventual(model: &Model, world: &World, process: usize, rounds: u8, out: &mut Successors) {
    const READ: u8 = 0;
    const STORE: u8 = 1;
    const FIRST: u8 = 2;
    const SECOND: u8 = 3;
    const ERASE: u8 = 4;
    let own = &world.processes[process];
    let mut next = world.clone();
    let state = &mut next.processes[process];
    let reads_late = model.is(Mutant::EventualReadsBoundLate);
    let mut read_bound = |pc| {
        (state.through, state.pc) = (world.next - 1, pc);
        Action::Step("read the last revision")
    };
    let action = match own.pc {
        READ if world.records[0].revision == world.followed[0] => return,
        READ => {
            (state.read, state.pc) = (Some(world.records[0]), STORE);
            Action::Read(world.records[0])
        }
        STORE => {
            state.pc = FIRST;
            let Some(record) = own.read else { return };
            if record.value != NONE {
                next.entries[0][record.value as usize] = next.take_revision();
            }
            if world.records[0] == record {
                next.followed[0] = record.revision;
            }
            Action::Step("store the entry")
        }
        FIRST if !reads_late => read_bound(SECOND),
        SECOND if reads_late => read_bound(ERASE),
        FIRST | SECOND => {
            (state.read, state.pc) = (Some(world.records[0]), own.pc + 1);
            Action::Read(world.records[0])
        }
        step if step < ERASE + VALUES as u8 => {
            let slot = Slot::Entry { key: 0, value: step - ERASE };
            state.pc += 1;
            let through = if model.is(Mutant::EventualErasesWithoutBound) { u64::MAX } else { own.through };
            if own.read.is_some_and(|record| record.value != slot.value()) {
                next.erase(slot, through);
            }
            Action::Erase(slot, through)
        }
        DONE => return,
        _ => {
            (state.read, state.through, state.failed) = (None, 0, own.failed + 1);
            state.pc = if state.failed < rounds { READ } else { DONE };
            Action::List
        }
    };
    push(out, process, action, next);
}
