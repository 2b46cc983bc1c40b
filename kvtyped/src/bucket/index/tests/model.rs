//! The state of a model: a tiny store, and processes that run the real state machines over it.

use crate::bucket::index::attempt::{Attempt, Claim, Effect, Means, Reply};
use crate::bucket::index::clean::Cleaning;
use crate::revision::Revision;

/// The number of records of a model, with the keys 0 and 1.
pub(super) const KEYS: usize = 2;

/// The number of values, including [`NONE`].
pub(super) const VALUES: usize = 4;

/// The value of a key without a live record.
pub(super) const NONE: u8 = 0;
pub(super) const A: u8 = 1;
pub(super) const B: u8 = 2;
pub(super) const C: u8 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Slot {
    Entry { key: u8, value: u8 },
    Claim { value: u8 },
}

impl Slot {
    pub(super) fn value(self) -> u8 {
        match self {
            Self::Entry { value, .. } | Self::Claim { value } => value,
        }
    }
}

/// A record. Revision 0 is no entry at all, and [`NONE`] with another revision is a delete marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Record {
    pub(super) value: u8,
    pub(super) revision: u64,
    /// Whether its writer has kept the entries.
    pub(super) is_kept: bool,
}

/// The program of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    /// Gives a record a value; [`NONE`] deletes it.
    Write { key: u8, value: u8, means: Means },
    /// Removes the entry of the value of record 0.
    CleanEntry { value: u8 },
    /// Removes the claim of a value.
    CleanClaim { value: u8 },
    /// Writes record 0 without knowing the index.
    Old { value: u8, is_blind: bool },
    /// Builds the index over record 0.
    Build,
    /// Removes the delete marker of a record.
    Compact { key: u8 },
    /// Writes a record blindly, while the index is in use.
    Foreign { key: u8, value: u8 },
    /// Repairs the entries of a record after changes, at most this many times.
    Follow { key: u8, rounds: u8 },
    /// Stores and erases the entries of record 0 in an eventual index after changes, at most this many times.
    FollowEventual { rounds: u8 },
    /// Drops the index: changes the card, and then erases entries and claims.
    Drop,
    /// Builds the dropped index again.
    Rebuild,
    /// Looks a unique value up, with the card from before the drop.
    Lookup { value: u8 },
}

/// What protects unique values from writers that rely on a dropped index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DropGuard {
    /// The server refuses writes of an earlier epoch.
    Epoch,
    /// The drop waits until every writer has read the card again.
    Wait,
}

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutant {
    RecordBeforeEntry,
    BlindRecord,
    ErasureReadsRevisionLate,
    ErasureWithoutRevision,
    FailedWriterErasesForeignEntry,
    FailedWriterErasesForeignClaim,
    CleanerLeavesPendingWriters,
    NoRewriteOfPendingOwner,
    NoMarkerForMissingOwner,
    LoweredExpectation,
    BlindTakeOver,
    MarkerRemovedTooEarly,
    FollowerErasesWithoutCondition,
    FollowerTrustsFoundEntries,
    WriterTrustsForeignRecords,
    EventualErasesWithoutBound,
    EventualReadsBoundLate,
    NoEpoch,
    ScanBeforeSwitch,
    ReadableBeforeScan,
    DropErasesBeforeSwitch,
    DropKeepsEpoch,
    DropDoesNotWait,
    WriterKeepsEntriesOverBuild,
    LookupTrustsOldCard,
    LookupReadsCardFirst,
    LookupIgnoresBuild,
}

/// The rules of one exploration.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) programs: Vec<Program>,
    pub(super) has_entries: bool,
    pub(super) has_claims: bool,
    pub(super) attempts: u8,
    pub(super) mutant: Option<Mutant>,
    /// Whether a leader that was cut off may answer the reads of an attempt.
    pub(super) stale_leader: bool,
    pub(super) guard: DropGuard,
    pub(super) start: World,
}

impl Model {
    /// Record 0 has the value `A` and an entry.
    pub(super) fn entries(programs: &[Program]) -> Self {
        let mut start = World::empty();
        start.set_record(0, A, 2);
        start.entries[0][A as usize] = 1;
        start.next = 3;
        Self::new(programs, start, true, false)
    }

    /// Record 0 has the value `A` and a claim, and record 1 does not exist.
    pub(super) fn unique(programs: &[Program]) -> Self {
        let mut start = World::empty();
        start.set_record(0, A, 3);
        start.claims[A as usize] = Some(claim(0, 0, 2));
        start.next = 4;
        Self::new(programs, start, false, true)
    }

