//! The write epoch of a bucket, and the schema version that it takes of each model.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::content::Target;
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::model::index::{IndexCard, IndexInfo};
use crate::model::{KvModel, ModelCard};
use crate::revision::Revision;

/// The write epoch of a bucket, and the schema version that it takes of each model, as last read.
#[derive(Debug)]
pub(crate) struct SchemaState {
    current: ArcSwap<BucketSchema>,
    /// Held while one task reads the configuration again.
    pub(super) refresh: Mutex<()>,
}

/// The longest time that a writer of unique values relies on one reading of the configuration. In a bucket without write
/// epochs, also the longest time between the entries of a write and its record. `drop_index` waits for twice this time.
pub(crate) const CARD_LIFE: Duration = Duration::from_secs(30);

/// One reading of the configuration.
#[derive(Debug, Clone)]
pub(crate) struct BucketSchema {
    epoch: Option<u64>,
    /// The card of each model.
    cards: BTreeMap<String, ModelCard>,
    /// The time when the configuration was requested.
    asked: Instant,
    /// The unique indexes whose values this handle has relied on, by model and name.
    relied_on: BTreeSet<(String, String)>,
}

/// The identity of the build of an index whose entries a lookup reads. No two builds of an index are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexBuild(Option<String>);

impl BucketSchema {
    /// Creates the reading of a configuration that was requested at `asked`.
    pub(crate) fn new(config: &BucketConfig, asked: Instant) -> Self {
        let card = |(key, text): (&String, &String)| {
            let card = ModelCard::parse(text).ok()?;
            Some((ModelCard::model_of(key)?.to_owned(), card))
        };
        let cards: BTreeMap<_, ModelCard> = config.metadata.iter().filter_map(card).collect();
        let unique = |(model, card): (&String, &ModelCard)| {
            let promised = card.indexes.iter().filter(|(_, index)| index.promises_uniqueness());
            promised.map(|(name, _)| (model.clone(), name.clone())).collect::<Vec<_>>()
        };
        let relied_on = cards.iter().flat_map(unique).collect();
        Self { epoch: config.write_epoch, cards, asked, relied_on }
    }

    /// Returns the version that the bucket takes of a model.
    pub(crate) fn writes<T: KvModel>(&self) -> u32 {
        self.cards.get(T::SCHEMA.name).map_or(T::SCHEMA.writes, |card| card.writes)
    }

    /// Returns an index of the card of a model. `None` if the index is not built, or the bucket has no card.
    pub(crate) fn index<T: KvModel>(&self, name: &str) -> Option<&IndexCard> {
        self.cards.get(T::SCHEMA.name)?.indexes.get(name)
    }

    /// Returns the build of a readable index.
    ///
    /// # Errors
    ///
    /// Returns `IndexBuilding` if the index is not built, or was dropped. Returns `SchemaDiffers` if the bucket has another
    /// index of this name.
    pub(crate) fn readable_build<T: KvModel>(&self, info: &IndexInfo) -> Result<IndexBuild> {
        match self.index::<T>(info.name) {
            Some(card) if card.state.is_maintained() && !card.describes(info) => {
                Err(Error::new(ErrorKind::SchemaDiffers { report: card.difference(info) }))
            }
            Some(card) if card.state.is_readable() => Ok(IndexBuild(card.build.clone())),
            _ => Err(Error::new(ErrorKind::IndexBuilding { index: info.name.to_owned() })),
        }
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
            return Ok(Some(Target { model, writes, knows, indexes: T::__INDEXES, builds: None }));
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
        targets.iter().find_map(moved).map_or_else(|| self.check_indexes(targets), Err)
    }

    /// Returns a target whose entries and claims are valid for the builds of this reading. Call it before they are stored.
    pub(crate) fn for_entries(&self, target: Target) -> Target {
        Target { builds: Some(self.builds(&target)), ..target }
    }

