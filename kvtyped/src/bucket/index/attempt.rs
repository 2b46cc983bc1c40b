//! One attempt to write a record with its index entries and claims, as a state machine without I/O.
//!
//! The caller performs the [`pending`](Attempt::pending) effects, in any order or at once, and reports each reply. The
//! attempt keeps two invariants, whatever other attempts do and wherever this one stops:
//!
//! * If a record has a value, its entry exists. An entry may exist without its record.
//! * If a record has a unique value, the claim of the value names the record.
//!
//! Entries and claims are stored before the record, and the record is stored by compare-and-set on the revision that
//! the values were computed from. Afterwards the lost entries and claims are erased up to the revision of the record:
//! a writer that can still succeed has read that revision or a later one, and stores its own entries after that read.

use crate::revision::Revision;

/// The stored claim of a unique value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Claim<K> {
    /// The key of the record that has the value, or is about to have it.
    pub(crate) owner: K,
    /// The revision that the record had when its writer claimed the value.
    pub(crate) expects: Revision,
    /// The revision of the claim.
    pub(crate) revision: Revision,
}

/// The addresses of the index entries and claims that one write of a record changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SlotChanges<S> {
    /// The entries that the record gains.
    pub(crate) entries: Vec<S>,
    /// The claims that the record gains.
    pub(crate) claims: Vec<S>,
    /// The entries and claims that the record loses.
    pub(crate) lost: Vec<S>,
}

/// A request of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Effect<K, S> {
    /// Store an entry if it does not exist.
    CreateEntry(S),
    /// Store an entry, whether it exists or not.
    PutEntry(S),
    /// Read a claim at the leader.
    ReadClaim(S),
    /// Store the claim of this attempt if the claim has this revision. Zero expects that no claim exists.
    WriteClaim { slot: S, over: Revision },
    /// Read the owner of a claim at the leader, and find out whether it has the value.
    ReadOwner { owner: K, slot: S },
    /// Write the owner again unchanged if it has this revision, so that its pending writes fail. Zero writes a delete
    /// marker.
    Rewrite { owner: K, revision: Revision },
    /// Store the record if it has the expected revision.
    WriteRecord,
    /// Store entries, claims and the record in one batch, with the preconditions of the single writes.
    Commit { entries: Vec<S>, claims: Vec<(S, Revision)> },
}

/// The reply to an effect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Reply<K> {
    /// The write is stored with this revision.
    Written(Revision),
    /// The precondition does not hold, so nothing was written.
    Refused,
    /// The write may be stored already, or may be stored later.
    Unknown,
    /// The claim that was read.
    Claim(Option<Claim<K>>),
    /// The owner that was read. Its revision is zero if its key has no entry at all.
    Owner { revision: Revision, has_value: bool },
}

/// Identifies a pending effect of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Task {
    Entry(usize),
    Claim(usize),
    Record,
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum End<K, S> {
    /// The record is stored with this revision.
    Written(Revision),
    /// The entries are stored and the claims held, and no record was to be written.
    Stored,
    /// The record may be stored already, or may be stored later.
    Unknown,
    /// Another writer came first. Read the record again, at this revision or a later one.
    Retry { at_least: Revision },
    /// Another record has a unique value.
    NotUnique { slot: S, owner: K },
}