    /// Like [`unique`](Self::unique), with an entry as well.
    pub(super) fn both(programs: &[Program]) -> Self {
        let mut model = Self { has_entries: true, ..Self::unique(programs) };
        model.start.entries[0][A as usize] = 1;
        model
    }

    /// Record 0 has the value `A`, and the index does not exist.
    pub(super) fn build(programs: &[Program]) -> Self {
        let mut start = World::empty();
        start.set_record(0, A, 2);
        start.next = 3;
        (start.epoch, start.is_readable) = (0, false);
        start.records[0].is_kept = false;
        start.history[0] = vec![start.records[0]];
        Self::new(programs, start, true, false)
    }

    fn new(programs: &[Program], mut start: World, has_entries: bool, has_claims: bool) -> Self {
        start.processes = programs.iter().map(|_| Process::default()).collect();
        let programs = programs.to_vec();
        Self {
            programs,
            has_entries,
            has_claims,
            attempts: 2,
            mutant: None,
            stale_leader: false,
            guard: DropGuard::Epoch,
            start,
        }
    }

    pub(super) fn with_mutant(self, mutant: Mutant) -> Self {
        Self { mutant: Some(mutant), ..self }
    }

    pub(super) fn with_attempts(self, attempts: u8) -> Self {
        Self { attempts, ..self }
    }

    /// Loses this many replies. The writes are applied before, or arrive late.
    pub(super) fn with_lost_replies(mut self, count: u8) -> Self {
        self.start.lost_replies = count;
        self
    }

    pub(super) fn with_stale_leader(self) -> Self {
        Self { stale_leader: true, ..self }
    }

    pub(super) fn with_guard(self, guard: DropGuard) -> Self {
        Self { guard, ..self }
    }

    pub(super) fn has_drop(&self) -> bool {
        self.programs.contains(&Program::Drop)
    }

    /// Whether a program without the index writes while the index is in use.
    fn has_foreign(&self) -> bool {
        self.programs.iter().any(|program| matches!(program, Program::Foreign { .. }))
    }

    pub(super) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

pub(super) fn claim(owner: u8, expects: u64, revision: u64) -> Claim<u8> {
    Claim { owner, expects: Revision::new(expects), revision: Revision::new(revision) }
}

/// A write that arrives after its sender gave it up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct InFlight {
    pub(super) process: usize,
    pub(super) key: u8,
    pub(super) expected: u64,
    pub(super) effect: Effect<u8, Slot>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Process {
    pub(super) pc: u8,
    pub(super) failed: u8,
    pub(super) attempt: Option<Attempt<u8, Slot>>,
    pub(super) cleaning: Option<Cleaning<u8, Slot>>,
    /// The record that a program without the index, or a builder, has read.
    pub(super) read: Option<Record>,
    /// The last revision of the bucket, as the follower of an eventual index has read it.
    pub(super) through: u64,
    /// Erasures in the background.
    pub(super) erasures: Vec<(Slot, u64)>,
    /// Entries that a broken writer stores after its record.
    pub(super) deferred: Vec<Slot>,
    /// The card that the attempt of a writer relies on.
    pub(super) card: Card,
    /// Whether the attempt may write its record, because the card was current after its claims.
    pub(super) is_confirmed: bool,
    pub(super) lookup: Option<LookupState>,
}

/// A reading of the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Card {
    pub(super) epoch: u8,
    pub(super) build: u8,
}

impl Default for Card {
    fn default() -> Self {
        Self { epoch: 1, build: 0 }
    }
}

/// A running lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LookupState {
    /// The build whose claims the lookup reads.
    pub(super) build: u8,
    /// The record that the claim names.
    pub(super) owner: u8,
    /// Whether no record had the value at some time since the lookup began.
    pub(super) was_absent: bool,
    /// Whether the lookup found no record, although a record had the value during the whole lookup.
    pub(super) has_missed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) records: [Record; KEYS],
    /// Every earlier and current state of a record, which a stale replica may return.
    pub(super) history: [Vec<Record>; KEYS],
    /// The revision of the entry of each value of each record, or 0.
    pub(super) entries: [[u64; VALUES]; KEYS],
    pub(super) claims: [Option<Claim<u8>>; VALUES],
    pub(super) next: u64,
    pub(super) epoch: u8,
    pub(super) is_readable: bool,
    /// The number of builds of the index.
    pub(super) build: u8,
    /// Whether every writer has read the card since the drop began.
    pub(super) has_waited: bool,
    /// The newest revision of each record whose entries a follower has stored.
    pub(super) followed: [u64; KEYS],
    /// The number of replies that may still be lost.
    pub(super) lost_replies: u8,
    pub(super) in_flight: Vec<InFlight>,
    pub(super) processes: Vec<Process>,
}

