//! Group commit: changes of one record that wait for each other in this process are applied one after another, and
//! stored by one write.
//!
//! The changes of a key share a lane. A caller that has the turn applies its closure to the draft of the record and
//! joins the group that the next write stores. The write begins when no other caller is about to join. Callers that
//! arrive during the write join the next group. So a write stores more changes under more load, and the callers of one
//! process do not conflict at the server.
//!
//! Each closure runs in its caller's task. A closure that fails or panics leaves the draft unchanged. A caller that is
//! dropped leaves its change in the draft. Reads and writes run in separate tasks. A caller that is not polled blocks
//! no other caller: it has no turn, and any member of a group can begin the write. A group without waiting callers is
//! dropped.

use std::future::{Future, pending};
use std::sync::Arc;

use tokio::time::{Instant, sleep_until};

use super::cas::{Attempts, Decision, Done, Limits, Step};
use super::draft::{Base, Fate, Group, Known, Member, entry};
use super::lanes::{Seat, Turn};
use super::{Bucket, Entry, ReadBucket, decode};
use crate::backend::{At, Deadline, Dropped, RawEntry, Read, WriteKind, detached, start};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::model::KvModel;
use crate::revision::Revision;
use crate::ttl::Ttl;

/// How many times a member of a group checks for joining callers before it starts the write.
const LOOKS: u32 = 3;

impl<T: KvModel> Bucket<T> {
    /// Works like [`compare_and_set`](Self::compare_and_set), in a group with other callers of this process that change
    /// the same key.
    ///
    /// If the same write stores later changes too, the result is the record as it was stored.
    pub(super) async fn change_in_turn<E: From<Error>>(
        &self,
        operation: &'static str,
        key: &Key,
        limits: Limits,
        mut decide: impl FnMut(Option<&RawEntry>) -> Result<Decision<Option<Entry<T>>>, E>,
    ) -> Result<Done<Option<Entry<T>>>, E> {
        let deadline = limits.deadline;
        let mut attempts = Attempts::new(limits.attempts);
        let located = |error: Error| error.within(operation, self.name(), Some(key.as_str()));
        self.raw(operation)?;
        let seat = self.inner.lanes.seat(key);
        let arrived = seat.reads();
        let mut alone = self.inner.lanes.go_one_by_one();
        // A decision to write nothing, and the entry that it is based on, which may be stale.
        let mut unsure: Option<(Result<Decision<_>, E>, Option<RawEntry>)> = None;
        loop {
            let mut turn = seat.enter(deadline).await.map_err(|error| located(attempts.explain(error)))?;
            turn.prepare(arrived);
            if turn.group.is_none() && turn.base.is_none() {
                let read = self.look(turn, false, deadline).await;
                read.map_err(|error| located(attempts.explain(error)))?;
                continue;
            }
            let decision = match unsure.take() {
                Some((decision, near)) if turn.confirms(near.as_ref()) => decision,
                _ => decide(turn.current()),
            };
            if !matches!(decision, Ok(Decision::Write { .. })) && !turn.is_sure() {
                unsure = Some((decision, turn.current().cloned()));
                let read = self.look(turn, true, deadline).await;
                read.map_err(|error| located(attempts.explain(error)))?;
                continue;
            }
            let (change, outcome) = match decision {
                Ok(Decision::Write { kind, ttl, result }) => (Some((kind, ttl)), Ok(result)),
                Ok(Decision::Stop { result }) => (None, Ok(result)),
                Err(error) => (None, Err(error)),
            };
            let joins = !alone && change.as_ref().is_none_or(|(kind, _)| matches!(kind, WriteKind::Put(_)));
            let (mut member, own, limit) = match (change, &mut turn.group) {
                (None, None) => return outcome.map(|result| Done { revision: turn.revision(), result }),
                (None, Some(group)) => (group.witness(deadline), None, Some(deadline)),
                (Some((kind, ttl)), Some(group)) if joins => (group.change(kind, ttl, deadline), None, Some(deadline)),
                (Some((kind, ttl)), None) if joins && seat.is_wanted() => {
                    let (group, member) = turn.begin(key, kind, ttl, deadline);
                    turn.group = Some(group);
                    (member, None, Some(deadline))
                }
                // A separate write, directly after the current group: the members of a group get a record, and a
                // removal leaves none. Without a group, the write has its own deadline.
                (Some((kind, ttl)), group) => {
                    let limit = group.is_some().then_some(deadline);
                    let (own, member) = turn.begin(key, kind, ttl, deadline);
                    (member, Some(own), limit)
                }
            };
            let is_full = turn.group.as_ref().is_some_and(Group::is_full);
            let open = own.is_none() && !is_full && seat.is_wanted();
            if open {
                drop(turn);
            } else {
                start(self.settle(turn, own)).await;
            }
            match self.fate_of(&seat, &mut member, open, limit).await.map_err(located)? {
                Some(Fate::Stored { entry, steps }) => {
                    let (revision, result) = (entry.revision, outcome?);
                    if member.step == steps {
                        return Ok(Done { revision, result });
                    }
                    let stored = decode::entry::<T>(&entry).map_err(|error| located(error.unknown_outcome()))?;
                    return Ok(Done { revision, result: stored });
                }
                Some(Fate::Conflict(error)) => attempts.lost(Error::also(&error), deadline).map_err(located)?,
                Some(Fate::Refused) => alone = true,
                Some(Fate::Failed(error)) => return Err(located(Error::also(&error)).into()),
                // The runtime of the task that stores the group has ended.
                None => return Err(located(Error::new(ErrorKind::Closed).unknown_outcome()).into()),
            }
        }
    }

