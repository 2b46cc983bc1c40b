//! Writes in the current write epoch of a bucket.

use tokio::time::Instant;

use super::content::Target;
use super::handle::BucketInner;
use super::precondition;
use super::schema_state::{CARD_LIFE, stale_entries};
use crate::backend::{Batch, BucketStatus, Deadline, Precondition, Write, WriteKind};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::observe::note_write;
use crate::revision::Revision;

impl BucketInner {
    /// Sends a write, under the precondition `on` if there is one, in the current write epoch.
    ///
    /// # Errors
    ///
    /// Returns `SchemaMoved` if the bucket takes another schema version than `target` now. If the program can write
    /// that version, [`Error::is_stale_schema`] is true and the caller encodes the record again.
    pub(crate) async fn write(
        &self,
        write: Write,
        on: Option<&Precondition>,
        target: Option<Target>,
        deadline: Deadline,
    ) -> Result<Revision> {
        self.note_key(&write.key);
        note_write(std::iter::once(value_size(&write)));
        let epoch = self.schema.epoch_for(target.as_slice())?;
        if epoch.is_some() {
            return Box::pin(self.write_in_epochs(write, on, target, epoch, deadline)).await;
        }
        match precondition::write(&*self.raw, write, on, deadline).await {
            Err(error) if is_epoch_moved(&error) => Err(Box::pin(self.first_epoch(error, target, deadline)).await),
            written => written,
        }
    }

    /// Records the key of the current operation in its span, if the store traces keys.
    pub(super) fn note_key(&self, key: &Key) {
        if !self.hides_keys {
            self.context.instruments().note_key(key.as_str());
        }
    }

    /// Returns the error of a write without an epoch to a bucket that has epochs now. The caller encodes the record
    /// again and sends it with the epoch.
    async fn first_epoch(&self, error: Error, target: Option<Target>, deadline: Deadline) -> Error {
        match (self.next_epoch(error, None, target.as_slice(), deadline).await, target) {
            (Ok(epoch), None) => Error::new(ErrorKind::EpochMoved { sent: None, current: epoch }),
            (Ok(_), Some(Target { writes, knows, .. })) => Error::new(ErrorKind::SchemaMoved { writes, knows }),
            (Err(error), _) => error,
        }
    }

    async fn write_in_epochs(
        &self,
        write: Write,
        on: Option<&Precondition>,
        target: Option<Target>,
        mut epoch: Option<u64>,
        deadline: Deadline,
    ) -> Result<Revision> {
        loop {
            let attempt = Write { epoch, ..write.clone() };
            match precondition::write(&*self.raw, attempt, on, deadline).await {
                Err(error) => epoch = self.next_epoch(error, epoch, target.as_slice(), deadline).await?,
                written => return written,
            }
        }
    }

    /// Sends a batch in the current write epoch.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`write`](Self::write).
    pub(crate) async fn commit(&self, batch: Batch, targets: &[Target], deadline: Deadline) -> Result<Vec<Revision>> {
        note_write(batch.writes.iter().map(value_size));
        let mut epoch = self.schema.epoch_for(targets)?;
        if epoch.is_none() {
            return match self.raw.commit(batch, deadline).await {
                Err(error) if is_epoch_moved(&error) => {
                    let target = targets.first().copied();
                    Err(self.first_epoch(error, target, deadline).await)
                }
                committed => committed,
            };
        }
        loop {
            let mut attempt = batch.clone();
            attempt.writes.iter_mut().for_each(|write| write.epoch = epoch);
            match self.raw.commit(attempt, deadline).await {
                Err(error) => epoch = self.next_epoch(error, epoch, targets, deadline).await?,
                committed => return committed,
            }
        }
    }

    /// Returns the epoch for the next attempt, if the last one failed because the epoch had moved.
    ///
    /// # Errors
    ///
    /// Returns the error unchanged if it has another cause, or if the epoch has not moved. Returns `SchemaMoved` if the
    /// bucket takes another version than one of the targets.
    async fn next_epoch(
        &self,
        error: Error,
        sent: Option<u64>,
        targets: &[Target],
        deadline: Deadline,
    ) -> Result<Option<u64>> {
        if !is_epoch_moved(&error) {
            return Err(error);
        }
        self.refresh_schema(sent, deadline).await?;
        let schema = self.schema.load();
        if schema.epoch() == sent {
            return Err(error);
        }
        match schema.check(targets) {
            Ok(()) => Ok(schema.epoch()),
            Err(moved) => Err(moved.caused_by(error)),
        }
    }

    /// Reads the configuration again, unless another task has read a later epoch than `sent` since.
    async fn refresh_schema(&self, sent: Option<u64>, deadline: Deadline) -> Result<()> {
        let _refresh = deadline.timeout(self.schema.refresh.lock()).await?;
        if self.schema.epoch() == sent {
            self.read_status(deadline).await?;
        }
        Ok(())
    }

    /// Reads the status of the bucket, with an uncertain number of records, and continues with the write epoch and the
    /// schema versions that it shows.
    pub(super) async fn read_status(&self, deadline: Deadline) -> Result<BucketStatus> {
        let asked = Instant::now();
        let status = self.raw.uncounted_status(deadline).await?;
        self.schema.set(&status.config, asked);
        Ok(status)
    }

    /// Confirms that the entries and claims of a write are still stored. `begun` is the time before the first was stored.
    /// With write epochs, the server refuses a record whose entries were erased.
    ///
    /// # Errors
    ///
    /// Returns `Conflict` if the caller must store the entries again.
    pub(crate) async fn confirm_entries(&self, begun: Instant, has_claims: bool, deadline: Deadline) -> Result<()> {
        if self.schema.epoch().is_some() {
            return Ok(());
        }
        if has_claims && self.schema.is_outdated() {
            let _refresh = deadline.timeout(self.schema.refresh.lock()).await?;
            if self.schema.is_outdated() {
                self.read_status(deadline).await?;
            }
        }
        if begun.elapsed() > CARD_LIFE { Err(stale_entries()) } else { Ok(()) }
    }
}

/// Returns the size of the value of a write in bytes.
fn value_size(write: &Write) -> usize {
    match &write.kind {
        WriteKind::Put(value) => value.len(),
        _ => 0,
    }
}

fn is_epoch_moved(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::EpochMoved { .. })
}
