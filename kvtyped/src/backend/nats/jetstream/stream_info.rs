//! Conversion of stream information to a bucket's settings and status.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use super::fixed_settings;
use super::index_subject::has_index_subject;
use super::message::time;
use super::stream_config::{bucket_name, destination, subject_prefix};
use super::write_epochs::EpochSettings;
use crate::backend::BucketStatus;
use crate::config::{BucketConfig, Placement, Republish, Source, Storage, WriteEpochs};
use crate::error::{Error, Result};
use crate::revision::Revision;

/// Normalises the requested settings to the form that a server reports.
pub(crate) fn normalize(wanted: &BucketConfig) -> BucketConfig {
    let mut config = wanted.clone();
    for source in config.mirror.iter_mut().chain(&mut config.sources) {
        *source = normalize_source(source);
    }
    config.irregular.clear();
    config.description = config.description.filter(|text| !text.is_empty());
    config.placement = config.placement.filter(|placement| *placement != Placement::default());
    config
}

fn normalize_source(source: &Source) -> Source {
    let api = source.external_api();
    let domain = api.as_deref().and_then(domain_of).map(str::to_owned);
    let api_prefix = if domain.is_some() { None } else { api.clone() };
    let deliver_prefix = source.deliver_prefix.clone().filter(|prefix| !prefix.is_empty() && api.is_some());
    let keys = source.keys.clone().filter(|keys| keys != ">");
    Source { domain, api_prefix, deliver_prefix, keys, ..source.clone() }
}

/// Returns the domain of an API prefix `$JS.<domain>.API`, or `None` for any other prefix.
pub(crate) fn domain_of(api: &str) -> Option<&str> {
    let domain = api.strip_prefix("$JS.")?.strip_suffix(".API")?;
    (!domain.is_empty() && !domain.contains('.')).then_some(domain)
}

/// Returns the settings of a bucket and the raw stream configuration from the information of the stream.
pub(crate) fn parse_config(info: &Value) -> Result<(BucketConfig, Map<String, Value>)> {
    let raw =
        info["config"].as_object().ok_or_else(|| Error::backend("the stream information lacks the configuration"))?;
    let name = raw.get("name").and_then(Value::as_str).and_then(bucket_name).unwrap_or_default();
    Ok((read(name, raw)?, raw.clone()))
}

/// Reads the settings of the bucket of this name from the configuration of its stream.
pub(crate) fn read(name: &str, raw: &Map<String, Value>) -> Result<BucketConfig> {
    let number = |field: &str| raw.get(field).and_then(Value::as_i64).filter(|number| *number > 0);
    let duration = |field: &str| number(field).map(|nanos| Duration::from_nanos(nanos.unsigned_abs()));
    let history = number("max_msgs_per_subject").ok_or_else(|| {
        Error::invalid_config(format!("`KV_{name}` is not a bucket: the stream keeps no history for each key"))
    })?;
    // A mirror has no subjects. Neither have some streams that other clients create with sources.
    let subjects = raw.get("subjects").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let own = subject_prefix(name);
    let epochs = EpochSettings::read(name, raw);
    if !subjects.is_empty()
        && epochs.accepts() == WriteEpochs::Open
        && !subjects.iter().filter_map(Value::as_str).any(|subject| subject.starts_with(&own))
    {
        return Err(Error::invalid_config(format!("`KV_{name}` is not a bucket: the stream does not store `{own}>`")));
    }
    let flag = |field: &str| raw.get(field).and_then(Value::as_bool).unwrap_or_default();
    let mut config = BucketConfig::new(name);
    config.history = Some(u8::try_from(history).unwrap_or(u8::MAX));
    config.ttl = duration("max_age");
    config.max_value_size = number("max_msg_size").and_then(|size| u32::try_from(size).ok());
    config.max_bytes = number("max_bytes").map(i64::unsigned_abs);
    config.storage = Some(match raw.get("storage").and_then(Value::as_str) {
        Some("memory") => Storage::Memory,
        _ => Storage::File,
    });
    config.replicas = Some(number("num_replicas").and_then(|replicas| u8::try_from(replicas).ok()).unwrap_or(1));
    config.compression = Some(raw.get("compression").and_then(Value::as_str) == Some("s2"));
    config.description = raw.get("description").and_then(Value::as_str).filter(|d| !d.is_empty()).map(str::to_owned);
    config.placement = raw.get("placement").map(read_placement).filter(|placement| *placement != Placement::default());
    config.republish = raw.get("republish").filter(|value| value.is_object()).map(read_republish);
    config.mirror = raw.get("mirror").filter(|value| value.is_object()).map(|origin| read_source(origin, name));
    let sources = raw.get("sources").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    config.sources = sources.iter().map(|source| read_source(source, name)).collect();
    config.metadata = read_metadata(raw.get("metadata"));
    config.rollups = Some(flag("allow_rollup_hdrs"));
    config.atomic = Some(flag("allow_atomic"));
    config.index_entries = Some(has_index_subject(name, raw));
    if let EpochSettings::Active { epochs, epoch } = epochs {
        (config.write_epochs, config.write_epoch) = (Some(epochs), Some(epoch));
    }
    config.irregular = fixed_settings::differences(name, raw);
    config.limit_markers = duration("subject_delete_marker_ttl").filter(|_| flag("allow_msg_ttl"));
    Ok(config)
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value[field].as_str().filter(|text| !text.is_empty())
}

