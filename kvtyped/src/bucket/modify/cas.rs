//! The compare-and-set loop that all updates of one record share.

use futures::FutureExt;

use super::decision::{CasDecision, CasLimits, CasOutcome, CasStart};
use super::retry::{CasAttempts, CasRetry, is_unchanged};
use crate::backend::{Deadline, KeySpace, OperationId, Precondition, RawEntry, Read, ReadAt};
use crate::bucket::content::Content;
use crate::bucket::handle::{Bucket, ReadBucket};
use crate::bucket::index::write::{IndexedWrite, Replaced};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::model::KvModel;
use crate::revision::Revision;

/// One write of the loop. It replaces the entry that was read, unless another write came between.
pub(crate) struct ConditionalWrite<'a> {
    pub(crate) key: &'a Key,
    /// The revision of the entry that was read. Zero if the key had no entry.
    pub(crate) expected: Revision,
    /// The entry with the expected revision.
    pub(crate) base: Option<&'a RawEntry>,
    pub(crate) content: Content,
    /// The precondition on another record.
    pub(crate) on: Option<&'a Precondition>,
}

impl<T: KvModel> ReadBucket<T> {
    /// Reads the newest entry for a decision that no write confirms. Reads from the leader if another server may be
    /// stale. Reads from the nearest server if the user may not read from the leader.
    pub(crate) async fn read_leader(&self, key: &Key, deadline: Deadline) -> Result<Option<RawEntry>> {
        let raw = &self.inner.raw;
        if self.config().may_be_behind() {
            match raw.read(KeySpace::Records, key, ReadAt::Newest(Read::Leader), deadline).await {
                Err(error) if error.is_denied() => {}
                read => return read,
            }
        }
        raw.read(KeySpace::Records, key, ReadAt::Newest(Read::Any), deadline).await
    }

    pub(crate) async fn write_conditionally(
        &self,
        write: ConditionalWrite<'_>,
        deadline: Deadline,
    ) -> Result<(Revision, OperationId)> {
        let ConditionalWrite { key, expected, base, content, on } = write;
        // The `const` block and the box keep the code of indexes out of models without indexes.
        if const { !T::__INDEXES.is_empty() } {
            let write = IndexedWrite { old: Replaced::Entry(base), expected, content, on, is_one_of_many: false };
            return self.write_indexed(key, write, deadline).boxed().await;
        }
        let target = content.target;
        let write = content.write(key.clone()).if_revision(expected);
        let id = write.id.clone();
        let revision = self.inner.write(write, on, target, deadline).await?;
        Ok((self.record_write(revision, &id), id))
    }
}

impl<T: KvModel> Bucket<T> {
    /// The compare-and-set loop: reads, decides, and writes unless another write came between. After a conflict, it
    /// reads from the leader and starts over.
    ///
    /// A stale read is harmless. The server refuses its write, and a decision to write nothing is checked with a read
    /// from the leader. The read after a conflict comes from the leader. After the conflict of a guess, it comes from
    /// any server that has reached the revision of the conflict. No decision is based on an entry that is older than
    /// the conflict. An unknown outcome ends the loop, because another attempt could apply the change twice.
    pub(crate) async fn compare_and_set<R, E: From<Error>>(
        &self,
        operation: &'static str,
        key: &Key,
        start: CasStart,
        limits: CasLimits,
        mut decide: impl FnMut(Option<&RawEntry>) -> Result<CasDecision<R>, E>,
    ) -> Result<CasOutcome<R>, E> {
        let CasLimits { attempts, deadline, fence } = limits;
        let mut attempts = CasAttempts::new(attempts);
        let located = |error: Error| error.with_context(operation, self.name(), Some(key.as_str()));
        let on = self.resolve_fence(fence).map_err(located)?;
        let raw = self.raw(operation)?;
        let mut retry = CasRetry::new();
        let revision_of = |entry: &Option<RawEntry>| entry.as_ref().map_or(Revision::ZERO, |entry| entry.revision);
        let mut starts_without_read = matches!(start, CasStart::NoRecord(_));
        let first_is_confirmed = matches!(start, CasStart::LeaderRead);
        let (mut newest, mut expected) = match start {
            CasStart::NoRecord(marker) => (None, marker),
            CasStart::Read | CasStart::LeaderRead => {
                let read = if matches!(start, CasStart::Read) { Read::Any } else { Read::Leader };
                let newest = raw.read(KeySpace::Records, key, ReadAt::Newest(read), deadline).await.map_err(located)?;
                let expected = revision_of(&newest);
                (newest, expected)
            }
        };
        let mut is_confirmed = first_is_confirmed || !self.config().may_be_behind();
        loop {
            let decision = decide(newest.as_ref());
            if !is_confirmed && !matches!(decision, Ok(CasDecision::Write { .. })) {
                is_confirmed = true;
                let leader = self.read_leader(key, deadline).await.map_err(located)?;
                if !is_unchanged(leader.as_ref(), newest.as_ref()) {
                    (expected, newest) = (revision_of(&leader), leader);
                    continue;
                }
            }
            let (content, result) = match decision? {
                CasDecision::Stop { result } => return Ok(CasOutcome { revision: expected, result }),
                CasDecision::Write { content, result } => (content, result),
            };
            let write = ConditionalWrite { key, expected, base: newest.as_ref(), content, on: on.as_ref() };
            match self.write_conditionally(write, deadline).await {
                Ok((revision, _)) => return Ok(CasOutcome { revision, result }),
                Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {
                    retry.observe_conflict(&error);
                    attempts.record_conflict(error, deadline).map_err(located)?;
                }
                // Encode the record again, for the version that the bucket takes now.
                Err(error) if error.is_stale_schema() => continue,
                Err(error) => return Err(located(error).into()),
            }
            let read = match std::mem::take(&mut starts_without_read) {
                true => retry.read_any_replica(&**raw, key, deadline).await,
                false => retry.read(&**raw, key, deadline).await,
            };
            newest = read.map_err(|error| located(attempts.explain_timeout(error)))?;
            expected = revision_of(&newest);
            is_confirmed = true;
        }
    }
}