    /// Waits for the outcome of a group. While the group is open, starts the write as soon as no more callers join.
    async fn fate_of(
        &self,
        seat: &Arc<Seat>,
        member: &mut Member,
        mut open: bool,
        limit: Option<Deadline>,
    ) -> Result<Option<Fate>> {
        let (mut seen, mut looks) = (member.members, 0);
        loop {
            if open {
                // The callers that were woken with this one take their turns first.
                tokio::task::yield_now().await;
            }
            let fate = async { member.fate.wait_for(Option::is_some).await.ok().and_then(|fate| fate.clone()) };
            let turn = async { if open { seat.turn().await } else { pending().await } };
            let late = async {
                match limit {
                    Some(limit) => {
                        sleep_until(limit.at()).await;
                        limit.error().unknown_outcome()
                    }
                    None => pending().await,
                }
            };
            let turn = tokio::select! {
                biased;
                fate = fate => return Ok(fate),
                turn = turn => turn,
                error = late => return Err(error),
            };
            open = match &turn.group {
                Some(group) if group.has(member) => {
                    looks += 1;
                    let grew = group.members > seen;
                    seen = group.members;
                    grew && looks < LOOKS && !group.is_full() && seat.is_wanted()
                }
                // The group is being stored.
                _ => {
                    open = false;
                    continue;
                }
            };
            if !open {
                start(self.settle(turn, None)).await;
            }
        }
    }

    /// Stores the group of a draft, and then the group `last`.
    fn settle(&self, mut turn: Turn, last: Option<Group>) -> impl Future<Output = ()> + Send + use<T> {
        let bucket = self.read.clone();
        async move {
            let key = turn.seat().key().clone();
            let mut before = None;
            for group in turn.group.take().into_iter().chain(last) {
                let Group { kind, ttl, entry: _, steps, members, deadline, fate } = group;
                let told = match before {
                    Some(Fate::Conflict(error)) => Fate::Conflict(error),
                    Some(Fate::Refused | Fate::Failed(_)) => Fate::Refused,
                    Some(Fate::Stored { .. }) | None => {
                        let base = turn.base.take();
                        match bucket.store(&key, base, kind, ttl, deadline).await {
                            Ok(entry) => {
                                turn.stored(entry.clone());
                                Fate::Stored { entry: Arc::new(entry), steps }
                            }
                            Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {
                                turn.overtaken(&error);
                                Fate::Conflict(Arc::new(error))
                            }
                            Err(error) => Fate::failed(error, members),
                        }
                    }
                };
                fate.send_replace(Some(told.clone()));
                before = Some(told);
            }
            turn.yield_to_others();
        }
    }
}

impl<T: KvModel> ReadBucket<T> {
    /// Reads the newest entry for the draft, in a separate task. By default, it reads from the nearest server. After a
    /// conflict, the entry is not older than the conflict. With `surely`, no newer entry existed.
    async fn look(&self, mut turn: Turn, surely: bool, deadline: Deadline) -> Result<()> {
        let bucket = self.clone();
        let read = async move {
            let key = turn.seat().key().clone();
            if let Some(rest) = turn.rest().filter(|rest| *rest > Instant::now()) {
                // The caller keeps half of its time for the change.
                sleep_until(rest.min(Instant::now() + deadline.remaining() / 2)).await;
            }
            let number = turn.seat().begin_read();
            let raw = &bucket.inner.raw;
            let (entry, known) = match &mut turn.conflict {
                _ if surely => (bucket.read_surely(&key, deadline).await?, Known::Surely(number)),
                Some(retry) => (retry.read(&**raw, &key, deadline).await?, Known::Surely(number)),
                None => {
                    let near = raw.read(&key, At::Newest(Read::Any), deadline).await?;
                    match bucket.config().may_be_behind() {
                        true if turn.is_stale(near.as_ref()) => {
                            (bucket.read_surely(&key, deadline).await?, Known::Surely(number))
                        }
                        true => (near, Known::Near(number)),
                        false => (near, Known::Surely(number)),
                    }
                }
            };
            turn.found(Base { entry, known });
            Ok(())
        };
        let closed = || Err(Error::new(ErrorKind::Closed));
        detached(read, Dropped::Continues).await.unwrap_or_else(closed)
    }

    /// Replaces the entry that a draft was based on.
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
            None => (Revision::ZERO, Known::Before),
        };
        if known == Known::Before && revision > Revision::ZERO {
            match self.check_incarnation(key, revision, deadline).await {
                // The remembered entry is of another bucket, so start over with a read.
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