impl World {
    fn empty() -> Self {
        let none = Record { value: NONE, revision: 0, is_kept: true };
        Self {
            records: [none; KEYS],
            history: std::array::from_fn(|_| vec![none]),
            entries: [[0; VALUES]; KEYS],
            claims: [None, None, None, None],
            next: 1,
            epoch: 1,
            is_readable: true,
            build: 0,
            has_waited: false,
            followed: [0; KEYS],
            lost_replies: 0,
            in_flight: Vec::new(),
            processes: Vec::new(),
        }
    }

    fn set_record(&mut self, key: usize, value: u8, revision: u64) {
        self.records[key] = Record { value, revision, is_kept: true };
        self.history[key] = vec![self.records[key]];
    }

    pub(super) fn take_revision(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    pub(super) fn write_record(&mut self, key: u8, value: u8, is_kept: bool) -> u64 {
        let record = Record { value, revision: self.take_revision(), is_kept };
        self.records[key as usize] = record;
        self.history[key as usize].push(record);
        record.revision
    }

    pub(super) fn has_record_of(&self, value: u8) -> bool {
        self.records.iter().any(|record| record.value == value)
    }

    pub(super) fn card(&self) -> Card {
        Card { epoch: self.epoch, build: self.build }
    }

    pub(super) fn revision_of(&self, slot: Slot) -> u64 {
        match slot {
            Slot::Entry { key, value } => self.entries[key as usize][value as usize],
            Slot::Claim { value } => self.claims[value as usize].as_ref().map_or(0, |claim| claim.revision.get()),
        }
    }

    pub(super) fn erase(&mut self, slot: Slot, through: u64) {
        if self.revision_of(slot) > through {
            return;
        }
        match slot {
            Slot::Entry { key, value } => self.entries[key as usize][value as usize] = 0,
            Slot::Claim { value } => self.claims[value as usize] = None,
        }
    }

    /// Forgets what no later step depends on, so that equal states are recognized.
    pub(super) fn simplify(&mut self, model: &Model) {
        for (key, history) in self.history.iter_mut().enumerate() {
            let reads_stale = |(process, program): (&Process, &Program)| {
                let of_key = match *program {
                    Program::Write { key: own, .. } => own as usize == key && process.failed == 0,
                    Program::Old { .. } => key == 0,
                    _ => false,
                };
                of_key && process.pc == 0 && process.attempt.is_none() && process.read.is_none()
            };
            if !model.stale_leader && !self.processes.iter().zip(&model.programs).any(reads_stale) {
                history.clear();
            }
        }
        let records = &self.records;
        self.in_flight.retain(|late| match late.effect {
            // A later revision never becomes the expected one.
            Effect::WriteRecord if late.expected > 0 && !model.is(Mutant::BlindRecord) => {
                records[late.key as usize].revision == late.expected
            }
            _ => true,
        });
        for (process, program) in self.processes.iter_mut().zip(&model.programs) {
            if let (Some(lookup), Program::Lookup { value }) = (&mut process.lookup, program) {
                lookup.was_absent |= !self.records.iter().any(|record| record.value == *value);
            }
        }
        for process in 0..self.processes.len() {
            let mut erasures = std::mem::take(&mut self.processes[process].erasures);
            if !model.is(Mutant::ErasureReadsRevisionLate) {
                // Every later write of the slot has a later revision.
                erasures.retain(|(slot, through)| {
                    *through == u64::MAX || (1..=*through).contains(&self.revision_of(*slot))
                });
            }
            self.processes[process].erasures = erasures;
        }
    }

    /// Returns the violated invariant, if any.
    pub(super) fn violation(&self, model: &Model) -> Option<&'static str> {
        // A lookup may miss a foreign record that no follower has handled.
        let is_handled = |key: &usize| {
            let Record { revision, is_kept, .. } = self.records[*key];
            is_kept || self.followed[*key] == revision || !model.has_foreign()
        };
        let live = || (0..KEYS).filter(|key| self.records[*key].value != NONE).filter(is_handled);
        if model.has_entries
            && self.is_readable
            && live().any(|key| self.entries[key][self.records[key].value as usize] == 0)
        {
            return Some("a record has a value without an entry");
        }
        if model.has_claims {
            let owns = |key: usize| {
                let claim = &self.claims[self.records[key].value as usize];
                claim.as_ref().is_some_and(|claim| claim.owner as usize == key)
            };
            if live().count() == KEYS && self.records[0].value == self.records[1].value {
                return Some("two records have one unique value");
            }
            if self.is_readable && live().any(|key| !owns(key)) {
                return Some("a record has a unique value without its claim");
            }
        }
        let has_missed = |process: &Process| process.lookup.is_some_and(|lookup| lookup.has_missed);
        self.processes.iter().any(has_missed).then_some("a lookup missed a record")
    }

