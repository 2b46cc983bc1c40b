//! Group commit: concurrent changes of one record in this process are applied one after another and stored by one
//! write.
//!
//! The calls that change a key share a queue. A caller that has locked the record applies its closure to it and joins
//! the group that the next write stores. The write begins when no other caller is about to join. Callers that arrive
//! during the write join the next group. So a write stores more changes under more load, and the callers of one process
//! do not conflict at the server.
//!
//! Each closure runs in its caller's task. A closure that fails or panics leaves the record unchanged. A caller that is
//! dropped leaves its change in the group. Reads and writes run in separate tasks. A caller that is not polled blocks no
//! other caller: it does not hold the lock, and any member of a group can begin the write. A group without waiting
//! callers is dropped.
//!
//! This file is the driver. The decisions are in [`group_call`](super::group_call), the state of a record in
//! [`pending_record`](super::pending_record), and the lock in [`key_queue`](super::key_queue).

use std::future::{Future, pending};
use std::sync::Arc;

use tokio::time::{Instant, sleep_until};

use super::cas::ConditionalWrite;
use super::decision::{CasDecision, CasLimits, CasOutcome};
use super::group_call::{GroupCall, Joined, NextStep};
use super::key_queue::{QueueGuard, QueueHandle};
use super::pending_record::{BaseEntry, CommitGroup, Freshness, GroupMember, GroupResult};
use super::retry::CasAttempts;
use crate::backend::{Deadline, KeySpace, OnDrop, RawEntry, Read, ReadAt, detached, run_in_background};
use crate::bucket::content::Content;
use crate::bucket::decode;
use crate::bucket::entry::Entry;
use crate::bucket::handle::{Bucket, ReadBucket};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::model::KvModel;
use crate::observe::{note_revision, note_write, part_of_operation};
use crate::revision::Revision;

/// How many times a member of a group checks for joining callers before it starts the write.
const MAX_CHECKS: u32 = 3;

impl<T: KvModel> Bucket<T> {
    /// Works like [`compare_and_set`](Self::compare_and_set), in a group with other callers of this process that change
    /// the same key.
    ///
    /// If the same write stores later changes too, the result is the record as it was stored.
    pub(crate) async fn modify_grouped<E: From<Error>>(
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
        let queue = self.inner.key_queues.handle(key);
        let is_serial = self.inner.key_queues.is_serial();
        let mut call = GroupCall::new(key.clone(), deadline, queue.reads(), is_serial, self.clock());
        loop {
            let locked = queue.lock_before(deadline).await;
            let mut record = locked.map_err(|error| located(attempts.explain_timeout(error)))?;
            let joined = match call.next(&mut record, || queue.has_waiters(), &mut decide) {
                NextStep::Load { from_leader } => {
                    let loaded = self.load_base(record, from_leader, deadline).await;
                    loaded.map_err(|error| located(attempts.explain_timeout(error)))?;
                    continue;
                }
                NextStep::Finish { revision, result } => return result.map(|result| CasOutcome { revision, result }),
                NextStep::Wait(joined) => joined,
            };
            self.note_key(key);
            let Joined { mut member, own, is_open, deadline: limit, result } = *joined;
            if is_open {
                drop(record);
            } else {
                run_in_background(self.finish_group(record, own)).await;
            }
            match self.group_result(&queue, &mut member, is_open, limit).await.map_err(located)? {
                Some(GroupResult::Stored { entry, steps }) => {
                    note_write(std::iter::once(entry.value.len()));
                    note_revision(entry.revision);
                    let (revision, result) = (entry.revision, result?);
                    if member.change_number == steps {
                        return Ok(CasOutcome { revision, result });
                    }
                    let stored =
                        decode::entry::<T>(&entry, self.clock()).map_err(|error| located(error.unknown_outcome()))?;
                    return Ok(CasOutcome { revision, result: stored });
                }
                Some(GroupResult::Conflict(error)) => {
                    note_write(std::iter::empty());
                    attempts.record_conflict(Error::shared(&error), deadline).map_err(located)?
                }
                Some(GroupResult::Refused) => call.leave_groups(),
                Some(GroupResult::Failed(error)) => {
                    note_write(std::iter::empty());
                    return Err(located(Error::shared(&error)).into());
                }
                // The runtime of the task that stores the group has ended.
                None => return Err(located(Error::new(ErrorKind::Closed).unknown_outcome()).into()),
            }
        }
    }

    /// Waits for the outcome of a group. While the group is open, starts the write as soon
    /// as no more callers join.
    async fn group_result(
        &self,
        queue: &Arc<QueueHandle>,
        member: &mut GroupMember,
        mut is_open: bool,
        limit: Option<Deadline>,
    ) -> Result<Option<GroupResult>> {
        let (mut seen, mut checks) = (member.members, 0);
        loop {
            if is_open {
                // The callers that were woken with this one take the lock first.
                tokio::task::yield_now().await;
            }
            let result = async { member.result.wait_for(Option::is_some).await.ok().and_then(|result| result.clone()) };
            let record = async { if is_open { queue.lock().await } else { pending().await } };
            let timed_out = async {
                match limit {
                    Some(limit) => {
                        sleep_until(limit.at()).await;
                        limit.error().unknown_outcome()
                    }
                    None => pending().await,
                }
            };
            let record = tokio::select! {
                biased;
                result = result => return Ok(result),
                record = record => record,
                error = timed_out => return Err(error),
            };
            is_open = match &record.group {
                Some(group) if group.has(member) => {
                    checks += 1;
                    let grew = group.members > seen;
                    seen = group.members;
                    grew && checks < MAX_CHECKS && !group.is_full() && queue.has_waiters()
                }
                // The group is being stored.
                _ => {
                    is_open = false;
                    continue;
                }
            };
            if !is_open {
                run_in_background(self.finish_group(record, None)).await;
            }
        }
    }

