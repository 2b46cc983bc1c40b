//! Configurations of buckets as JSON.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{BucketConfig, Placement, Republish, Storage, WriteEpochs};

/// A stored configuration. Durations are in nanoseconds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct StoredConfig {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    history: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_value_size: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "is_default")]
    storage: StoredStorage,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replicas: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    compression: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    placement: Option<StoredPlacement>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    republish: Option<StoredRepublish>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit_markers: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rollups: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    atomic: Option<bool>,
    #[serde(default, skip_serializing_if = "is_off")]
    index_entries: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    write_epochs: Option<StoredEpochs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    write_epoch: Option<u64>,
    /// The settings of a later version.
    #[serde(flatten)]
    unknown: Settings,
}

type Settings = serde_json::Map<String, serde_json::Value>;

#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredStorage {
    #[default]
    File,
    Memory,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredEpochs {
    Open,
    Closed,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredPlacement {
    cluster: Option<String>,
    tags: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredRepublish {
    source: String,
    destination: String,
    headers_only: bool,
}

fn is_default(storage: &StoredStorage) -> bool {
    *storage == StoredStorage::default()
}

fn is_off(setting: &bool) -> bool {
    !setting
}

/// The settings of each bucket that this version does not know.
#[derive(Debug, Default)]
pub(super) struct Unknown(HashMap<u64, Settings>);

impl Unknown {
    /// Returns the text of a configuration, with the unknown settings of the bucket.
    pub(super) fn to_text(&self, bucket: u64, config: &BucketConfig) -> String {
        let unknown = self.0.get(&bucket).cloned().unwrap_or_default();
        // Texts, numbers and lists are always representable.
        serde_json::to_string(&StoredConfig::new(config, unknown)).unwrap_or_default()
    }

    /// Parses a configuration, and keeps the unknown settings of the bucket. Returns `None` for an invalid text.
    pub(super) fn parse(&mut self, bucket: u64, text: &[u8]) -> Option<BucketConfig> {
        let stored: StoredConfig = serde_json::from_slice(text).ok()?;
        let (config, unknown) = stored.into_config();
        self.0.remove(&bucket);
        if !unknown.is_empty() {
            self.0.insert(bucket, unknown);
        }
        config.validate().ok().map(|()| config)
    }
}

impl StoredConfig {
    fn new(config: &BucketConfig, unknown: Settings) -> Self {
        // Destructured, so that a new setting cannot be forgotten.
        let BucketConfig {
            name,
            history,
            ttl,
            max_value_size,
            max_bytes,
            storage,
            replicas,
            compression,
            description,
            placement,
            republish,
            // Refused by embedded backends.
            mirror: _,
            sources: _,
            metadata,
            limit_markers,
            rollups,
            atomic,
            index_entries,
            write_epochs,
            write_epoch,
            // Follows from the other settings.
            irregular: _,
        } = config;
        let nanos = |time: &Option<Duration>| time.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        Self {
            name: name.clone(),
            history: *history,
            ttl: nanos(ttl),
            max_value_size: *max_value_size,
            max_bytes: *max_bytes,
            storage: match storage {
                Some(Storage::Memory) => StoredStorage::Memory,
                Some(Storage::File) | None => StoredStorage::File,
            },
            replicas: *replicas,
            compression: *compression,
            description: description.clone(),
            placement: placement.as_ref().map(|placement| {
                let Placement { cluster, tags } = placement.clone();
                StoredPlacement { cluster, tags }
            }),
            republish: republish.as_ref().map(|republish| {
                let Republish { source, destination, headers_only } = republish.clone();
                StoredRepublish { source, destination, headers_only }
            }),
            metadata: metadata.clone(),
            limit_markers: nanos(limit_markers),
            rollups: *rollups,
            atomic: *atomic,
            index_entries: *index_entries == Some(true),
            write_epochs: write_epochs.map(|epochs| match epochs {
                WriteEpochs::Open => StoredEpochs::Open,
                WriteEpochs::Closed => StoredEpochs::Closed,
            }),
            write_epoch: *write_epoch,
            unknown,
        }
    }

    fn into_config(self) -> (BucketConfig, Settings) {
        let config = BucketConfig {
            history: self.history,
            ttl: self.ttl.map(Duration::from_nanos),
            max_value_size: self.max_value_size,
            max_bytes: self.max_bytes,
            storage: Some(match self.storage {
                StoredStorage::File => Storage::File,
                StoredStorage::Memory => Storage::Memory,
            }),
            replicas: self.replicas,
            compression: self.compression,
            description: self.description,
            placement: self.placement.map(|StoredPlacement { cluster, tags }| Placement { cluster, tags }),
            republish: self.republish.map(|republish| {
                let StoredRepublish { source, destination, headers_only } = republish;
                Republish { source, destination, headers_only }
            }),
            metadata: self.metadata,
            limit_markers: self.limit_markers.map(Duration::from_nanos),
            rollups: self.rollups,
            atomic: self.atomic,
            index_entries: Some(self.index_entries),
            write_epochs: self.write_epochs.map(|epochs| match epochs {
                StoredEpochs::Open => WriteEpochs::Open,
                StoredEpochs::Closed => WriteEpochs::Closed,
            }),
            write_epoch: self.write_epoch,
            ..BucketConfig::new(self.name)
        };
        (crate::backend::state::machine::with_irregularities(config), self.unknown)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn configuration_is_read_as_it_was_written() {
        let mut config = BucketConfig::new("b");
        config.history = Some(7);
        config.ttl = Some(Duration::from_millis(1_500));
        config.max_value_size = Some(300);
        config.max_bytes = Some(1 << 40);
        config.storage = Some(Storage::Memory);
        config.replicas = Some(3);
        config.compression = Some(true);
        config.description = Some("ü".into());
        config.placement = Some(Placement { cluster: Some("c".into()), tags: vec!["t".into()] });
        config.republish = Some(Republish::new("a.>", "b.>").headers_only());
        config.metadata = [("k".to_owned(), "v".to_owned())].into();
        config.limit_markers = Some(Duration::from_secs(60));
        config.atomic = Some(true);
        config.index_entries = Some(true);
        config.write_epochs = Some(WriteEpochs::Closed);
        config.write_epoch = Some(4);
        let mut unknown = Unknown::default();
        for config in [config, BucketConfig::new("b").with_defaults(true, true)] {
            let text = unknown.to_text(1, &config);
            assert_eq!(unknown.parse(1, text.as_bytes()), Some(config), "{text}");
        }
    }

    #[test]
    fn settings_of_a_later_version_are_kept() {
        let mut unknown = Unknown::default();
        let config = unknown.parse(1, br#"{"name":"b","later":{"x":[1]},"history":2}"#).unwrap();
        let text = unknown.to_text(1, &config);
        assert!(text.contains(r#""later":{"x":[1]}"#), "{text}");
        assert!(!unknown.to_text(2, &config).contains("later"), "another bucket");
        assert_eq!(unknown.parse(1, b"{}"), None);
    }
}