    /// Performs an effect for a process and returns its reply.
    pub(super) fn perform(&mut self, model: &Model, on: &InFlight) -> Reply<u8> {
        let InFlight { process, key, expected, effect } = on;
        let is_cleaner = *key == u8::MAX;
        let written = |revision| Reply::Written(Revision::new(revision));
        match effect {
            Effect::CreateEntry(slot) | Effect::PutEntry(slot) => {
                let Slot::Entry { key, value } = *slot else { return Reply::Refused };
                let creates = matches!(effect, Effect::CreateEntry(_));
                if model.is(Mutant::RecordBeforeEntry) {
                    self.processes[*process].deferred.push(*slot);
                    return written(0);
                }
                let is_blind = model.is(Mutant::FailedWriterErasesForeignEntry);
                let is_found = self.entries[key as usize][value as usize] != 0;
                let is_follower = matches!(model.programs[*process], Program::Follow { .. });
                if is_follower && is_found && model.is(Mutant::FollowerTrustsFoundEntries) {
                    return written(self.next - 1);
                }
                if creates && !is_blind && self.entries[key as usize][value as usize] != 0 {
                    return Reply::Refused;
                }
                let revision = self.take_revision();
                self.entries[key as usize][value as usize] = revision;
                written(revision)
            }
            Effect::ReadClaim(slot) => {
                let mut found = self.claims[slot.value() as usize].clone();
                if let Some(claim) = &mut found
                    && model.is(Mutant::LoweredExpectation)
                    && claim.owner == *key
                {
                    claim.expects = Revision::ZERO;
                }
                Reply::Claim(found)
            }
            Effect::WriteClaim { slot, over } => {
                let is_blind = model.is(Mutant::BlindTakeOver) && *over > Revision::ZERO;
                if !is_blind && self.revision_of(*slot) != over.get() {
                    return Reply::Refused;
                }
                let revision = self.take_revision();
                self.claims[slot.value() as usize] = Some(claim(*key, *expected, revision));
                written(revision)
            }
            Effect::ReadOwner { owner, slot } => owner_reply(self.records[*owner as usize], *slot),
            Effect::Rewrite { owner, revision } => {
                let skips = match is_cleaner {
                    true => model.is(Mutant::CleanerLeavesPendingWriters),
                    false if *revision == Revision::ZERO => model.is(Mutant::NoMarkerForMissingOwner),
                    false => model.is(Mutant::NoRewriteOfPendingOwner),
                };
                let found = self.records[*owner as usize];
                if skips {
                    return written(self.next - 1);
                }
                if found.revision != revision.get() {
                    return Reply::Refused;
                }
                let is_kept = found.value != NONE && found.is_kept;
                written(self.write_record(*owner, found.value, is_kept))
            }
            Effect::WriteRecord => {
                let Program::Write { value, .. } = model.programs[*process] else { return Reply::Refused };
                if !model.is(Mutant::BlindRecord) && self.records[*key as usize].revision != *expected {
                    return Reply::Refused;
                }
                written(self.write_record(*key, value, true))
            }
            Effect::Commit { entries, claims } => {
                let Program::Write { value, .. } = model.programs[*process] else { return Reply::Refused };
                let holds = self.records[*key as usize].revision == *expected
                    && claims.iter().all(|(slot, over)| self.revision_of(*slot) == over.get());
                if !holds {
                    return Reply::Refused;
                }
                for slot in entries {
                    let revision = self.take_revision();
                    if let Slot::Entry { key, value } = *slot {
                        self.entries[key as usize][value as usize] = revision;
                    }
                }
                for (slot, _) in claims {
                    let revision = self.take_revision();
                    self.claims[slot.value() as usize] = Some(claim(*key, *expected, revision));
                }
                written(self.write_record(*key, value, true))
            }
        }
    }
}

pub(super) fn owner_reply(record: Record, slot: Slot) -> Reply<u8> {
    Reply::Owner { revision: Revision::new(record.revision), has_value: record.value == slot.value() }
}
