//! The removal of an index entry or a claim that no record matches, as a state machine without I/O.
//!
//! Another writer may be about to make the record match. The record is therefore first written again unchanged, by
//! compare-and-set, so that pending writes fail. A writer that reads the record later stores its entry again.

use super::attempt::{Claim, Effect, Reply};
use crate::revision::Revision;

/// The removal of one entry or claim.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Cleaning<K, S> {
    slot: S,
    step: CleanStep<K>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum CleanStep<K> {
    ReadClaim,
    ReadOwner { owner: K, claim: Option<Claim<K>> },
    RewriteOwner { owner: K, revision: Revision, claim: Option<Claim<K>> },
    Ended(CleanEnd),
}

/// The end of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CleanEnd {
    /// The slot has to be erased up to this revision.
    Erase(Revision),
    /// The record matches, or the slot is gone.
    Keep,
    /// A writer came first. The slot stays for a later removal.
    Raced,
}

impl<K: Clone + Eq, S: Clone + Eq> Cleaning<K, S> {
    /// Creates the removal of the entry of a record.
    pub(crate) fn of_entry(slot: S, owner: K) -> Self {
        Self { slot, step: CleanStep::ReadOwner { owner, claim: None } }
    }

    /// Creates the removal of a claim.
    pub(crate) fn of_claim(slot: S) -> Self {
        Self { slot, step: CleanStep::ReadClaim }
    }

    /// Returns the effect to perform now, or the end.
    pub(crate) fn next(&self) -> Result<Effect<K, S>, CleanEnd> {
        match &self.step {
            CleanStep::ReadClaim => Ok(Effect::ReadClaim(self.slot.clone())),
            CleanStep::ReadOwner { owner, .. } => {
                Ok(Effect::ReadOwner { owner: owner.clone(), slot: self.slot.clone() })
            }
            CleanStep::RewriteOwner { owner, revision, .. } => {
                Ok(Effect::Rewrite { owner: owner.clone(), revision: *revision })
            }
            CleanStep::Ended(end) => Err(*end),
        }
    }

    /// Continues with the reply to the effect.
    pub(crate) fn apply(&mut self, reply: Reply<K>) {
        let raced = CleanStep::Ended(CleanEnd::Raced);
        let step = std::mem::replace(&mut self.step, raced.clone());
        self.step = match (step, reply) {
            (CleanStep::ReadClaim, Reply::Claim(Some(claim))) => {
                CleanStep::ReadOwner { owner: claim.owner.clone(), claim: Some(claim) }
            }
            (CleanStep::ReadClaim, Reply::Claim(None))
            | (CleanStep::ReadOwner { .. }, Reply::Owner { has_value: true, .. }) => CleanStep::Ended(CleanEnd::Keep),
            (CleanStep::ReadOwner { owner, claim }, Reply::Owner { revision, .. }) => match &claim {
                // The claim is dead: no write over `expects` can succeed.
                Some(claim) if revision > claim.expects => CleanStep::Ended(CleanEnd::Erase(claim.revision)),
                Some(claim) if revision < claim.expects && revision > Revision::ZERO => raced,
                _ => CleanStep::RewriteOwner { owner, revision, claim },
            },
            // Later writers store the entry, or the claim, after this revision.
            (CleanStep::RewriteOwner { claim, .. }, Reply::Written(revision)) => {
                CleanStep::Ended(CleanEnd::Erase(claim.map_or(revision, |claim| claim.revision)))
            }
            (ended @ CleanStep::Ended(_), _) => ended,
            _ => raced,
        };
    }
}