    /// Returns a hash of the builds of the indexes of a target.
    fn builds(&self, target: &Target) -> u64 {
        let card = self.cards.get(target.model);
        let mut hasher = DefaultHasher::new();
        for info in target.indexes.iter().filter(|info| !info.is_eventual) {
            let index = card.and_then(|card| card.indexes.get(info.name));
            index.filter(|index| index.state.is_maintained()).map(|index| &index.build).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Checks that the bucket still has the unique indexes whose values this handle has relied on, and that no index was
    /// dropped or built since the entries of the records were stored: a drop erases entries.
    ///
    /// # Errors
    ///
    /// Returns `SchemaDiffers` if a unique index of a target was dropped, or is being built again. Returns `Conflict` if
    /// another build has begun since, so that the caller stores the entries again.
    fn check_indexes(&self, targets: &[Target]) -> Result<()> {
        let is_lost = |target: &Target, name: &str| {
            let card = self.cards.get(target.model).and_then(|card| card.indexes.get(name));
            let is_of_target = target.indexes.iter().any(|info| info.name == name && info.is_unique());
            is_of_target && !card.is_some_and(IndexCard::promises_uniqueness)
        };
        let lost = |(model, name): &&(String, String)| {
            targets.iter().any(|target| target.model == model.as_str() && is_lost(target, name))
        };
        let Some((_, name)) = self.relied_on.iter().find(lost) else {
            let is_moved = |target: &Target| target.builds.is_some_and(|builds| builds != self.builds(target));
            return if targets.iter().any(is_moved) { Err(stale_entries()) } else { Ok(()) };
        };
        let report = format!(
            "the unique index `{name}` was dropped from the bucket, or is being built again, so this program could store \
             a value twice; build the index, or open the bucket again to write without it"
        );
        Err(Error::new(ErrorKind::SchemaDiffers { report }))
    }
}

impl SchemaState {
    pub(crate) fn new(config: &BucketConfig) -> Self {
        Self { current: ArcSwap::from_pointee(BucketSchema::new(config, Instant::now())), refresh: Mutex::default() }
    }

    /// Whether a writer of unique values must read the configuration again.
    pub(super) fn is_outdated(&self) -> bool {
        self.current.load().asked.elapsed() > CARD_LIFE
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
    /// configuration since the records were encoded, and the server would accept them in the new epoch. Returns
    /// `SchemaDiffers` if a unique index was dropped, or is being built again.
    pub(super) fn epoch_for(&self, targets: &[Target]) -> Result<Option<u64>> {
        let current = self.current.load();
        match current.epoch {
            Some(_) => current.check(targets)?,
            None => current.check_indexes(targets)?,
        }
        Ok(current.epoch)
    }

    /// Returns the last reading.
    pub(crate) fn load(&self) -> Arc<BucketSchema> {
        self.current.load_full()
    }

    /// Replaces the last reading, unless that reading was requested later. Keeps the epoch if the bucket has lost its
    /// epoch, so that the backend refuses later writes and names the cause.
    pub(crate) fn set(&self, config: &BucketConfig, asked: Instant) {
        let read = BucketSchema::new(config, asked);
        self.current.rcu(|current| {
            let mut schema = if current.asked > asked { BucketSchema::clone(current) } else { read.clone() };
            schema.epoch = schema.epoch.or(current.epoch);
            schema.relied_on.extend(current.relied_on.iter().chain(&read.relied_on).cloned());
            schema
        });
    }

    /// Makes the handle rely only on the unique indexes of a model that the bucket has now.
    pub(super) fn accept_indexes(&self, model: &str) {
        self.current.rcu(|current| {
            let mut schema = BucketSchema::clone(current);
            let is_promised = |name: &str| {
                let index = schema.cards.get(model).and_then(|card| card.indexes.get(name));
                index.is_some_and(IndexCard::promises_uniqueness)
            };
            let kept =
                current.relied_on.iter().filter(|(of, name)| of != model || is_promised(name)).cloned().collect();
            schema.relied_on = kept;
            schema
        });
    }
}

/// Returns the error of a write whose entries may have been erased by `drop_index`. The caller begins again.
pub(super) fn stale_entries() -> Error {
    let conflict = Error::new(ErrorKind::Conflict { expected: Revision::ZERO, actual: None });
    conflict.caused_by("an index was dropped or built after the entries of the record were stored")
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
        let target = |card| BucketSchema::new(&config(card), Instant::now()).target::<User>();
        assert_eq!(target(None).unwrap().unwrap().writes, 1);
        assert_eq!(target(Some((2, 1))).unwrap().unwrap().writes, 1);
        let error = target(Some((2, 2))).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::SchemaMoved { writes: 2, knows: 1 }), "{error}");
    }

    #[test]
    fn record_of_an_earlier_version_gets_no_later_epoch() {
        let target = Target { model: "user", writes: 1, knows: 2, indexes: &[], builds: None };
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
        state.set(&config(Some((2, 2))), Instant::now());
        assert_eq!(state.epoch(), Some(3));
        assert_eq!(state.load().writes::<User>(), 2);
    }

    #[test]
    fn target_is_valid_until_its_model_moves() {
        let target = Target { model: "user", writes: 1, knows: 2, indexes: &[], builds: None };
        assert!(BucketSchema::new(&config(None), Instant::now()).check(&[target]).is_ok());
        assert!(BucketSchema::new(&config(Some((2, 1))), Instant::now()).check(&[target]).is_ok());
        assert!(
            BucketSchema::new(&config(Some((2, 2))), Instant::now()).check(&[target]).unwrap_err().is_stale_schema()
        );
    }
}
