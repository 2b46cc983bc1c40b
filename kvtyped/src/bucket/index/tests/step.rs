//! The steps of the processes of a model.

use super::action::{Action, DONE, Label, Successors, changes, continue_cleaning, end_attempt, outcomes, push};
use super::model::{InFlight, Model, Mutant, NONE, Process, Program, Record, Slot, World};
use super::{drops, followers};
use crate::bucket::index::attempt::{Attempt, Means, Reply, Task};
use crate::bucket::index::clean::Cleaning;
use crate::revision::Revision;

/// Returns every state that one step leads to.
pub(super) fn successors(model: &Model, world: &World) -> Successors {
    let mut out = Vec::new();
    for (process, program) in model.programs.iter().enumerate() {
        background(model, world, process, &mut out);
        match *program {
            Program::Write { key, value, means } => write(model, world, process, (key, value, means), &mut out),
            Program::CleanEntry { value } => {
                let slot = Slot::Entry { key: 0, value };
                clean(model, world, process, slot, Cleaning::of_entry(slot, 0), &mut out);
            }
            Program::CleanClaim { value } => {
                let slot = Slot::Claim { value };
                clean(model, world, process, slot, Cleaning::of_claim(slot), &mut out);
            }
            Program::Old { value, is_blind } => old(model, world, process, (value, is_blind), &mut out),
            Program::Build => build(model, world, process, &mut out),
            Program::Foreign { key, value } => foreign(world, process, (key, value), &mut out),
            Program::Follow { key, rounds } => followers::follow(model, world, process, (key, rounds), &mut out),
            Program::FollowEventual { rounds } => followers::follow_eventual(model, world, process, rounds, &mut out),
            Program::Compact { key } => compact(model, world, process, key, &mut out),
            Program::Drop => drops::drop_index(model, world, process, &mut out),
            Program::Rebuild => drops::rebuild(model, world, process, &mut out),
            Program::Lookup { value } => drops::lookup(model, world, process, value, &mut out),
        }
    }
    for (index, late) in world.in_flight.iter().enumerate() {
        let mut next = world.clone();
        next.in_flight.remove(index);
        next.perform(model, late);
        let label = Label { process: late.process, action: Action::ArrivesLate(late.effect.clone()) };
        out.push((label, next));
    }
    out.iter_mut().for_each(|(_, next)| next.simplify(model));
    out
}

/// Erasures, and the entries that a broken writer stores late.
fn background(model: &Model, world: &World, process: usize, out: &mut Successors) {
    for (index, (slot, through)) in world.processes[process].erasures.iter().enumerate() {
        let mut next = world.clone();
        if model.is(Mutant::ErasureReadsRevisionLate) && *through == 0 {
            next.processes[process].erasures[index].1 = world.revision_of(*slot).max(1);
        } else {
            next.processes[process].erasures.remove(index);
            next.erase(*slot, *through);
        }
        push(out, process, Action::Erase(*slot, *through), next);
    }
    let has_written = world.processes[process].pc == DONE;
    if let (true, Some(slot)) = (has_written, world.processes[process].deferred.last()) {
        let mut next = world.clone();
        next.processes[process].deferred.pop();
        let revision = next.take_revision();
        if let Slot::Entry { key, value } = *slot {
            next.entries[key as usize][value as usize] = revision;
        }
        push(out, process, Action::StoreDeferred(*slot), next);
    }
}

fn write(model: &Model, world: &World, process: usize, (key, value, means): (u8, u8, Means), out: &mut Successors) {
    let Process { pc, failed, attempt, .. } = &world.processes[process];
    if *pc == DONE || world.epoch == 0 {
        return;
    }
    let Some(attempt) = attempt else {
        // The first read may be of a stale replica. After a conflict, the leader is read.
        let found = match failed {
            0 => world.history[key as usize].as_slice(),
            _ => std::slice::from_ref(&world.records[key as usize]),
        };
        for (index, record) in found.iter().enumerate() {
            if found[..index].contains(record) {
                continue;
            }
            for card in drops::known_cards(model, world) {
                let mut next = world.clone();
                let changes = changes(model, key, *record, value);
                let attempt = Attempt::new(key, Revision::new(record.revision), changes, means);
                let own = &mut next.processes[process];
                (own.attempt, own.card, own.is_confirmed) = (Some(attempt), card, false);
                push(out, process, Action::Read(*record), next);
            }
        }
        return;
    };
    for (task, effect) in attempt.pending() {
        if task == Task::Record && model.has_drop() && drops::confirm(model, world, process, out) {
            return;
        }
        let on = InFlight { process, key, expected: attempt.expected().get(), effect };
        for (mut next, reply) in outcomes(model, world, &on) {
            continue_attempt(model, &mut next, process, task, reply.clone());
            push(out, process, Action::Do(on.effect.clone(), reply), next);
        }
    }
}

