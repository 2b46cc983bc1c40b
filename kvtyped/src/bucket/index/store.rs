//! The reads and writes of index entries, claims and their owners.

use bytes::Bytes;

use super::attempt::{Claim, Reply};
use super::slot::{BaseValues, Slot};
use crate::backend::{Deadline, KeySpace, RawEntry, Read, ReadAt, RecordHeaders, Write, WriteKind, run_in_background};
use crate::bucket::content::{Content, Target};
use crate::bucket::decode;
use crate::bucket::handle::ReadBucket;
use crate::bucket::indexes::read_claim;
use crate::error::{ErrorKind, Outcome, Result};
use crate::key::Key;
use crate::model::KvModel;
use crate::model::index::{self, IndexInfo, IndexValues, kept_by_writers, values_of};
use crate::revision::Revision;
use crate::ttl::Ttl;

/// Returns the index values of a stored record. Empty without a live record, and `None` if the record does not decode.
pub(crate) fn stored_values<T: KvModel>(entry: Option<&RawEntry>) -> Option<IndexValues> {
    let Some(entry) = entry else { return Some(IndexValues::default()) };
    let record = decode::value::<T>(entry).ok()?;
    Some(record.as_ref().map(values_of).unwrap_or_default())
}

/// Returns the index values of the record that a write replaces.
pub(crate) fn replaced_values<T: KvModel>(base: Option<&RawEntry>) -> BaseValues {
    // Without a record, nothing needs an entry.
    let is_kept = base.is_none_or(|base| base.headers.indexes() == kept_by_writers(T::__INDEXES));
    BaseValues { values: stored_values::<T>(base), is_kept }
}

/// Returns the body of the claim of a record.
pub(crate) fn claim_body(owner: &Key, expects: Revision) -> Bytes {
    index::Claim { owner: owner.clone(), expects }.encode().into()
}

/// Returns the reply to a write. Any other error ends the attempt.
pub(crate) fn write_reply(written: Result<Revision>) -> Result<Reply<Key>> {
    match written {
        Ok(revision) => Ok(Reply::Written(revision)),
        Err(error) if error.outcome() == Outcome::Unknown => Ok(Reply::Unknown),
        Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => Ok(Reply::Refused),
        Err(error) => Err(error),
    }
}

impl<T: KvModel> ReadBucket<T> {
    /// Stores an index entry or a claim.
    pub(crate) async fn write_slot(
        &self,
        slot: &Slot,
        body: Bytes,
        over: Option<Revision>,
        deadline: Deadline,
    ) -> Result<Reply<Key>> {
        let mut write = Write::index_entry(slot.key.clone(), body);
        if let Some(over) = over {
            write = write.if_revision(over);
        }
        let reply = write_reply(self.inner.raw.write(write, deadline).await)?;
        match reply {
            // The operation has not written its record yet.
            Reply::Unknown if deadline.is_expired() => Err(deadline.error()),
            reply => Ok(reply),
        }
    }

    /// Reads a claim at the leader.
    pub(crate) async fn read_claim(&self, slot: &Slot, deadline: Deadline) -> Result<Reply<Key>> {
        let (revision, claim) = read_claim(&*self.inner.raw, &slot.key, Read::Leader, deadline).await?;
        let claim = claim.map(|index::Claim { owner, expects }| Claim { owner, expects, revision });
        Ok(Reply::Claim(claim))
    }

    /// Reads the record that a claim or an entry names, at the leader.
    pub(crate) async fn read_owner(&self, owner: &Key, slot: &Slot, deadline: Deadline) -> Result<Reply<Key>> {
        self.read_owner_as(owner, slot, stored_values::<T>, deadline).await
    }

    /// Works like [`read_owner`](Self::read_owner), for a record of another model.
    pub(crate) async fn read_owner_as(
        &self,
        owner: &Key,
        slot: &Slot,
        values_of: fn(Option<&RawEntry>) -> Option<IndexValues>,
        deadline: Deadline,
    ) -> Result<Reply<Key>> {
        let at = ReadAt::Newest(Read::Leader);
        let entry = self.inner.raw.read(KeySpace::Records, owner, at, deadline).await?;
        // A record that does not decode may have the value.
        let has_value = values_of(entry.as_ref()).is_none_or(|values| slot.is_value_of(&values));
        Ok(Reply::Owner { revision: entry.map_or(Revision::ZERO, |entry| entry.revision), has_value })
    }

    /// Writes a record again unchanged if it has this revision, with the rest of its life. Zero writes a delete marker.
    pub(crate) async fn rewrite_owner(
        &self,
        owner: &Key,
        revision: Revision,
        target: Option<Target>,
        deadline: Deadline,
    ) -> Result<Reply<Key>> {
        let at = ReadAt::Newest(Read::Leader);
        let entry = match revision {
            Revision::ZERO => None,
            _ => self.inner.raw.read(KeySpace::Records, owner, at, deadline).await?,
        };
        if entry.as_ref().map_or(Revision::ZERO, |entry| entry.revision) != revision {
            return Ok(Reply::Refused);
        }
        let content = match entry {
            Some(live) if live.is_live() => {
                let rest = self.clock().remaining(live.created, live.ttl);
                // A whole second more at most: no record expires early.
                let ttl = rest.map_or(live.ttl, |rest| Ttl::new(rest.max(Ttl::MIN)).or(live.ttl));
                // In a bucket with a history, another client may have set a TTL. The record must not become permanent.
                let has_history = !matches!(self.config().history, None | Some(1));
                let has_ttl = self.config().limit_markers.is_some() && (!has_history || live.ttl.is_some());
                let source = live.headers.rewrite_of().unwrap_or(revision);
                let headers = live.headers.with_cause(Some(&RecordHeaders::rewrite_cause(source)));
                Content::put(live.value, headers, target).with_ttl(ttl.filter(|_| has_ttl))
            }
            _ => Content::removal(WriteKind::Delete, target),
        };
        let write = content.write(owner.clone()).if_revision(revision);
        let id = write.id.clone();
        let reply = write_reply(self.inner.write(write, None, target, deadline).await)?;
        match reply {
            Reply::Written(revision) => {
                self.record_write(revision, &id);
            }
            Reply::Unknown if deadline.is_expired() => return Err(deadline.error()),
            _ => {}
        }
        Ok(reply)
    }

    /// Erases entries and claims of a record, each up to a revision, while the caller continues. A slot that stays is
    /// harmless, so errors are ignored: the user may lack the permission, or the connection may be lost.
    pub(crate) async fn erase_slots(&self, owner: &Key, erasures: Vec<(Slot, Revision)>) {
        if erasures.is_empty() {
            return;
        }
        let (bucket, owner) = (self.clone(), owner.clone());
        run_in_background(async move {
            let deadline = bucket.deadline(None);
            for (slot, through) in erasures {
                if let Err(error) = bucket.erase_slot(&owner, &slot, through, deadline).await {
                    tracing::debug!(bucket = bucket.name(), %error, "an index entry was not erased");
                }
            }
        })
        .await;
    }

    async fn erase_slot(&self, owner: &Key, slot: &Slot, mut through: Revision, deadline: Deadline) -> Result<()> {
        if slot.info::<T>().is_some_and(IndexInfo::is_unique) {
            // The claim may be that of another record: a client that does not know the index can store one value twice.
            match self.read_claim(slot, deadline).await? {
                Reply::Claim(Some(claim)) if claim.owner == *owner => through = through.min(claim.revision),
                _ => return Ok(()),
            }
        }
        self.inner.raw.purge_through(KeySpace::Index, &slot.key, through, deadline).await.map(drop)
    }
}
