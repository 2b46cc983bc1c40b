//! Changes of one record that wait for each other in this process: applied one after another, stored by one write.
//!
//! Each key that is being changed has a lane. Whoever is first in it applies its closure to a draft of the record; if others
//! wait, it leaves the draft to the next of them, and the last one stores it for all. While that is under way the next wait,
//! so that the more there are the more one write stores, and nobody fights anybody on the wire.
//!
//! Everybody runs its own closure in its own task: one that fails or panics leaves the draft as it was, and one that is
//! dropped leaves what it has done already. Whoever waits for the draft to be stored stores it itself, if those behind it
//! are gone. A draft that nobody waits for any more is thrown away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use super::cas::{Attempts, Decision, Done, Limits, Retry, Step, confirms};
use super::{Bucket, ReadBucket};
use crate::backend::{At, Deadline, Operation, RawEntry, Read, WriteKind};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::key::Key;
use crate::model::KvModel;
use crate::revision::Revision;
use crate::ttl::Ttl;

/// How many lanes are kept for the sake of what they remember.
const LANES: usize = 1_024;

/// The largest value that a lane remembers, in bytes.
const LARGEST: usize = 16 * 1_024;

/// How many changes one write stores at most.
const MOST: u32 = 1_000;

/// The lanes of a bucket.
#[derive(Debug, Default)]
pub(super) struct Lanes(Mutex<HashMap<Key, Arc<Lane>>>);

#[derive(Debug, Default)]
struct Lane {
    draft: Arc<AsyncMutex<Draft>>,
    /// How many wait to apply their closures.
    waiting: AtomicUsize,
}

/// What is known of a record, and what is to become of it.
#[derive(Debug, Default)]
struct Draft {
    base: Option<Base>,
    group: Option<Group>,
    /// Since the last conflict, if nothing was stored behind it.
    conflict: Option<Retry>,
}

/// The newest entry of a key.
#[derive(Debug)]
struct Base {
    entry: Option<RawEntry>,
    known: Known,
}

/// Whence the newest entry of a key is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// It was stored, or read, for somebody before.
    Before,
    /// It was read for the one who decides on it, of whoever was nearest.
    Near,
    /// It was read for the one who decides on it, where nothing newer is.
    Surely,
}

/// Changes that one write will store.
#[derive(Debug)]
struct Group {
    kind: WriteKind,
    ttl: Option<Ttl>,
    /// The record after the changes so far.
    entry: RawEntry,
    /// How many changes there are so far.
    steps: u32,
    members: u32,
    deadline: Deadline,
    fate: watch::Sender<Option<Fate>>,
}

/// What became of a group.
#[derive(Debug, Clone)]
enum Fate {
    Stored {
        revision: Revision,
        steps: u32,
    },
    /// Another process came first: all begin anew.
    Conflict(Arc<Error>),
    /// What one of them wants cannot be stored: each is tried alone.
    Refused,
    Failed(Arc<Error>),
}

impl Fate {
    /// Where it may be one of several that cannot be stored, each is tried alone; but nothing that may be stored already.
    fn failed(error: Error, members: u32) -> Self {
        if members > 1 && error.outcome() == Outcome::NotApplied && !error.is_retryable() {
            Self::Refused
        } else {
            Self::Failed(Arc::new(error))
        }
    }
}

impl Lanes {
    fn of(&self, key: &Key) -> Arc<Lane> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lanes.len() >= LANES {
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        }
        match lanes.get(key) {
            Some(lane) => Arc::clone(lane),
            None => Arc::clone(lanes.entry(key.clone()).or_default()),
        }
    }
}

impl Lane {
    /// Waits to be the first.
    async fn enter(&self, deadline: Deadline) -> Result<OwnedMutexGuard<Draft>> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::AcqRel);
            }
        }
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let _waiting = Waiting(&self.waiting);
        deadline.bound(self.turn()).await
    }

    fn turn(&self) -> impl Future<Output = OwnedMutexGuard<Draft>> + use<> {
        Arc::clone(&self.draft).lock_owned()
    }

    fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }
}

impl Draft {
    fn current(&self) -> Option<&RawEntry> {
        match &self.group {
            Some(group) => Some(&group.entry),
            None => self.base.as_ref().and_then(|base| base.entry.as_ref()),
        }
    }

    /// Whether a decision to write nothing may rest on it: it was just read at the leader, or it is shared with those whose
    /// write will confirm it.
    fn is_sure(&self) -> bool {
        self.group.is_some() || self.base.as_ref().is_some_and(|base| base.known == Known::Surely)
    }