    /// Stores the group of a record, and then the group `last`.
    fn finish_group(
        &self,
        mut record: QueueGuard,
        last: Option<CommitGroup>,
    ) -> impl Future<Output = ()> + Send + use<T> {
        let bucket = self.read.clone();
        async move {
            let key = record.queue().key().clone();
            let mut before = None;
            for group in record.group.take().into_iter().chain(last) {
                let CommitGroup { content, entry: _, steps, members, deadline, result, write } = group;
                let outcome = match before {
                    Some(GroupResult::Conflict(error)) => GroupResult::Conflict(error),
                    Some(GroupResult::Refused | GroupResult::Failed(_)) => GroupResult::Refused,
                    Some(GroupResult::Stored { .. }) | None => {
                        let base = record.base.take();
                        let commit = bucket.commit_group(&key, base, content, deadline);
                        match write.run(bucket.name(), members, commit).await {
                            Ok(entry) => {
                                record.set_stored(entry.clone());
                                GroupResult::Stored { entry: Arc::new(entry), steps }
                            }
                            Err(error)
                                if error.is_stale_schema() || matches!(error.kind(), ErrorKind::Conflict { .. }) =>
                            {
                                record.set_conflict(&error);
                                GroupResult::Conflict(Arc::new(error))
                            }
                            Err(error) => GroupResult::failed(error, members),
                        }
                    }
                };
                result.send_replace(Some(outcome.clone()));
                before = Some(outcome);
            }
            record.forget_if_shared_or_large();
        }
    }
}

impl<T: KvModel> ReadBucket<T> {
    /// Reads the newest entry of a record, in a separate task. By default, it reads from the nearest server. After a
    /// conflict, the entry is not older than the conflict. With `from_leader`, no newer entry existed.
    async fn load_base(&self, mut record: QueueGuard, from_leader: bool, deadline: Deadline) -> Result<()> {
        let bucket = self.clone();
        let read = async move {
            let key = record.queue().key().clone();
            if let Some(until) = record.take_pause().filter(|until| *until > Instant::now()) {
                // The caller keeps half of its time for the change.
                sleep_until(until.min(Instant::now() + deadline.remaining() / 2)).await;
            }
            let number = record.queue().begin_read();
            let raw = &bucket.inner.raw;
            let (entry, freshness) = match &mut record.conflict {
                _ if from_leader => (bucket.read_leader(&key, deadline).await?, Freshness::Leader(number)),
                Some(retry) => (retry.read(&**raw, &key, deadline).await?, Freshness::Leader(number)),
                None => {
                    let unconfirmed = raw.read(KeySpace::Records, &key, ReadAt::Newest(Read::Any), deadline).await?;
                    match bucket.config().may_be_behind() {
                        true if record.is_stale(unconfirmed.as_ref()) => {
                            (bucket.read_leader(&key, deadline).await?, Freshness::Leader(number))
                        }
                        true => (unconfirmed, Freshness::AnyReplica(number)),
                        false => (unconfirmed, Freshness::Leader(number)),
                    }
                }
            };
            record.set_base(BaseEntry { entry, freshness });
            Ok(())
        };
        let closed = || Err(Error::new(ErrorKind::Closed));
        detached(part_of_operation(read), OnDrop::Continue).await.unwrap_or_else(closed)
    }

    /// Replaces the entry that a group is based on.
    async fn commit_group(
        &self,
        key: &Key,
        base: Option<BaseEntry>,
        content: Content,
        deadline: Deadline,
    ) -> Result<RawEntry> {
        let (revision, freshness) = match &base {
            Some(BaseEntry { entry, freshness }) => {
                (entry.as_ref().map_or(Revision::ZERO, |entry| entry.revision), *freshness)
            }
            None => (Revision::ZERO, Freshness::Cached),
        };
        if freshness == Freshness::Cached && revision > Revision::ZERO {
            match self.check_identity(key, revision, deadline).await {
                // The remembered entry is of another bucket, so start over with a read.
                Err(error) if matches!(error.kind(), ErrorKind::BucketReplaced) => {
                    let nothing = ErrorKind::Conflict { expected: Revision::ZERO, actual: None };
                    return Err(Error::new(nothing).caused_by(error));
                }
                checked => checked?,
            }
        }
        let stored = content.entry(key, revision, self.clock().now());
        let base = base.as_ref().and_then(|base| base.entry.as_ref());
        let write = ConditionalWrite { key, expected: revision, base, content, on: None };
        let (revision, id) = self.write_conditionally(write, deadline).await?;
        Ok(RawEntry { revision, id: Some(id), ..stored })
    }
}