/// The way of an attempt to its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Means {
    /// Single writes: entries and claims at once, then the record.
    Singly,
    /// One batch.
    Batch,
    /// The entries and claims alone, for a record that has the values already.
    SlotsOnly,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct EntryTask<S> {
    slot: S,
    step: EntryStep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum EntryStep {
    Create,
    Put,
    /// Stored. With a revision if this attempt created the entry.
    Stored(Option<Revision>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ClaimTask<K, S> {
    slot: S,
    step: ClaimStep<K>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum ClaimStep<K> {
    /// The claim is to be written. `replaces_own` if this record had claimed the value before.
    Write {
        over: Revision,
        replaces_own: bool,
    },
    Read,
    ReadOwner(Claim<K>),
    RewriteOwner(Claim<K>, Revision),
    /// The claim is part of the batch. `is_guess` if no read has confirmed its revision.
    Planned {
        over: Revision,
        is_guess: bool,
    },
    /// This attempt holds the claim. With a revision if no earlier attempt of the record can depend on the claim.
    Held(Option<Revision>),
}

/// One attempt to write a record with key type `K`, with entries and claims at the addresses `S`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Attempt<K, S> {
    key: K,
    expected: Revision,
    means: Means,
    entries: Vec<EntryTask<S>>,
    claims: Vec<ClaimTask<K, S>>,
    lost: Vec<S>,
    end: Option<End<K, S>>,
}

impl<S> SlotChanges<S> {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.claims.is_empty() && self.lost.is_empty()
    }
}

impl<S> Default for SlotChanges<S> {
    fn default() -> Self {
        Self { entries: Vec::new(), claims: Vec::new(), lost: Vec::new() }
    }
}

impl<K: Clone + Eq, S: Clone + Eq> Attempt<K, S> {
    /// Creates an attempt to write the record of `key` over the revision `expected`.
    pub(crate) fn new(key: K, expected: Revision, changes: SlotChanges<S>, means: Means) -> Self {
        let SlotChanges { entries, claims, lost } = changes;
        let first = match means {
            Means::Batch => ClaimStep::Planned { over: Revision::ZERO, is_guess: true },
            Means::Singly | Means::SlotsOnly => ClaimStep::Write { over: Revision::ZERO, replaces_own: false },
        };
        // An entry that exists may be about to be erased by an earlier writer of the record.
        let entry_step = if means == Means::SlotsOnly { EntryStep::Put } else { EntryStep::Create };
        let entry = |slot| EntryTask { slot, step: entry_step };
        let claim = |slot| ClaimTask { slot, step: first.clone() };
        let (entries, claims) = (entries.into_iter().map(entry).collect(), claims.into_iter().map(claim).collect());
        let mut attempt = Self { key, expected, means, entries, claims, lost, end: None };
        attempt.finish_slots_only();
        attempt
    }

    pub(crate) fn key(&self) -> &K {
        &self.key
    }

    pub(crate) fn expected(&self) -> Revision {
        self.expected
    }

    /// Returns the addresses of the claims that the record gains.
    pub(crate) fn claims(&self) -> impl Iterator<Item = &S> {
        self.claims.iter().map(|claim| &claim.slot)
    }

    /// Whether the attempt plans a claim whose revision no read has confirmed.
    pub(crate) fn has_guess(&self) -> bool {
        self.claims.iter().any(|claim| matches!(claim.step, ClaimStep::Planned { is_guess: true, .. }))
    }

    /// Returns the end of the attempt, once nothing is pending.
    pub(crate) fn end(&self) -> Option<&End<K, S>> {
        self.end.as_ref()
    }

    /// Returns the effects to perform now. Empty once the attempt has ended.
    pub(crate) fn pending(&self) -> Vec<(Task, Effect<K, S>)> {
        let mut pending = Vec::new();
        if self.end.is_some() {
            return pending;
        }
        if self.means != Means::Batch {
            for (index, EntryTask { slot, step }) in self.entries.iter().enumerate() {
                match step {
                    EntryStep::Create => pending.push((Task::Entry(index), Effect::CreateEntry(slot.clone()))),
                    EntryStep::Put => pending.push((Task::Entry(index), Effect::PutEntry(slot.clone()))),
                    EntryStep::Stored(_) => {}
                }
            }
        }
        for (index, ClaimTask { slot, step }) in self.claims.iter().enumerate() {
            let slot = slot.clone();
            let effect = match step {
                ClaimStep::Write { over, .. } => Effect::WriteClaim { slot, over: *over },
                ClaimStep::Read => Effect::ReadClaim(slot),
                ClaimStep::ReadOwner(claim) => Effect::ReadOwner { owner: claim.owner.clone(), slot },
                ClaimStep::RewriteOwner(claim, revision) => {
                    Effect::Rewrite { owner: claim.owner.clone(), revision: *revision }
                }
                ClaimStep::Planned { .. } | ClaimStep::Held(_) => continue,
            };
            pending.push((Task::Claim(index), effect));
        }
        if pending.is_empty() {
            pending.push((Task::Record, self.record_effect()));
        }
        pending
    }

    /// Continues with the reply to a pending effect.
    pub(crate) fn apply(&mut self, task: Task, reply: Reply<K>) {
        match task {
            Task::Entry(index) => self.apply_entry(index, &reply),
            Task::Claim(index) => self.apply_claim(index, reply),
            Task::Record => self.apply_record(&reply),
        }
        self.finish_slots_only();
    }

    /// Ends the attempt after an error. The record is certainly not stored.
    pub(crate) fn abandon(&mut self) {
        self.end.get_or_insert(End::Retry { at_least: self.expected });
    }

    /// Returns what to erase after the end, each up to a revision. Crashes before or during the erasure are harmless.
    ///
    /// After success, these are the slots that the record lost. After a failure, these are the slots that this attempt
    /// created: no writer depends on them, because each writer stores its entries and claims again before its record.
    pub(crate) fn erasures(&self) -> Vec<(S, Revision)> {
        match &self.end {
            Some(End::Written(revision)) => self.lost.iter().map(|slot| (slot.clone(), *revision)).collect(),
            Some(End::Retry { .. } | End::NotUnique { .. }) => {
                let entries = self.entries.iter().filter_map(|EntryTask { slot, step }| match step {
                    EntryStep::Stored(Some(revision)) => Some((slot.clone(), *revision)),
                    _ => None,
                });
                let claims = self.claims.iter().filter_map(|ClaimTask { slot, step }| match step {
                    ClaimStep::Held(Some(revision)) => Some((slot.clone(), *revision)),
                    _ => None,
                });
                entries.chain(claims).collect()
            }
            Some(End::Stored | End::Unknown) | None => Vec::new(),
        }
    }

    fn record_effect(&self) -> Effect<K, S> {
        if self.means != Means::Batch || (self.entries.is_empty() && self.claims.is_empty()) {
            return Effect::WriteRecord;
        }
        let planned = |ClaimTask { slot, step }: &ClaimTask<K, S>| match step {
            ClaimStep::Planned { over, .. } => Some((slot.clone(), *over)),
            _ => None,
        };
        let entries = self.entries.iter().map(|entry| entry.slot.clone()).collect();
        Effect::Commit { entries, claims: self.claims.iter().filter_map(planned).collect() }
    }

    fn finish_slots_only(&mut self) {
        let holds_all = self.claims.iter().all(|claim| matches!(claim.step, ClaimStep::Held(_)));
        let stores_all = self.entries.iter().all(|entry| matches!(entry.step, EntryStep::Stored(_)));
        if self.means == Means::SlotsOnly && holds_all && stores_all {
            self.end.get_or_insert(End::Stored);
        }
    }

    fn apply_entry(&mut self, index: usize, reply: &Reply<K>) {
        let Some(EntryTask { step, .. }) = self.entries.get_mut(index) else { return };
        *step = match (*step, reply) {
            (EntryStep::Create, Reply::Written(revision)) => EntryStep::Stored(Some(*revision)),
            // The entry of another attempt may be about to be erased, and has to become newer.
            (EntryStep::Put, Reply::Written(_)) => EntryStep::Stored(None),
            // Storing an entry again is harmless, so an unknown outcome needs no recovery.
            (EntryStep::Create | EntryStep::Put, _) => EntryStep::Put,
            (stored @ EntryStep::Stored(_), _) => stored,
        };
    }

    fn apply_claim(&mut self, index: usize, reply: Reply<K>) {
        let Some(ClaimTask { slot, step }) = self.claims.get_mut(index) else { return };
        let retry = |at_least| Some(End::Retry { at_least });
        let write = |over, replaces_own| match self.means {
            Means::Batch => ClaimStep::Planned { over, is_guess: false },
            Means::Singly | Means::SlotsOnly => ClaimStep::Write { over, replaces_own },
        };
        match (step.clone(), reply) {
            (ClaimStep::Write { replaces_own, .. }, Reply::Written(revision)) => {
                *step = ClaimStep::Held((!replaces_own).then_some(revision));
            }
            (ClaimStep::Write { over: Revision::ZERO, .. }, Reply::Refused)
            | (ClaimStep::Write { .. }, Reply::Unknown) => *step = ClaimStep::Read,
            (ClaimStep::Read, Reply::Claim(None)) => *step = write(Revision::ZERO, false),
            (ClaimStep::Read, Reply::Claim(Some(claim))) if claim.owner != self.key => {
                *step = ClaimStep::ReadOwner(claim);
            }
            // Never lower what the claim expects: the read of the record was stale.
            (ClaimStep::Read, Reply::Claim(Some(claim))) if claim.expects > self.expected => {
                self.end = retry(claim.expects);
            }
            // A claim of this attempt whose reply was lost is written again, too: the same content may be the claim of
            // an attempt that is about to erase it.
            (ClaimStep::Read, Reply::Claim(Some(claim))) => *step = write(claim.revision, true),
            (ClaimStep::ReadOwner(claim), Reply::Owner { has_value: true, .. }) => {
                self.end = Some(End::NotUnique { slot: slot.clone(), owner: claim.owner });
            }
            (ClaimStep::ReadOwner(claim), Reply::Owner { revision, .. }) => {
                if revision == Revision::ZERO || revision == claim.expects {
                    // The owner may be about to write.
                    *step = ClaimStep::RewriteOwner(claim, revision);
                } else if revision < claim.expects {
                    // A stale answer.
                    self.end = retry(self.expected);
                } else {
                    *step = write(claim.revision, false);
                }
            }
            (ClaimStep::RewriteOwner(claim, _), Reply::Written(_)) => *step = write(claim.revision, false),
            (ClaimStep::RewriteOwner(claim, _), Reply::Unknown) => *step = ClaimStep::ReadOwner(claim),
            _ => self.end = retry(self.expected),
        }
    }

    fn apply_record(&mut self, reply: &Reply<K>) {
        let is_guess = |claim: &&mut ClaimTask<K, S>| matches!(claim.step, ClaimStep::Planned { is_guess: true, .. });
        match reply {
            Reply::Written(revision) => self.end = Some(End::Written(*revision)),
            Reply::Unknown => self.end = Some(End::Unknown),
            Reply::Refused | Reply::Claim(_) | Reply::Owner { .. } => {
                let mut guesses = self.claims.iter_mut().filter(is_guess).peekable();
                if guesses.peek().is_none() {
                    self.end = Some(End::Retry { at_least: self.expected });
                }
                guesses.for_each(|claim| claim.step = ClaimStep::Read);
            }
        }
    }
}