    /// Takes what was read where nothing newer is, for one who decided to write nothing; tells whether he decided on that.
    fn is_confirmed_by(&mut self, newest: Option<RawEntry>) -> bool {
        match &mut self.base {
            // What was remembered may be another bucket's.
            Some(Base { entry, known: known @ Known::Near }) if confirms(newest.as_ref(), entry.as_ref()) => {
                *known = Known::Surely;
                true
            }
            base => {
                *base = Some(Base { entry: newest, known: Known::Surely });
                false
            }
        }
    }

    /// Remembers what was stored.
    fn stored(&mut self, entry: RawEntry) {
        self.conflict = None;
        self.base = (entry.value.len() <= LARGEST).then(|| Base { entry: Some(entry), known: Known::Before });
    }

    /// Remembers that another came first.
    fn overtaken(&mut self, conflict: &Error) {
        self.conflict.get_or_insert_with(Retry::new).learn(conflict);
        self.base = None;
    }
}

impl<T: KvModel> Bucket<T> {
    /// As [`compare_and_set`](Self::compare_and_set), in a row with all others of this process who change the same key.
    pub(super) async fn change_in_turn<R, E: From<Error>>(
        &self,
        operation: &'static str,
        key: &Key,
        limits: Limits,
        mut decide: impl FnMut(Option<&RawEntry>) -> Result<Decision<R>, E>,
    ) -> Result<Done<R>, E> {
        let deadline = limits.deadline;
        let mut attempts = Attempts::new(limits.attempts);
        let located = |error: Error| error.within(operation, self.name(), Some(key.as_str()));
        self.raw(operation)?;
        let lane = self.inner.lanes.of(key);
        // With more history every change is to be found in it.
        let mut alone = !matches!(self.config().history, None | Some(1));
        loop {
            let mut draft = lane.enter(deadline).await.map_err(|error| located(attempts.explain(error)))?;
            if draft.group.as_ref().is_some_and(|group| group.fate.receiver_count() == 0) {
                (draft.group, draft.base) = (None, None);
            }
            if let Some(base) = &mut draft.base {
                base.known = Known::Before;
            }
            if alone && draft.group.is_some() {
                let _ = self.settle(key, draft).await;
                continue;
            }
            let decision = loop {
                self.look(key, &mut draft, deadline).await.map_err(|error| located(attempts.explain(error)))?;
                let decision = decide(draft.current());
                if matches!(decision, Ok(Decision::Write { .. })) || draft.is_sure() {
                    break decision;
                }
                let newest = self.read_surely(key, deadline).await.map_err(|error| located(attempts.explain(error)))?;
                if draft.is_confirmed_by(newest) {
                    break decision;
                }
            };
            if draft.group.is_none() && (alone || !lane.is_wanted()) {
                let (kind, ttl, result) = match decision? {
                    Decision::Stop { result } => {
                        let revision = draft.current().map_or(Revision::ZERO, |entry| entry.revision);
                        return Ok(Done { revision, result });
                    }
                    Decision::Write { kind, ttl, result } => (kind, ttl, result),
                };
                let base = draft.base.take();
                match self.store(key, base, kind, ttl, deadline).await {
                    Ok(entry) => {
                        let revision = entry.revision;
                        draft.stored(entry);
                        return Ok(Done { revision, result });
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {
                        draft.overtaken(&error);
                        attempts.lost(error, deadline).map_err(located)?;
                    }
                    Err(error) => return Err(located(error).into()),
                }
                continue;
            }
            let (step, mut fate, outcome) = match draft.join(key, decision, deadline) {
                Ok(joined) => joined,
                Err(outcome) => return outcome,
            };
            let full = draft.group.as_ref().is_some_and(|group| group.members >= MOST);
            if full || !lane.is_wanted() {
                drop(self.settle(key, draft));
            } else {
                drop(draft);
            }
            let same = fate.clone();
            let fate = loop {
                tokio::select! {
                    biased;
                    fate = fate.wait_for(Option::is_some) => break fate.ok().and_then(|fate| fate.clone()),
                    // Whoever was behind is gone, or late.
                    draft = lane.turn() => {
                        let ours = |group: &Group| group.fate.subscribe().same_channel(&same);
                        if draft.group.as_ref().is_some_and(ours) {
                            drop(self.settle(key, draft));
                        }
                    }
                    () = sleep_until(deadline.at()) => {
                        return Err(located(deadline.error().unknown_outcome()).into());
                    }
                }
            };
            match fate {
                Some(Fate::Stored { revision, steps }) => {
                    let revision = if step < steps { revision.overtaken() } else { revision };
                    return outcome.map(|result| Done { revision, result });
                }
                Some(Fate::Conflict(error)) => attempts.lost(Error::also(&error), deadline).map_err(located)?,
                Some(Fate::Refused) => alone = true,
                Some(Fate::Failed(error)) => return Err(located(Error::also(&error)).into()),
                // The runtime of whoever was to store it is gone.
                None => return Err(located(Error::new(ErrorKind::Closed).unknown_outcome()).into()),
            }
        }
    }

    /// Stores a draft, whoever is dropped meanwhile.
    fn settle(&self, key: &Key, mut draft: OwnedMutexGuard<Draft>) -> JoinHandle<()> {
        let (bucket, key) = (self.read.clone(), key.clone());
        tokio::spawn(async move {
            let Some(group) = draft.group.take() else { return };
            let Group { kind, ttl, entry: _, steps, members, deadline, fate } = group;
            let base = draft.base.take();
            let told = match bucket.store(&key, base, kind, ttl, deadline).await {
                Ok(entry) => {
                    let revision = entry.revision;
                    draft.stored(entry);
                    Fate::Stored { revision, steps }
                }
                Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {
                    draft.overtaken(&error);
                    Fate::Conflict(Arc::new(error))
                }
                Err(error) => Fate::failed(error, members),
            };
            fate.send_replace(Some(told));
        })
    }
}

type Joined<R, E> = (u32, watch::Receiver<Option<Fate>>, Result<R, E>);

impl Draft {
    /// Takes a decision into the group; hands it back as it is if there is no group and nothing to begin one with.
    fn join<R, E>(
        &mut self,
        key: &Key,
        decision: Result<Decision<R>, E>,
        deadline: Deadline,
    ) -> Result<Joined<R, E>, Result<Done<R>, E>> {
        let revision = self.current().map_or(Revision::ZERO, |entry| entry.revision);
        let (kind, ttl, result) = match (decision, &mut self.group) {
            (Ok(Decision::Write { kind, ttl, result }), _) => (kind, ttl, result),
            // What it saw is not stored yet, so neither is what it makes of it.
            (Ok(Decision::Stop { result }), Some(group)) => return Ok(group.witness(deadline, Ok(result))),
            (Err(error), Some(group)) => return Ok(group.witness(deadline, Err(error))),
            (Ok(Decision::Stop { result }), None) => return Err(Ok(Done { revision, result })),
            (Err(error), None) => return Err(Err(error)),
        };
        let entry = entry(key, revision, &kind, ttl);
        let group = match &mut self.group {
            Some(group) => {
                (group.kind, group.ttl, group.entry) = (kind, ttl, entry);
                group
            }
            none => {
                none.insert(Group { kind, ttl, entry, steps: 0, members: 0, deadline, fate: watch::Sender::new(None) })
            }
        };
        group.steps += 1;
        Ok(group.witness(deadline, Ok(result)))
    }
}

impl Group {
    fn witness<R, E>(&mut self, deadline: Deadline, outcome: Result<R, E>) -> Joined<R, E> {
        self.members += 1;
        if deadline.at() > self.deadline.at() {
            self.deadline = deadline;
        }
        (self.steps, self.fate.subscribe(), outcome)
    }
}

/// What is stored under a key once this is written.
fn entry(key: &Key, revision: Revision, kind: &WriteKind, ttl: Option<Ttl>) -> RawEntry {
    let (operation, value) = match kind {
        WriteKind::Put(value) => (Operation::Put, value.clone()),
        WriteKind::Delete => (Operation::Delete, bytes::Bytes::new()),
        WriteKind::Purge => (Operation::Purge, bytes::Bytes::new()),
    };
    RawEntry { key: key.clone(), revision, created: SystemTime::now(), operation, value, ttl, id: None }
}

impl<T: KvModel> ReadBucket<T> {
    /// Sees to it that the draft has something to decide on: reads it, at the leader behind a conflict.
    async fn look(&self, key: &Key, draft: &mut Draft, deadline: Deadline) -> Result<()> {
        if draft.base.is_some() {
            return Ok(());
        }
        let raw = &self.inner.raw;
        let (entry, known) = match &mut draft.conflict {
            None => {
                let known = if self.config().may_be_behind() { Known::Near } else { Known::Surely };
                (raw.read(key, At::Newest(Read::Any), deadline).await?, known)
            }
            Some(retry) => (retry.read(&**raw, key, deadline).await?, Known::Surely),
        };
        draft.base = Some(Base { entry, known });
        Ok(())
    }

