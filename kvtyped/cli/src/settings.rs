//! The settings of a bucket as an object and back.

use std::time::Duration;

use kvtyped::Storage;
use kvtyped::bucket::BucketStatus;
use kvtyped::config::{BucketConfig, WriteEpochs};
use kvtyped::model::ModelCard;

use crate::codec::Models;
use crate::json::{Json, object};
use crate::time;

/// Returns the object of a bucket: its settings and its state.
pub(crate) fn bucket_json(status: &BucketStatus) -> Json {
    let config = &status.config;
    let json = object! { "v" => 1u8, "type" => "bucket", "bucket" => config.name.as_str() }.extended(settings(config));
    let models = Models::of(config);
    let models = models.all().iter().map(|model| {
        object! {
            "name" => model.name.as_str(),
            "key" => model.card.key.as_str(),
            "codec" => model.card.codec.as_str(),
            "version" => model.card.version,
            "writes" => model.card.writes,
            "oldest" => model.card.oldest,
            "indexes" => indexes(&model.card),
        }
    });
    json.with("models", models.collect::<Vec<_>>())
        .with("entries", status.values)
        .with("bytes", status.bytes)
        .with("last_revision", status.last_revision)
        .with("created", time::rfc3339(status.created))
        .with("has_leader", status.has_leader)
        .with("replicas_behind", status.replicas_behind)
        .with("entry_ttl", status.entry_ttl)
        .with("store", status.backing_store)
}

/// Returns the indexes of a model. `None` if it has none.
fn indexes(card: &ModelCard) -> Option<Vec<Json>> {
    let indexes = card.indexes.iter().map(|(name, index)| {
        // The text of the state is that of the card.
        let state = serde_json::to_value(&index.state).unwrap_or_default();
        object! {
            "name" => name.as_str(),
            "definition" => index.definition.as_str(),
            "unique" => index.unique,
            "state" => Json::from(&state),
        }
    });
    (!card.indexes.is_empty()).then(|| indexes.collect())
}

/// Returns the settings.
fn settings(config: &BucketConfig) -> Json {
    let metadata = (!config.metadata.is_empty())
        .then(|| Json::Object(config.metadata.iter().map(|(key, text)| (key.clone(), Json::from(text))).collect()));
    let irregular = config.irregular.iter().map(|difference| Json::from(difference.to_string()));
    object! {
        "history" => config.history,
        "ttl_ms" => config.ttl,
        "max_value_size" => config.max_value_size,
        "max_bytes" => config.max_bytes,
        "storage" => config.storage.map(storage_name),
        "replicas" => config.replicas,
        "compression" => config.compression,
        "description" => config.description.as_deref(),
        "limit_markers_ms" => config.limit_markers,
        "rollups" => config.rollups,
        "atomic" => config.atomic,
        "write_epochs" => config.write_epochs.map(epochs_name),
        "write_epoch" => config.write_epoch,
        "mirror_of" => config.mirror.as_ref().map(|source| source.bucket.as_str()),
        "metadata" => metadata,
        "irregular" => (!config.irregular.is_empty()).then(|| irregular.collect::<Vec<_>>()),
    }
}

/// Reads the settings of an exported bucket.
pub(crate) fn config_of(json: &Json) -> Result<BucketConfig, String> {
    let text = |field| json.get(field).and_then(Json::text);
    let number = |field| json.get(field).and_then(Json::unsigned);
    let time = |field| number(field).map(Duration::from_millis);
    let flag = |field| json.get(field).map(Json::is_true);
    let name = text("bucket").ok_or("the header has no name of a bucket")?;
    let mut config = BucketConfig::new(name);
    config.history = number("history").and_then(|history| u8::try_from(history).ok());
    config.ttl = time("ttl_ms");
    config.max_value_size = number("max_value_size").and_then(|size| u32::try_from(size).ok());
    config.max_bytes = number("max_bytes");
    config.storage = text("storage").map(|name| if name == "memory" { Storage::Memory } else { Storage::File });
    config.replicas = number("replicas").and_then(|replicas| u8::try_from(replicas).ok());
    config.compression = flag("compression");
    config.description = text("description").map(str::to_owned);
    config.limit_markers = time("limit_markers_ms");
    config.rollups = flag("rollups");
    config.atomic = flag("atomic");
    if let Some(Json::Object(metadata)) = json.get("metadata") {
        let metadata = metadata.iter().filter_map(|(key, text)| Some((key.clone(), text.text()?.to_owned())));
        // The server writes its own keys.
        config.metadata = metadata.filter(|(key, _)| !key.starts_with("_nats.")).collect();
    }
    Ok(config)
}

fn storage_name(storage: Storage) -> &'static str {
    match storage {
        Storage::File => "file",
        Storage::Memory => "memory",
    }
}

fn epochs_name(epochs: WriteEpochs) -> &'static str {
    match epochs {
        WriteEpochs::Open => "open",
        WriteEpochs::Closed => "closed",
        _ => "unknown",
    }
}
