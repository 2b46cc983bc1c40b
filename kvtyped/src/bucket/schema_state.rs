//! The write epoch of a bucket, and the schema version that it takes of each model.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use super::content::Target;
use super::handle::BucketInner;
use super::precondition;
use crate::backend::{Batch, Deadline, Precondition, Write};
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{KvModel, ModelCard};
use crate::revision::Revision;

/// The write epoch of a bucket, and the schema version that it takes of each model, as last read.
#[derive(Debug, Default)]
pub(crate) struct SchemaState {
    current: ArcSwap<BucketSchema>,
    /// Held while one task reads the configuration again.
    refresh: Mutex<()>,
}

/// One reading of the configuration.
#[derive(Debug, Default)]
pub(crate) struct BucketSchema {
    epoch: Option<u64>,
    /// The version that programs write, of each model with a card.
    writes: BTreeMap<String, u32>,
}

impl BucketSchema {
    pub(crate) fn new(config: &BucketConfig) -> Self {
        let card = |(key, text): (&String, &String)| {
            let card = ModelCard::parse(text).ok()?;
            Some((ModelCard::model_of(key)?.to_owned(), card.writes))
        };
        Self { epoch: config.write_epoch, writes: config.metadata.iter().filter_map(card).collect() }
    }

    /// Returns the version that the bucket takes of a model.
    fn writes<T: KvModel>(&self) -> u32 {
        self.writes.get(T::SCHEMA.name).copied().unwrap_or(T::SCHEMA.writes)
    }

    /// Returns the version that the program must write.
    ///
    /// # Errors
    ///
    /// Returns `SchemaMoved` if the program cannot write that version.
    pub(crate) fn target<T: KvModel>(&self) -> Result<Option<Target>> {
        let (model, knows) = (T::SCHEMA.name, T::SCHEMA.version);
        if model.is_empty() {
            return Ok(None);
        }
        let mut writes = self.writes::<T>();
        if T::SCHEMA.keeps_newer && self.epoch.is_none() {
            writes = writes.min(knows);
        }
        if (T::SCHEMA.writes..=knows).contains(&writes) {
            return Ok(Some(Target { model, writes, knows }));
        }
        Err(Error::new(ErrorKind::SchemaMoved { writes, knows }).of_model::<T>())
    }

    /// Whether the bucket still takes the version that a record was encoded for.
    fn takes(&self, target: &Target) -> bool {
        self.writes.get(target.model).is_none_or(|writes| *writes == target.writes)
    }
}

impl SchemaState {
    pub(crate) fn new(config: &BucketConfig) -> Self {
        Self { current: ArcSwap::from_pointee(BucketSchema::new(config)), refresh: Mutex::default() }
    }

    /// Returns the last reading.
    pub(crate) fn load(&self) -> Arc<BucketSchema> {
        self.current.load_full()
    }

    /// Replaces the last reading.
    pub(crate) fn set(&self, config: &BucketConfig) {
        self.current.store(Arc::new(BucketSchema::new(config)));
    }
}

impl BucketInner {
    /// Sends a write, under the precondition `on` if there is one, in the current write epoch.
    ///
    /// # Errors
    ///
    /// Returns `SchemaMoved` if the bucket takes another schema version than `target` now. If the program can write that
    /// version, [`Error::is_stale_schema`] is true and the caller encodes the record again.
    pub(crate) async fn write(
        &self,
        write: Write,
        on: Option<&Precondition>,
        target: Option<Target>,
        deadline: Deadline,
    ) -> Result<Revision> {
        let epoch = self.schema.current.load().epoch;
        if epoch.is_some() {
            return Box::pin(self.write_in_epochs(write, on, target, epoch, deadline)).await;
        }
        match precondition::write(&*self.raw, write, on, deadline).await {
            Err(error) if is_epoch_moved(&error) => Err(Box::pin(self.first_epoch(error, target, deadline)).await),
            written => written,
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
    /// As [`write`](Self::write).
    pub(crate) async fn commit(&self, batch: Batch, targets: &[Target], deadline: Deadline) -> Result<Vec<Revision>> {
        let mut epoch = self.schema.current.load().epoch;
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
        if schema.epoch == sent {
            return Err(error);
        }
        match targets.iter().find(|target| !schema.takes(target)) {
            None => Ok(schema.epoch),
            Some(target) => {
                let writes = schema.writes.get(target.model).copied().unwrap_or(target.writes);
                Err(Error::new(ErrorKind::SchemaMoved { writes, knows: target.knows }).caused_by(error))
            }
        }
    }

    /// Reads the configuration again, unless another task has read a later epoch than `sent` since.
    async fn refresh_schema(&self, sent: Option<u64>, deadline: Deadline) -> Result<()> {
        let _refresh = deadline.timeout(self.schema.refresh.lock()).await?;
        if self.schema.current.load().epoch == sent {
            let status = self.raw.status(deadline).await?;
            self.schema.set(&status.config);
        }
        Ok(())
    }
}

fn is_epoch_moved(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::EpochMoved { .. })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kvtyped::KvModel)]
    #[kv(bucket = "users", key = "{id}")]
    struct User {
        id: u64,
    }

    fn config(card: Option<(u32, u32)>) -> BucketConfig {
        let mut config = BucketConfig::new("users");
        if let Some((version, writes)) = card {
            let text = format!(r#"{{"key":"{{id}}","codec":"json","version":{version},"writes":{writes},"oldest":1}}"#);
            config.metadata.insert(ModelCard::metadata_key("user"), text);
        }
        config
    }

    #[test]
    fn program_writes_the_version_of_the_card() {
        let target = |card| BucketSchema::new(&config(card)).target::<User>();
        assert_eq!(target(None).unwrap().unwrap().writes, 1);
        assert_eq!(target(Some((2, 1))).unwrap().unwrap().writes, 1);
        let error = target(Some((2, 2))).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::SchemaMoved { writes: 2, knows: 1 }), "{error}");
    }

    #[test]
    fn target_is_valid_until_its_model_moves() {
        let target = Target { model: "user", writes: 1, knows: 2 };
        assert!(BucketSchema::new(&config(None)).takes(&target));
        assert!(BucketSchema::new(&config(Some((2, 1)))).takes(&target));
        assert!(!BucketSchema::new(&config(Some((2, 2)))).takes(&target));
    }
}
