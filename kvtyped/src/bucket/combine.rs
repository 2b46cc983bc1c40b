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

use super::cas::{CasAttempts, CasDecision, CasLimits, CasOutcome, ConditionalWrite};
use super::draft::{BaseEntry, CommitGroup, Freshness, GroupMember, GroupResult, entry};
use super::lanes::{QueueGuard, QueueHandle};
use super::{Bucket, Entry, ReadBucket, decode};
use crate::backend::{Deadline, Dropped, RawEntry, Read, ReadAt, WriteKind, detached, start};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::model::KvModel;
use crate::revision::Revision;
use crate::ttl::Ttl;

/// How many times a member of a group checks for joining callers before it starts the write.
const MAX_BASE_LOADS: u32 = 3;

impl<T: KvModel> Bucket<T> {
    /// Works like [`compare_and_set`](Self::compare_and_set), in a group with other callers of this process that change
    /// the same key.
    ///
    /// If the same write stores later changes too, the result is the record as it was stored.
    pub(super) async fn modify_grouped<E: From<Error>>(
        &self,
        operation: &'static str,
        key: &Key,
        limits: CasLimits,
        mut decide: impl FnMut(Option<&RawEntry>) -> Result<CasDecision<Option<Entry<T>>>, E>,
    ) -> Result<CasOutcome<Option<Entry<T>>>, E> {
        let deadline = limits.deadline;
        let mut attempts = CasAttempts::new(limits.attempts);
        let located = |error: Error| error.with_context(operation, self.name(), Some(key.as_str()));
        self.raw(operation)?;
        let seat = self.inner.key_queues.handle(key);
        let arrived = seat.reads();
        let mut alone = self.inner.key_queues.is_serial();
        // A decision to write nothing, and the entry that it is based on, which may be stale.
        let mut unsure: Option<(Result<CasDecision<_>, E>, Option<RawEntry>)> = None;
        loop {
            let mut turn = seat.lock_before(deadline).await.map_err(|error| located(attempts.conflict_error(error)))?;
            turn.prepare(arrived);
            if turn.group.is_none() && turn.base.is_none() {
                let read = self.load_base(turn, false, deadline).await;
                read.map_err(|error| located(attempts.conflict_error(error)))?;
                continue;
            }
            let decision = match unsure.take() {
                Some((decision, near)) if turn.is_unchanged(near.as_ref()) => decision,
                _ => decide(turn.current()),
            };
            if !matches!(decision, Ok(CasDecision::Write { .. })) && !turn.is_authoritative() {
                unsure = Some((decision, turn.current().cloned()));
                let read = self.load_base(turn, true, deadline).await;
                read.map_err(|error| located(attempts.conflict_error(error)))?;
                continue;
            }
            let (change, outcome) = match decision {
                Ok(CasDecision::Write { kind, ttl, result }) => (Some((kind, ttl)), Ok(result)),
                Ok(CasDecision::Stop { result }) => (None, Ok(result)),
                Err(error) => (None, Err(error)),
            };
            let joins = !alone && change.as_ref().is_none_or(|(kind, _)| matches!(kind, WriteKind::Put(_)));
            let (mut member, own, limit) = match (change, &mut turn.group) {
                (None, None) => return outcome.map(|result| CasOutcome { revision: turn.revision(), result }),
                (None, Some(group)) => (group.subscribe(deadline), None, Some(deadline)),
                (Some((kind, ttl)), Some(group)) if joins => {
                    (group.add_change(kind, ttl, deadline), None, Some(deadline))
                }
                (Some((kind, ttl)), None) if joins && seat.has_waiters() => {
                    let (group, member) = turn.start_group(key, kind, ttl, deadline);
                    turn.group = Some(group);
                    (member, None, Some(deadline))
                }
                // A separate write, directly after the current group: the members of a group get a record, and a
                // removal leaves none. Without a group, the write has its own deadline.
                (Some((kind, ttl)), group) => {
                    let limit = group.is_some().then_some(deadline);
                    let (own, member) = turn.start_group(key, kind, ttl, deadline);
                    (member, Some(own), limit)
                }
            };
            let is_full = turn.group.as_ref().is_some_and(CommitGroup::is_full);
            let open = own.is_none() && !is_full && seat.has_waiters();
            if open {
                drop(turn);
            } else {
                start(self.finish_group(turn, own)).await;
            }
            match self.group_result(&seat, &mut member, open, limit).await.map_err(located)? {
                Some(GroupResult::Stored { entry, steps }) => {
                    let (revision, result) = (entry.revision, outcome?);
                    if member.step == steps {
                        return Ok(CasOutcome { revision, result });
                    }
                    let stored = decode::entry::<T>(&entry).map_err(|error| located(error.unknown_outcome()))?;
                    return Ok(CasOutcome { revision, result: stored });
                }
                Some(GroupResult::Conflict(error)) => {
                    attempts.unknown_outcome(Error::shared(&error), deadline).map_err(located)?
                }
                Some(GroupResult::Refused) => alone = true,
                Some(GroupResult::Failed(error)) => return Err(located(Error::shared(&error)).into()),
                // The runtime of the task that stores the group has ended.
                None => return Err(located(Error::new(ErrorKind::Closed).unknown_outcome()).into()),
            }
        }
    }

