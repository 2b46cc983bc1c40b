//! Reverting effects that the storage refused.

#![cfg_attr(not(feature = "file"), allow(dead_code, reason = "only the durable backend has a log"))]

use std::time::Duration;

use super::bucket::BucketState;
use super::changes::Removal;
use super::effect::{Effect, Record};
use super::log::Answer;
use super::machine::StateMachine;
use crate::revision::Revision;

/// The pause of expiry after a refusal: a full disk has no room for the markers of expired entries either.
const EXPIRY_PAUSE: Duration = Duration::from_secs(2);

impl StateMachine {
    /// Reverts a group that the storage refused, and all effects that followed it. No answer contained their data.
    ///
    /// The sessions of watches end: they may have passed an entry that has returned.
    pub(crate) fn refuse(&mut self, group: Vec<Record>, reason: &str) -> Vec<Answer> {
        let Some(log) = &mut self.log else { return Vec::new() };
        let mut records = group;
        records.extend(log.take_pending());
        for record in records.into_iter().rev() {
            self.revert(record.effect);
        }
        let now = self.now;
        let Some(log) = &mut self.log else { return Vec::new() };
        let answers = log.forget(reason);
        for bucket in self.buckets.values_mut() {
            bucket.touched = bucket.touched.min(log.durable());
            bucket.expiry_paused_until = now + EXPIRY_PAUSE;
            bucket.notifier.notify();
        }
        answers
    }

    /// Fails the state for good: every later call returns the reason.
    pub(crate) fn fail(&mut self, reason: &str) -> Vec<Answer> {
        let answers = self.log.as_mut().map(|log| log.fail(reason)).unwrap_or_default();
        for bucket in self.buckets.values() {
            bucket.notifier.notify();
        }
        answers
    }

    fn by_id(&mut self, id: u64) -> Option<&mut BucketState> {
        self.buckets.values_mut().find(|bucket| bucket.id == id)
    }

    fn revert(&mut self, effect: Effect) {
        match effect {
            Effect::Stored { bucket, revision, .. } => {
                if let Some(bucket) = self.by_id(bucket) {
                    bucket.revert_store(revision);
                }
            }
            Effect::Removed { bucket, removal } => {
                if let Some(bucket) = self.by_id(bucket) {
                    bucket.revert_removal(removal);
                }
            }
            Effect::BucketCreated { bucket, .. } => self.buckets.retain(|_, other| other.id != bucket),
            Effect::BucketConfigured { bucket, previous, .. } => {
                if let Some(bucket) = self.by_id(bucket) {
                    bucket.config = previous;
                    bucket.schedule_expiry();
                }
            }
            Effect::BucketDeleted { bucket } => {
                self.buckets.insert(bucket.config.name.clone(), *bucket);
            }
        }
    }
}

impl BucketState {
    fn revert_store(&mut self, revision: Revision) {
        if self.take(revision).is_some() {
            self.last_revision = Revision::new(revision.get() - 1);
        }
    }

    fn revert_removal(&mut self, removal: Removal) {
        let Removal { revision, entry, last_removed } = removal;
        self.backlog.forget(revision);
        self.last_removed = last_removed;
        self.insert(revision, entry);
    }
}
