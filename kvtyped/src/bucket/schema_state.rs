//! The write epoch of a bucket, and the schema version that it takes of each model.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use super::content::Target;
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::model::index::IndexCard;
use crate::model::{KvModel, ModelCard};

/// The write epoch of a bucket, and the schema version that it takes of each model, as last read.
#[derive(Debug, Default)]
pub(crate) struct SchemaState {
    current: ArcSwap<BucketSchema>,
    /// Held while one task reads the configuration again.
    pub(super) refresh: Mutex<()>,
}

/// One reading of the configuration.
#[derive(Debug, Default)]
pub(crate) struct BucketSchema {
    epoch: Option<u64>,
    /// The card of each model.
    cards: BTreeMap<String, ModelCard>,
}

impl BucketSchema {
    pub(crate) fn new(config: &BucketConfig) -> Self {
        let card = |(key, text): (&String, &String)| {
            let card = ModelCard::parse(text).ok()?;
            Some((ModelCard::model_of(key)?.to_owned(), card))
        };
        Self { epoch: config.write_epoch, cards: config.metadata.iter().filter_map(card).collect() }
    }

    /// Returns the version that the bucket takes of a model.
    pub(crate) fn writes<T: KvModel>(&self) -> u32 {
        self.cards.get(T::SCHEMA.name).map_or(T::SCHEMA.writes, |card| card.writes)
    }

    /// Returns an index of the card of a model. `None` if the index is not built, or the bucket has no card.
    pub(crate) fn index<T: KvModel>(&self, name: &str) -> Option<&IndexCard> {
        self.cards.get(T::SCHEMA.name)?.indexes.get(name)
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
            return Ok(Some(Target { model, writes, knows, indexes: T::__INDEXES }));
        }
        Err(Error::new(ErrorKind::SchemaMoved { writes, knows }).of_model::<T>())
    }

    /// Returns the write epoch. `None` if the bucket has none.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// Checks that the bucket still takes the versions that records were encoded for.
    ///
    /// # Errors
    ///
    /// Returns `SchemaMoved` for the first target that it does not take.
    pub(super) fn check(&self, targets: &[Target]) -> Result<()> {
        let moved = |target: &Target| {
            let card = self.cards.get(target.model)?;
            let is_unknown = |(name, index): &(&String, &IndexCard)| {
                let is_known = target.indexes.iter().any(|info| info.name == name.as_str() && index.describes(info));
                index.state.is_maintained() && !index.eventual && !is_known
            };
            if let Some((name, _)) = card.indexes.iter().find(is_unknown) {
                let report = format!(
                    "the bucket got the index `{name}`, and this program would write records without its entries; \
                     restart with a program that has the index"
                );
                return Some(Error::new(ErrorKind::SchemaDiffers { report }));
            }
            let writes = card.writes;
            let moved = writes != target.writes;
            moved.then(|| Error::new(ErrorKind::SchemaMoved { writes, knows: target.knows }))
        };
        targets.iter().find_map(moved).map_or(Ok(()), Err)
    }
}

impl SchemaState {
    pub(crate) fn new(config: &BucketConfig) -> Self {
        Self { current: ArcSwap::from_pointee(BucketSchema::new(config)), refresh: Mutex::default() }
    }

    /// Returns the write epoch of the last reading.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.current.load().epoch
    }

    /// Returns the write epoch of the last reading, for records that were encoded for these versions.
    ///
    /// # Errors
    ///
    /// Returns `SchemaMoved` if the bucket has epochs and takes another version now: another task has read the
    /// configuration since the records were encoded, and the server would accept them in the new epoch.
    pub(super) fn epoch_for(&self, targets: &[Target]) -> Result<Option<u64>> {
        let current = self.current.load();
        if current.epoch.is_some() {
            current.check(targets)?;
        }
        Ok(current.epoch)
    }

    /// Returns the last reading.
    pub(crate) fn load(&self) -> Arc<BucketSchema> {
        self.current.load_full()
    }

    /// Replaces the last reading. Keeps the epoch if the bucket has lost its epoch, so that the backend refuses
    /// later writes and names the cause.
    pub(crate) fn set(&self, config: &BucketConfig) {
        let mut schema = BucketSchema::new(config);
        schema.epoch = schema.epoch.or(self.epoch());
        self.current.store(Arc::new(schema));
    }
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
    fn record_of_an_earlier_version_gets_no_later_epoch() {
        let target = Target { model: "user", writes: 1, knows: 2, indexes: &[] };
        let switched = |epoch| {
            let mut config = config(Some((2, 2)));
            config.write_epoch = epoch;
            SchemaState::new(&config)
        };
        assert!(switched(Some(2)).epoch_for(&[target]).unwrap_err().is_stale_schema());
        assert_eq!(switched(Some(2)).epoch_for(&[Target { writes: 2, ..target }]).unwrap(), Some(2));
        assert_eq!(switched(None).epoch_for(&[target]).unwrap(), None);
    }

    #[test]
    fn lost_epoch_stays() {
        let state = SchemaState::new(&BucketConfig { write_epoch: Some(3), ..config(None) });
        state.set(&config(Some((2, 2))));
        assert_eq!(state.epoch(), Some(3));
        assert_eq!(state.load().writes::<User>(), 2);
    }

    #[test]
    fn target_is_valid_until_its_model_moves() {
        let target = Target { model: "user", writes: 1, knows: 2, indexes: &[] };
        assert!(BucketSchema::new(&config(None)).check(&[target]).is_ok());
        assert!(BucketSchema::new(&config(Some((2, 1)))).check(&[target]).is_ok());
        assert!(BucketSchema::new(&config(Some((2, 2)))).check(&[target]).unwrap_err().is_stale_schema());
    }
}