fn read_placement(raw: &Value) -> Placement {
    let tags = raw["tags"].as_array().map(Vec::as_slice).unwrap_or_default();
    Placement {
        cluster: text(raw, "cluster").map(str::to_owned),
        tags: tags.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
    }
}

fn read_republish(raw: &Value) -> Republish {
    Republish {
        source: text(raw, "src").unwrap_or(">").to_owned(),
        destination: text(raw, "dest").unwrap_or_default().to_owned(),
        headers_only: raw["headers_only"].as_bool().unwrap_or_default(),
    }
}

fn read_source(raw: &Value, bucket: &str) -> Source {
    let stream = text(raw, "name").unwrap_or_default();
    let mut source = Source::new(bucket_name(stream).unwrap_or(stream));
    let below = subject_prefix(&source.bucket);
    // Only a mapping in the form that this crate creates is read as a filter.
    let mapping = raw["subject_transforms"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mapped = match mapping {
        [only] => text(only, "src")
            .and_then(|src| src.strip_prefix(&below))
            .filter(|keys| text(only, "dest") == Some(&format!("{}{}", subject_prefix(bucket), destination(keys)))),
        _ => None,
    };
    let filtered = text(raw, "filter_subject").and_then(|filter| filter.strip_prefix(&below));
    source.keys = mapped.or(filtered).filter(|keys| *keys != ">").map(str::to_owned);
    source.start_revision = raw["opt_start_seq"].as_u64().filter(|revision| *revision > 0);
    if let Some(api) = text(&raw["external"], "api") {
        match domain_of(api) {
            Some(domain) => source.domain = Some(domain.to_owned()),
            None => source.api_prefix = Some(api.to_owned()),
        }
        source.deliver_prefix = text(&raw["external"], "deliver").map(str::to_owned);
    }
    source
}

fn read_metadata(raw: Option<&Value>) -> BTreeMap<String, String> {
    let metadata = raw.and_then(Value::as_object).into_iter().flatten();
    let metadata = metadata.filter(|(key, _)| !key.starts_with("_nats."));
    metadata.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// Returns the current status of a bucket from the information of its stream.
pub(crate) fn status(info: Value) -> Result<BucketStatus> {
    let (config, _) = parse_config(&info)?;
    let created = created(&info)?;
    let mut status = BucketStatus::new(config, "JetStream", created);
    let count = |field: &str| info["state"][field].as_u64().unwrap_or_default();
    status.values = count("messages");
    status.bytes = count("bytes");
    status.last_revision = Revision::new(count("last_seq"));
    status.now = server_time(&info).unwrap_or(status.now);
    status.entry_ttl = info["config"]["allow_msg_ttl"].as_bool().unwrap_or_default();
    // A server that does not belong to a cluster reports no leader.
    let cluster = &info["cluster"];
    status.has_leader = cluster["name"].is_null() || text(cluster, "leader").is_some_and(|leader| !leader.is_empty());
    status.replicas_behind = replicas_behind(cluster);
    status.raw = Some(info);
    Ok(status)
}

/// Returns the number of replicas that are offline or behind the leader.
fn replicas_behind(cluster: &Value) -> u32 {
    let replicas = cluster["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_behind =
        |replica: &&Value| replica["current"] != Value::Bool(true) || replica["offline"] == Value::Bool(true);
    u32::try_from(replicas.iter().filter(is_behind).count()).unwrap_or(u32::MAX)
}

/// Returns the time of the server that answered. nats-server reports it since 2.10.
pub(crate) fn server_time(info: &Value) -> Option<SystemTime> {
    text(info, "ts").and_then(time)
}

/// Returns the creation time of a bucket from the information of its stream.
pub(crate) fn created(info: &Value) -> Result<SystemTime> {
    let created = text(info, "created").and_then(time);
    created.ok_or_else(|| Error::backend("the stream information lacks the creation time of the bucket"))
}

/// Returns the subject prefix of a mirror that maps the subjects of its origin to its own name. Returns `None` for any
/// other stream.
pub(crate) fn mapped_prefix(raw: &Map<String, Value>, bucket: &str) -> Option<String> {
    let own = subject_prefix(bucket);
    let transforms = raw.get("mirror")?.get("subject_transforms")?.as_array()?;
    transforms.iter().any(|transform| text(transform, "dest").is_some_and(|dest| dest.starts_with(&own))).then_some(own)
}