    /// Writes over what a draft was based on.
    async fn store(
        &self,
        key: &Key,
        base: Option<Base>,
        kind: WriteKind,
        ttl: Option<Ttl>,
        deadline: Deadline,
    ) -> Result<RawEntry> {
        let (revision, known) = match &base {
            Some(Base { entry, known }) => (entry.as_ref().map_or(Revision::ZERO, |entry| entry.revision), *known),
            None => (Revision::ZERO, Known::Surely),
        };
        if known == Known::Before && revision > Revision::ZERO {
            match self.check_incarnation(key, revision, deadline).await {
                // What was remembered is of another bucket: begin anew with what is there.
                Err(error) if matches!(error.kind(), ErrorKind::HistoryRewound) => {
                    let nothing = ErrorKind::Conflict { expected: Revision::ZERO, actual: None };
                    return Err(Error::new(nothing).caused_by(error));
                }
                checked => checked?,
            }
        }
        let stored = entry(key, revision, &kind, ttl);
        let (revision, id) = self.step(Step { key, over: revision, kind, ttl, on: None }, deadline).await?;
        Ok(RawEntry { revision, id: Some(id), ..stored })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    fn key(n: usize) -> Key {
        Key::new(n.to_string()).unwrap()
    }

    fn stored(bytes: usize) -> RawEntry {
        entry(&key(0), Revision::new(7), &WriteKind::Put(vec![0; bytes].into()), None)
    }

    #[test]
    fn lanes_in_use_are_kept_and_others_for_what_they_remember_while_there_is_room() {
        let lanes = Lanes::default();
        let count = || lanes.0.lock().unwrap().len();
        let used = lanes.of(&key(0));
        (1..1_024).for_each(|n| drop(lanes.of(&key(n))));
        assert_eq!(count(), 1_024);
        drop(lanes.of(&key(1_024)));
        assert_eq!(count(), 2);
        assert!(Arc::ptr_eq(&used, &lanes.of(&key(0))));
    }

    #[tokio::test]
    async fn a_lane_is_wanted_while_somebody_waits() {
        let (lane, deadline) = (Lane::default(), Deadline::after(Duration::from_secs(60)));
        let first = lane.enter(deadline).await.unwrap();
        assert!(!lane.is_wanted());
        let mut second = Box::pin(lane.enter(deadline));
        assert!(second.as_mut().now_or_never().is_none() && lane.is_wanted());
        drop(second);
        assert!(!lane.is_wanted());
        let mut third = Box::pin(lane.enter(deadline));
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        third.await.unwrap();
        assert!(!lane.is_wanted());
    }

    #[test]
    fn a_lane_remembers_what_was_stored_if_that_is_small() {
        let mut draft = Draft::default();
        draft.overtaken(&Error::new(ErrorKind::Conflict { expected: Revision::ZERO, actual: None }));
        assert!(draft.conflict.is_some() && draft.current().is_none());
        draft.stored(stored(16_384));
        assert!(draft.conflict.is_none() && draft.current().is_some_and(|entry| entry.value.len() == 16_384));
        assert!(!draft.is_sure(), "it may be old by now");
        draft.stored(stored(16_385));
        assert!(draft.current().is_none());
        draft.stored(stored(1));
        draft.overtaken(&Error::new(ErrorKind::Conflict { expected: Revision::ZERO, actual: None }));
        assert!(draft.current().is_none());
    }

    #[test]
    fn changes_are_tried_alone_if_they_are_refused_together_and_surely_not_stored() {
        let refused = || Error::invalid_config("it is too large");
        let alone = |error, members| matches!(Fate::failed(error, members), Fate::Refused);
        assert!(alone(refused(), 2));
        assert!(!alone(refused(), 1));
        assert!(!alone(refused().unknown_outcome(), 2));
        assert!(!alone(Error::unavailable("no leader"), 2));
        assert!(!alone(Error::unavailable("no leader").unknown_outcome(), 2));
    }

    #[test]
    fn a_group_has_the_time_of_its_most_patient_member() {
        let after = |seconds| Deadline::after(Duration::from_secs(seconds));
        let (soon, late, latest) = (after(1), after(2), after(3));
        let mut draft = Draft::default();
        let mut join = |deadline: Deadline| {
            let write = Decision::Write { kind: WriteKind::Delete, ttl: None, result: () };
            let (step, ..) =
                draft.join::<_, Error>(&key(0), Ok(write), deadline).unwrap_or_else(|_| panic!("it joins"));
            let group = draft.group.as_ref().expect("it is in a group");
            (step, group.members, group.deadline.at())
        };
        assert_eq!(join(late), (1, 1, late.at()));
        assert_eq!(join(soon), (2, 2, late.at()));
        assert_eq!(join(latest), (3, 3, latest.at()));
    }
}
