//! The parts that the steps of several processes share.

use super::model::{InFlight, Model, Mutant, NONE, Program, Record, Slot, World, owner_reply};
use crate::bucket::index::attempt::{Attempt, Effect, End, Reply, SlotChanges};
use crate::bucket::index::clean::{CleanEnd, Cleaning};

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

pub(super) fn push(out: &mut Successors, process: usize, action: Action, next: World) {
    out.push((Label { process, action }, next));
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
