//! The steps of processes that drop an index, build it again, and look values up.

use super::action::{Action, DONE, Successors, end_attempt, push};
use super::model::{
    Card, DropGuard, KEYS, LookupState, Model, Mutant, NONE, Process, Program, Slot, VALUES, World, claim,
};

/// The build of an index that is not in the card.
const NO_BUILD: u8 = u8::MAX;

const SWITCH: &str = "the card says `dropping`";
const WAIT: &str = "wait for the writers";
const ERASE: &str = "list the claims and entries";

/// Changes the card, and erases the entries and claims up to the revision of that moment, in any order.
pub(super) fn drop_index(model: &Model, world: &World, process: usize, out: &mut Successors) {
    let order = match (model.guard, model.mutant) {
        (_, Some(Mutant::DropErasesBeforeSwitch)) => vec![ERASE, SWITCH],
        (DropGuard::Wait, _) if model.has_claims => vec![SWITCH, WAIT, ERASE],
        (DropGuard::Wait, _) => vec![SWITCH, ERASE, WAIT],
        (DropGuard::Epoch, _) => vec![SWITCH, ERASE],
    };
    let own = &world.processes[process];
    if own.pc == DONE || !own.erasures.is_empty() {
        return;
    }
    let mut next = world.clone();
    let Some(step) = order.get(own.pc as usize) else {
        next.processes[process].pc = DONE;
        push(out, process, Action::Step("the drop has ended"), next);
        return;
    };
    next.processes[process].pc += 1;
    match *step {
        SWITCH => {
            (next.is_readable, next.build) = (false, NO_BUILD);
            if model.guard == DropGuard::Epoch && model.has_claims && !model.is(Mutant::DropKeepsEpoch) {
                next.epoch += 1;
            }
        }
        WAIT => {
            // Until no write relies on the earlier card, or on erased entries.
            let relies = |other: &Process| other.attempt.is_some() && (other.is_confirmed || !model.has_claims);
            if world.processes.iter().any(relies) && !model.is(Mutant::DropDoesNotWait) {
                return;
            }
            next.has_waited = true;
        }
        _ => {
            let claims = (0..VALUES as u8).map(|value| Slot::Claim { value });
            let keys = |value| (0..KEYS as u8).map(move |key| Slot::Entry { key, value });
            let found = claims.chain((0..VALUES as u8).flat_map(keys)).filter(|slot| world.revision_of(*slot) > 0);
            let through = world.next - 1;
            next.processes[process].erasures = found.map(|slot| (slot, through)).collect();
        }
    }
    push(out, process, Action::Step(step), next);
}

/// Stores the claim or entry of each record. Begins after the drop has ended.
pub(super) fn rebuild(model: &Model, world: &World, process: usize, out: &mut Successors) {
    const BEGIN: u8 = 0;
    const READABLE: u8 = KEYS as u8 + 1;
    let is_dropping = |(other, program): (&Process, &Program)| *program == Program::Drop && other.pc != DONE;
    let step = world.processes[process].pc;
    if step > READABLE || world.processes.iter().zip(&model.programs).any(is_dropping) {
        return;
    }
    let mut next = world.clone();
    next.processes[process].pc += 1;
    let label = match step {
        BEGIN => {
            next.build = 1;
            next.epoch += u8::from(model.guard == DropGuard::Epoch);
            "the card says `writing`"
        }
        READABLE => {
            next.is_readable = true;
            "the card says `readable`"
        }
        key => {
            let (key, record) = (key - 1, world.records[key as usize - 1]);
            if record.value != NONE {
                let revision = next.take_revision();
                match model.has_claims {
                    true => next.claims[record.value as usize] = Some(claim(key, record.revision, revision)),
                    false => next.entries[key as usize][record.value as usize] = revision,
                }
            }
            "store a claim or an entry"
        }
    };
    push(out, process, Action::Step(label), next);
}

/// Returns the cards that a writer may know when it begins: the card from before the drop, and the newest card. A writer that
/// opens the bucket without the unique index is promised nothing.
pub(super) fn known_cards(model: &Model, world: &World) -> Vec<Card> {
    let mut cards = vec![Card::default()];
    if world.card() != Card::default() && (world.is_readable || !model.has_claims) {
        cards.push(world.card());
    }
    cards
}