fn continue_attempt(model: &Model, world: &mut World, process: usize, task: Task, reply: Reply<u8>) {
    let Some(mut attempt) = world.processes[process].attempt.take() else { return };
    attempt.apply(task, reply);
    end_attempt(model, world, process, attempt);
}

fn clean(model: &Model, world: &World, process: usize, slot: Slot, new: Cleaning<u8, Slot>, out: &mut Successors) {
    if world.processes[process].pc != DONE && world.epoch > 0 {
        let cleaning = world.processes[process].cleaning.clone().unwrap_or(new);
        continue_cleaning(model, world, (process, DONE), (slot, cleaning), out);
    }
}

fn old(model: &Model, world: &World, process: usize, (value, is_blind): (u8, bool), out: &mut Successors) {
    if world.processes[process].pc == DONE {
        return;
    }
    let Some(read) = world.processes[process].read else {
        for record in &world.history[0] {
            let mut next = world.clone();
            next.processes[process].read = Some(*record);
            push(out, process, Action::Read(*record), next);
        }
        return;
    };
    let mut next = world.clone();
    (next.processes[process].pc, next.processes[process].read) = (DONE, None);
    let is_refused = world.epoch > 0 && !model.is(Mutant::NoEpoch);
    if !is_refused && (is_blind || world.records[0] == read) {
        next.write_record(0, value, false);
    }
    push(out, process, Action::OldWrite, next);
}

/// The switch of the epoch, the scan of record 0, its entry, and the state "readable".
fn build(model: &Model, world: &World, process: usize, out: &mut Successors) {
    const SWITCH: &str = "switch";
    const SCAN: &str = "scan";
    const PUT: &str = "put";
    const READABLE: &str = "readable";
    let order = match model.mutant {
        Some(Mutant::ScanBeforeSwitch) => [SCAN, SWITCH, PUT, READABLE],
        Some(Mutant::ReadableBeforeScan) => [SWITCH, READABLE, SCAN, PUT],
        _ => [SWITCH, SCAN, PUT, READABLE],
    };
    let Some(step) = order.get(world.processes[process].pc as usize) else { return };
    let mut next = world.clone();
    next.processes[process].pc += 1;
    match *step {
        SWITCH => next.epoch = 1,
        SCAN => next.processes[process].read = Some(world.records[0]),
        PUT => {
            let value = world.processes[process].read.map_or(NONE, |record| record.value);
            if value != NONE {
                next.entries[0][value as usize] = next.take_revision();
            }
        }
        _ => next.is_readable = true,
    }
    if next.processes[process].pc as usize == order.len() {
        next.processes[process].read = None;
    }
    push(out, process, Action::Step(step), next);
}

fn compact(model: &Model, world: &World, process: usize, key: u8, out: &mut Successors) {
    let record = world.records[key as usize];
    if world.processes[process].pc == DONE || record.value != NONE || record.revision == 0 {
        return;
    }
    let expects_none = world.processes.iter().any(|other| {
        other.attempt.as_ref().is_some_and(|attempt| *attempt.key() == key && attempt.expected() == Revision::ZERO)
    }) || world.in_flight.iter().any(|late| late.key == key && late.expected == 0);
    if expects_none && !model.is(Mutant::MarkerRemovedTooEarly) {
        return;
    }
    let mut next = world.clone();
    next.processes[process].pc = DONE;
    next.records[key as usize] = Record { value: NONE, revision: 0, is_kept: true };
    let removed = next.records[key as usize];
    next.history[key as usize].push(removed);
    push(out, process, Action::Compact, next);
}

fn foreign(world: &World, process: usize, (key, value): (u8, u8), out: &mut Successors) {
    if world.processes[process].pc != DONE {
        let mut next = world.clone();
        next.processes[process].pc = DONE;
        next.write_record(key, value, false);
        push(out, process, Action::ForeignWrite, next);
    }
}
