//! The steps of the processes of a model.

use super::model::{InFlight, Model, Mutant, NONE, Process, Program, Record, Slot, World, owner_reply};
use super::{drops, followers};
use crate::bucket::index::attempt::{Attempt, Effect, End, Means, Reply, SlotChanges, Task};
use crate::bucket::index::clean::{CleanEnd, Cleaning};
use crate::revision::Revision;

/// One step, for the path to a violation.
#[derive(Debug)]
pub(super) struct Label {
    pub(super) process: usize,
    pub(super) action: Action,
}

#[derive(Debug)]
#[allow(dead_code, reason = "the fields are shown by `Debug`")]
pub(super) enum Action {
    Read(Record),
    Do(Effect<u8, Slot>, Reply<u8>),
    ArrivesLate(Effect<u8, Slot>),
    Erase(Slot, u64),
    StoreDeferred(Slot),
    OldWrite,
    ForeignWrite,
    List,
    /// A step of a builder, of a dropper or of a lookup.
    Step(&'static str),
    Compact,
}

pub(super) type Successors = Vec<(Label, World)>;

pub(super) const DONE: u8 = 9;

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

pub(super) fn push(out: &mut Successors, process: usize, action: Action, next: World) {
    out.push((Label { process, action }, next));
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

/// Returns the worlds and replies that an effect may lead to.
pub(super) fn outcomes(model: &Model, world: &World, on: &InFlight) -> Vec<(World, Reply<u8>)> {
    let mut next = world.clone();
    let reply = next.perform(model, on);
    let mut outcomes = Vec::new();
    if let Effect::ReadOwner { owner, slot } = &on.effect
        && model.stale_leader
    {
        for record in &world.history[*owner as usize] {
            if *record != world.records[*owner as usize] {
                outcomes.push((world.clone(), owner_reply(*record, *slot)));
            }
        }
    }
    let is_write = !matches!(on.effect, Effect::ReadClaim(_) | Effect::ReadOwner { .. });
    if is_write && world.lost_replies > 0 {
        let mut lost = next.clone();
        lost.lost_replies -= 1;
        outcomes.push((lost, Reply::Unknown));
        let mut late = world.clone();
        late.lost_replies -= 1;
        late.in_flight.push(on.clone());
        outcomes.push((late, Reply::Unknown));
    }
    outcomes.push((next, reply));
    outcomes
}

pub(super) fn changes(model: &Model, key: u8, replaced: Record, to: u8) -> SlotChanges<Slot> {
    let Record { value: from, is_kept, .. } = replaced;
    let is_kept = is_kept || model.is(Mutant::WriterTrustsForeignRecords);
    let entry = |value| Slot::Entry { key, value };
    let claim = |value| Slot::Claim { value };
    let (gains, loses) = ((from != to || !is_kept) && to != NONE, from != to && from != NONE);
    let mut changes = SlotChanges { entries: Vec::new(), claims: Vec::new(), lost: Vec::new() };
    if model.has_entries {
        changes.entries.extend(gains.then(|| entry(to)));
        changes.lost.extend(loses.then(|| entry(from)));
    }
    if model.has_claims {
        changes.claims.extend(gains.then(|| claim(to)));
        changes.lost.extend(loses.then(|| claim(from)));
    }
    changes
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

/// Continues with the end of an attempt, if it has ended.
pub(super) fn end_attempt(model: &Model, world: &mut World, process: usize, attempt: Attempt<u8, Slot>) {
    let Some(end) = attempt.end() else {
        world.processes[process].attempt = Some(attempt);
        return;
    };
    let failed = matches!(end, End::Retry { .. } | End::NotUnique { .. });
    let mut erasures: Vec<_> = attempt.erasures().into_iter().map(|(slot, through)| (slot, through.get())).collect();
    if failed && model.is(Mutant::FailedWriterErasesForeignClaim) {
        let Program::Write { value, .. } = model.programs[process] else { return };
        let slot = Slot::Claim { value };
        let is_own = world.claims[value as usize].as_ref().is_some_and(|claim| claim.owner == *attempt.key());
        erasures.extend(is_own.then(|| (slot, world.revision_of(slot))));
    }
    if !failed && model.is(Mutant::ErasureReadsRevisionLate) {
        erasures.iter_mut().for_each(|(_, through)| *through = 0);
    }
    if !failed && model.is(Mutant::ErasureWithoutRevision) {
        erasures.iter_mut().for_each(|(_, through)| *through = u64::MAX);
    }
    let own = &mut world.processes[process];
    own.erasures.extend(erasures);
    (own.card, own.is_confirmed) = Default::default();
    own.failed += 1;
    let retries = matches!(end, End::Retry { .. }) && own.failed < model.attempts;
    if !retries {
        (own.pc, own.failed) = (DONE, 0);
    }
    if failed {
        own.deferred.clear();
    }
}

fn clean(model: &Model, world: &World, process: usize, slot: Slot, new: Cleaning<u8, Slot>, out: &mut Successors) {
    if world.processes[process].pc != DONE && world.epoch > 0 {
        let cleaning = world.processes[process].cleaning.clone().unwrap_or(new);
        continue_cleaning(model, world, (process, DONE), (slot, cleaning), out);
    }
}

/// Performs the next effect of a cleaning. Its process continues at `after`.
pub(super) fn continue_cleaning(
    model: &Model,
    world: &World,
    (process, after): (usize, u8),
    (slot, cleaning): (Slot, Cleaning<u8, Slot>),
    out: &mut Successors,
) {
    let Ok(effect) = cleaning.next() else { return };
    let on = InFlight { process, key: u8::MAX, expected: 0, effect };
    for (mut next, reply) in outcomes(model, world, &on) {
        let mut cleaning = cleaning.clone();
        cleaning.apply(reply.clone());
        let own = &mut next.processes[process];
        match cleaning.next() {
            Ok(_) => own.cleaning = Some(cleaning),
            Err(end) => {
                (own.cleaning, own.pc) = (None, after);
                if let CleanEnd::Erase(through) = end {
                    let ignores_revision = model.is(Mutant::ErasureWithoutRevision);
                    own.erasures.push((slot, if ignores_revision { u64::MAX } else { through.get() }));
                }
            }
        }
        push(out, process, Action::Do(on.effect.clone(), reply), next);
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