/// The check of a writer between its claims and its record. Returns whether the record has to wait for a step of the check.
pub(super) fn confirm(model: &Model, world: &World, process: usize, out: &mut Successors) -> bool {
    let own = &world.processes[process];
    let refuse = |out: &mut Successors, retries: bool| {
        let mut next = world.clone();
        let Some(mut attempt) = next.processes[process].attempt.take() else { return };
        attempt.abandon();
        next.processes[process].is_confirmed = false;
        if !retries {
            next.processes[process].failed = model.attempts;
        }
        end_attempt(model, &mut next, process, attempt);
        push(out, process, Action::Step("refused by the card"), next);
    };
    let accept = |out: &mut Successors| {
        let mut next = world.clone();
        let own = &mut next.processes[process];
        (own.is_confirmed, own.card.epoch) = (true, world.epoch);
        push(out, process, Action::Step("accepted by the card"), next);
    };
    let has_other_build = own.card.build != world.build && !model.is(Mutant::WriterKeepsEntriesOverBuild);
    let is_refused = model.has_claims && !world.is_readable;
    match model.guard {
        // The server compares the epoch with that of the write.
        DropGuard::Epoch if own.card.epoch == world.epoch => return false,
        DropGuard::Epoch if is_refused => refuse(out, false),
        DropGuard::Epoch if has_other_build => refuse(out, true),
        DropGuard::Epoch => accept(out),
        DropGuard::Wait if own.is_confirmed => return false,
        DropGuard::Wait if !model.has_claims => {
            accept(out);
            // The entries are too old.
            refuse(out, true);
        }
        DropGuard::Wait => {
            if !world.has_waited || model.is(Mutant::DropDoesNotWait) {
                // An earlier reading is recent enough.
                accept(out);
            }
            match world.is_readable {
                true if has_other_build => refuse(out, true),
                true if world.has_waited => accept(out),
                true => {}
                false => refuse(out, false),
            }
        }
    }
    true
}

/// Reads the claim and its record. If the value is not found, reads the card to confirm that.
pub(super) fn lookup(model: &Model, world: &World, process: usize, value: u8, out: &mut Successors) {
    const CLAIM: u8 = 1;
    const OWNER: u8 = 2;
    const CARD: u8 = 3;
    let own = &world.processes[process];
    let mut next = world.clone();
    let Some(lookup) = own.lookup else {
        if own.pc == DONE {
            return;
        }
        let reads_card = model.is(Mutant::LookupReadsCardFirst);
        if reads_card && !world.is_readable {
            return;
        }
        let build = if reads_card { world.build } else { 0 };
        let was_absent = !world.has_record_of(value);
        let own = &mut next.processes[process];
        own.lookup = Some(LookupState { build, owner: 0, was_absent, has_missed: false });
        own.pc = CLAIM;
        push(out, process, Action::Step("begin a lookup"), next);
        return;
    };
    let state = &mut next.processes[process];
    let end = |state: &mut Process| (state.pc, state.lookup) = (DONE, None);
    match own.pc {
        CLAIM => match &world.claims[value as usize] {
            Some(claim) => {
                state.lookup = Some(LookupState { owner: claim.owner, ..lookup });
                state.pc = OWNER;
            }
            None => state.pc = CARD,
        },
        OWNER if world.records[lookup.owner as usize].value == value => end(state),
        OWNER => state.pc = CARD,
        CARD => {
            let trusts = model.is(Mutant::LookupTrustsOldCard) || model.is(Mutant::LookupReadsCardFirst);
            let is_same = lookup.build == world.build || model.is(Mutant::LookupIgnoresBuild);
            if trusts || (world.is_readable && is_same) {
                // The result is that no record has the value.
                match lookup.was_absent {
                    true => end(state),
                    false => state.lookup = Some(LookupState { has_missed: true, ..lookup }),
                }
            } else if world.is_readable {
                state.lookup = Some(LookupState { build: world.build, ..lookup });
                state.pc = CLAIM;
            } else {
                end(state);
            }
        }
        _ => return,
    }
    push(out, process, Action::Step("look up"), next);
}