    /// Waits for the outcome of a group. While the group is open, starts the write as soon as no more callers join.
    async fn group_result(
        &self,
        seat: &Arc<QueueHandle>,
        member: &mut GroupMember,
        mut open: bool,
        limit: Option<Deadline>,
    ) -> Result<Option<GroupResult>> {
        let (mut seen, mut looks) = (member.members, 0);
        loop {
            if open {
                // The callers that were woken with this one take their turns first.
                tokio::task::yield_now().await;
            }
            let fate = async { member.fate.wait_for(Option::is_some).await.ok().and_then(|fate| fate.clone()) };
            let turn = async { if open { seat.lock().await } else { pending().await } };
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
                    grew && looks < MAX_BASE_LOADS && !group.is_full() && seat.has_waiters()
                }
                // The group is being stored.
                _ => {
                    open = false;
                    continue;
                }
            };
            if !open {
                start(self.finish_group(turn, None)).await;
            }
        }
    }

    /// Stores the group of a draft, and then the group `last`.
    fn finish_group(
        &self,
        mut turn: QueueGuard,
        last: Option<CommitGroup>,
    ) -> impl Future<Output = ()> + Send + use<T> {
        let bucket = self.read.clone();
        async move {
            let key = turn.seat().key().clone();
            let mut before = None;
            for group in turn.group.take().into_iter().chain(last) {
                let CommitGroup { kind, ttl, entry: _, steps, members, deadline, result: fate } = group;
                let told = match before {
                    Some(GroupResult::Conflict(error)) => GroupResult::Conflict(error),
                    Some(GroupResult::Refused | GroupResult::Failed(_)) => GroupResult::Refused,
                    Some(GroupResult::Stored { .. }) | None => {
                        let base = turn.base.take();
                        match bucket.commit_group(&key, base, kind, ttl, deadline).await {
                            Ok(entry) => {
                                turn.set_stored(entry.clone());
                                GroupResult::Stored { entry: Arc::new(entry), steps }
                            }
                            Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {
                                turn.set_conflict(&error);
                                GroupResult::Conflict(Arc::new(error))
                            }
                            Err(error) => GroupResult::failed(error, members),
                        }
                    }
                };
                fate.send_replace(Some(told.clone()));
                before = Some(told);
            }
            turn.pause_for_others();
        }
    }
}

impl<T: KvModel> ReadBucket<T> {
    /// Reads the newest entry for the draft, in a separate task. By default, it reads from the nearest server. After a
    /// conflict, the entry is not older than the conflict. With `surely`, no newer entry existed.
    async fn load_base(&self, mut turn: QueueGuard, surely: bool, deadline: Deadline) -> Result<()> {
        let bucket = self.clone();
        let read = async move {
            let key = turn.seat().key().clone();
            if let Some(rest) = turn.take_pause().filter(|rest| *rest > Instant::now()) {
                // The caller keeps half of its time for the change.
                sleep_until(rest.min(Instant::now() + deadline.remaining() / 2)).await;
            }
            let number = turn.seat().begin_read();
            let raw = &bucket.inner.raw;
            let (entry, known) = match &mut turn.conflict {
                _ if surely => (bucket.read_leader(&key, deadline).await?, Freshness::Leader(number)),
                Some(retry) => (retry.read(&**raw, &key, deadline).await?, Freshness::Leader(number)),
                None => {
                    let near = raw.read(&key, ReadAt::Newest(Read::Any), deadline).await?;
                    match bucket.config().may_be_behind() {
                        true if turn.is_stale(near.as_ref()) => {
                            (bucket.read_leader(&key, deadline).await?, Freshness::Leader(number))
                        }
                        true => (near, Freshness::AnyReplica(number)),
                        false => (near, Freshness::Leader(number)),
                    }
                }
            };
            turn.set_base(BaseEntry { entry, known });
            Ok(())
        };
        let closed = || Err(Error::new(ErrorKind::Closed));
        detached(read, Dropped::Continues).await.unwrap_or_else(closed)
    }

    /// Replaces the entry that a draft was based on.
    async fn commit_group(
        &self,
        key: &Key,
        base: Option<BaseEntry>,
        kind: WriteKind,
        ttl: Option<Ttl>,
        deadline: Deadline,
    ) -> Result<RawEntry> {
        let (revision, known) = match &base {
            Some(BaseEntry { entry, known }) => (entry.as_ref().map_or(Revision::ZERO, |entry| entry.revision), *known),
            None => (Revision::ZERO, Freshness::Cached),
        };
        if known == Freshness::Cached && revision > Revision::ZERO {
            match self.check_identity(key, revision, deadline).await {
                // The remembered entry is of another bucket, so start over with a read.
                Err(error) if matches!(error.kind(), ErrorKind::BucketReplaced) => {
                    let nothing = ErrorKind::Conflict { expected: Revision::ZERO, actual: None };
                    return Err(Error::new(nothing).caused_by(error));
                }
                checked => checked?,
            }
        }
        let stored = entry(key, revision, &kind, ttl);
        let (revision, id) =
            self.step(ConditionalWrite { key, expected: revision, kind, ttl, on: None }, deadline).await?;
        Ok(RawEntry { revision, id: Some(id), ..stored })
    }
}
