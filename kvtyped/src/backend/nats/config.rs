//! A bucket's settings as a stream's configuration, there and back (ADR-8, ADR-57).
//!
//! The configuration stays JSON, so that an update keeps what this version does not know.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{convert, record};
use crate::backend::{BucketStatus, Capabilities};
use crate::config::{BucketConfig, Placement, Republish, Source, Storage, nanos};
use crate::error::{Error, Result};
use crate::revision::Revision;

/// The name of the stream of a bucket.
pub(super) fn stream_name(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// The bucket of a stream, if its name says that it has one.
pub(super) fn bucket_name(stream: &str) -> Option<&str> {
    stream.strip_prefix("KV_")
}

/// What the subjects of a bucket begin with.
pub(super) fn subject_prefix(bucket: &str) -> String {
    format!("$KV.{bucket}.")
}

/// Where a mirror that maps subjects keeps them, if it is one: below the second name rather than below its origin's.
pub(super) fn mapped_prefix(raw: &Map<String, Value>, bucket: &str) -> Option<String> {
    let own = subject_prefix(bucket);
    let transforms = raw.get("mirror")?.get("subject_transforms")?.as_array()?;
    transforms.iter().any(|transform| text(transform, "dest").is_some_and(|dest| dest.starts_with(&own))).then_some(own)
}

/// Whether the server can do what is wanted.
pub(super) fn check(wanted: &BucketConfig, able: &Capabilities) -> Result<()> {
    if wanted.limit_markers.is_some() && !able.key_ttl {
        let needs = "nats-server 2.11 (JetStream API level 1) for limit markers";
        return Err(Error::unsupported(needs, able.backend.clone()));
    }
    Ok(())
}

/// The configuration of the stream of a new bucket.
pub(super) fn stream(wanted: &BucketConfig) -> Map<String, Value> {
    let mut raw = Map::new();
    let mut set = |name: &str, value: Value| raw.insert(name.to_owned(), value);
    set("name", json!(stream_name(&wanted.name)));
    if wanted.mirror.is_none() {
        set("subjects", json!([format!("{}>", subject_prefix(&wanted.name))]));
    }
    set("retention", json!("limits"));
    set("discard", json!("new"));
    set("max_msgs", json!(-1));
    set("max_consumers", json!(-1));
    set("max_msgs_per_subject", json!(1));
    set("max_bytes", json!(-1));
    set("max_msg_size", json!(-1));
    set("max_age", json!(0));
    set("storage", json!("file"));
    set("num_replicas", json!(1));
    set("compression", json!("none"));
    set("allow_rollup_hdrs", json!(true));
    set("deny_delete", json!(true));
    set("allow_direct", json!(true));
    merge(wanted, &mut raw);
    raw
}

/// Puts what is wanted into the configuration of a stream, and leaves the rest.
pub(super) fn merge(wanted: &BucketConfig, raw: &mut Map<String, Value>) {
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
        mirror,
        sources,
        metadata,
        limit_markers,
    } = wanted;
    if let Some(ttl) = ttl.and_then(nanos) {
        fit_duplicate_window(raw, ttl);
    }
    let mut set = |field: &str, value: Option<Value>| {
        if let Some(value) = value {
            raw.insert(field.to_owned(), value);
        }
    };
    set("max_msgs_per_subject", history.map(|history| json!(history)));
    set("max_age", ttl.and_then(nanos).map(|ttl| json!(ttl)));
    set("max_msg_size", max_value_size.map(|size| json!(size)));
    set("max_bytes", max_bytes.map(|size| json!(size)));
    set("storage", storage.map(|storage| json!(storage_name(storage))));
    set("num_replicas", replicas.map(|replicas| json!(replicas)));
    set("compression", compression.map(|compressed| json!(if compressed { "s2" } else { "none" })));
    set("description", description.as_ref().map(|text| json!(text)));
    set("placement", placement.as_ref().map(write_placement));
    set("republish", republish.as_ref().map(write_republish));
    set("mirror", mirror.as_ref().map(|origin| write_source(origin, name, false)));
    set("mirror_direct", mirror.as_ref().map(|_| json!(true)));
    let copied = || sources.iter().map(|source| write_source(source, name, true)).collect();
    set("sources", (!sources.is_empty()).then(copied));
    set("allow_msg_ttl", limit_markers.map(|_| json!(true)));
    set("subject_delete_marker_ttl", limit_markers.and_then(nanos).map(|ttl| json!(ttl)));
    if !metadata.is_empty() {
        let notes = raw.entry("metadata").or_insert_with(|| json!({}));
        for (key, value) in metadata {
            notes[key] = json!(value);
        }
    }
}

/// How long the server recognises a message that it has stored, where nothing is said: two minutes, in nanoseconds.
const DUPLICATE_WINDOW: i64 = 120_000_000_000;

/// Makes room for another `max_age`, which the duplicate window may not exceed: the server's default is left to the
/// server again, and what somebody chose is cut.
fn fit_duplicate_window(raw: &mut Map<String, Value>, ttl: i64) {
    let number = |field: &str| raw.get(field).and_then(Value::as_i64).filter(|number| *number > 0);
    let Some(window) = number("duplicate_window") else { return };
    if window == number("max_age").map_or(DUPLICATE_WINDOW, |age| age.min(DUPLICATE_WINDOW)) {
        raw.remove("duplicate_window");
    } else if window > ttl {
        raw.insert("duplicate_window".to_owned(), json!(ttl));
    }
}

/// The level of the JetStream API of the server that told this configuration; 0 before there were levels.
pub(super) fn level(raw: &Map<String, Value>) -> u64 {
    let level = raw.get("metadata").and_then(|notes| notes["_nats.level"].as_str());
    level.and_then(|level| level.parse().ok()).unwrap_or_default()
}

fn storage_name(storage: Storage) -> &'static str {
    match storage {
        Storage::File => "file",
        Storage::Memory => "memory",
    }
}

fn write_placement(Placement { cluster, tags }: &Placement) -> Value {
    let mut placement = json!({});
    if let Some(cluster) = cluster {
        placement["cluster"] = json!(cluster);
    }
    if !tags.is_empty() {
        placement["tags"] = json!(tags);
    }
    placement
}

fn write_republish(Republish { source, destination, headers_only }: &Republish) -> Value {
    let mut republish = json!({ "src": source, "dest": destination });
    if *headers_only {
        republish["headers_only"] = json!(true);
    }
    republish
}

/// A mirror's origin, or one of several sources, whose subjects become those of this bucket.
fn write_source(source: &Source, bucket: &str, mapped: bool) -> Value {
    let Source { bucket: origin, domain: _, api_prefix: _, deliver_prefix, keys, start_revision } = source;
    let mut raw = json!({ "name": stream_name(origin) });
    let filter = format!("{}{}", subject_prefix(origin), keys.as_deref().unwrap_or(">"));
    // A bucket of the same name elsewhere has the right subjects already.
    if mapped && origin != bucket {
        let dest = format!("{}{}", subject_prefix(bucket), destination(keys.as_deref().unwrap_or(">")));
        raw["subject_transforms"] = json!([{ "src": filter, "dest": dest }]);
    } else if keys.is_some() {
        raw["filter_subject"] = json!(filter);
    }
    if let Some(revision) = start_revision {
        raw["opt_start_seq"] = json!(revision);
    }
    if let Some(api) = source.external_api() {
        raw["external"] = json!({ "api": api, "deliver": deliver_prefix.as_deref().unwrap_or_default() });
    }
    raw
}

/// A filter as the other side of a mapping: its nth `*` is what was there.
fn destination(keys: &str) -> String {
    let mut wildcards = 0;
    let mut token = |token: &str| {
        if token == "*" {
            wildcards += 1;
            return format!("{{{{wildcard({wildcards})}}}}");
        }
        token.to_owned()
    };
    keys.split('.').map(&mut token).collect::<Vec<_>>().join(".")
}

/// What is wanted, in the words in which it is told afterwards.
pub(super) fn normal(wanted: &BucketConfig) -> BucketConfig {
    let mut config = wanted.clone();
    for source in config.mirror.iter_mut().chain(&mut config.sources) {
        *source = source_in_other_words(source);
    }
    config.description = config.description.filter(|text| !text.is_empty());
    config.placement = config.placement.filter(|placement| *placement != Placement::default());
    config
}

fn source_in_other_words(source: &Source) -> Source {
    let api = source.external_api();
    let domain = api.as_deref().and_then(domain_of).map(str::to_owned);
    let api_prefix = if domain.is_some() { None } else { api.clone() };
    let deliver_prefix = source.deliver_prefix.clone().filter(|prefix| !prefix.is_empty() && api.is_some());
    let keys = source.keys.clone().filter(|keys| keys != ">");
    Source { domain, api_prefix, deliver_prefix, keys, ..source.clone() }
}

/// The domain of which this is the prefix.
fn domain_of(api: &str) -> Option<&str> {
    let domain = api.strip_prefix("$JS.")?.strip_suffix(".API")?;
    (!domain.is_empty() && !domain.contains('.')).then_some(domain)
}

/// The settings of a bucket, and the configuration of its stream, from the stream's information.
pub(super) fn of_info(info: &Value) -> Result<(BucketConfig, Map<String, Value>)> {
    let raw = info["config"].as_object().ok_or_else(|| convert::backend("JetStream told no configuration"))?;
    let name = raw.get("name").and_then(Value::as_str).and_then(bucket_name).unwrap_or_default();
    Ok((read(name, raw)?, raw.clone()))
}

/// The settings of the bucket of this name.
fn read(name: &str, raw: &Map<String, Value>) -> Result<BucketConfig> {
    let number = |field: &str| raw.get(field).and_then(Value::as_i64).filter(|number| *number > 0);
    let duration = |field: &str| number(field).map(|nanos| Duration::from_nanos(nanos.unsigned_abs()));
    let history = number("max_msgs_per_subject").ok_or_else(|| {
        Error::invalid_config(format!("`KV_{name}` is a stream that is no bucket: it keeps no history for each key"))
    })?;
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
    // Only a mapping of our own making is taken for a filter.
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
    let notes = raw.and_then(Value::as_object).into_iter().flatten();
    let notes = notes.filter(|(key, _)| !key.starts_with("_nats."));
    notes.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// How a bucket is now, from its stream's information.
pub(super) fn status(info: Value) -> Result<BucketStatus> {
    let (config, _) = of_info(&info)?;
    let created = text(&info, "created").and_then(record::time);
    let created = created.ok_or_else(|| convert::backend("JetStream does not tell when the bucket was made"))?;
    let mut status = BucketStatus::new(config, "JetStream", created);
    let count = |field: &str| info["state"][field].as_u64().unwrap_or_default();
    status.values = count("messages");
    status.bytes = count("bytes");
    status.last_revision = Revision::new(count("last_seq"));
    status.raw = Some(info);
    Ok(status)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn full() -> BucketConfig {
        let mut config = BucketConfig::new("b");
        config.history = Some(5);
        config.ttl = Some(Duration::from_secs(60));
        config.max_value_size = Some(1000);
        config.max_bytes = Some(1_000_000);
        config.storage = Some(Storage::Memory);
        config.replicas = Some(3);
        config.compression = Some(true);
        config.description = Some("text".into());
        config.placement = Some(Placement { cluster: Some("c".into()), tags: vec!["ssd".into()] });
        config.republish = Some(Republish::new("$KV.b.>", "changes.>").headers_only());
        config.sources = vec![
            Source::new("one"),
            Source::new("two").keys("eu.*.x.>").domain("hub").start_revision(9),
            Source::new("b").api_prefix("acc.JS").deliver_prefix("acc.deliver").keys("eu.>"),
        ];
        config.metadata = [("owner".to_owned(), "me".to_owned())].into();
        config.limit_markers = Some(Duration::from_secs(5));
        config
    }

    #[test]
    fn a_configuration_comes_back_as_it_was_wanted() {
        assert_eq!(read("b", &stream(&full())).unwrap(), full());
        let mut mirror = BucketConfig::new("m").with_defaults(false);
        mirror.mirror = Some(Source::new("b").keys("eu.>"));
        let raw = stream(&mirror);
        assert_eq!(raw.get("subjects"), None);
        assert_eq!(raw["mirror"], json!({ "name": "KV_b", "filter_subject": "$KV.b.eu.>" }));
        assert_eq!(read("m", &raw).unwrap(), mirror);
    }

    #[test]
    fn a_source_is_mapped_to_the_buckets_own_subjects() {
        let raw = stream(&full());
        assert_eq!(raw["subjects"], json!(["$KV.b.>"]));
        assert_eq!(raw["sources"][0]["subject_transforms"], json!([{ "src": "$KV.one.>", "dest": "$KV.b.>" }]));
        let narrowed = json!([{ "src": "$KV.two.eu.*.x.>", "dest": "$KV.b.eu.{{wildcard(1)}}.x.>" }]);
        assert_eq!(raw["sources"][1]["subject_transforms"], narrowed);
        assert_eq!(raw["sources"][1]["external"], json!({ "api": "$JS.hub.API", "deliver": "" }));
        assert_eq!(raw["sources"][2]["subject_transforms"], Value::Null);
        assert_eq!(raw["sources"][2]["filter_subject"], "$KV.b.eu.>");
    }

    #[test]
    fn merging_keeps_what_is_not_said() {
        let mut raw = stream(&full());
        raw.insert("allow_atomic".into(), json!(true));
        raw["metadata"]["_nats.level"] = json!("1");
        let before = raw.clone();
        merge(&BucketConfig::new("b"), &mut raw);
        assert_eq!(raw, before);
        let mut wanted = BucketConfig::new("b");
        wanted.history = Some(7);
        wanted.metadata = [("team".to_owned(), "us".to_owned())].into();
        merge(&wanted, &mut raw);
        assert_eq!((&raw["max_msgs_per_subject"], &raw["allow_atomic"]), (&json!(7), &json!(true)));
        assert_eq!(raw["metadata"], json!({ "_nats.level": "1", "owner": "me", "team": "us" }));
        let read = read("b", &raw).unwrap();
        assert_eq!(read.metadata.keys().collect::<Vec<_>>(), ["owner", "team"]);
    }

    #[test]
    fn a_shorter_ttl_takes_the_duplicate_window_along() {
        let window = |now: Option<i64>, ttl| {
            let mut raw = stream(&BucketConfig::new("b"));
            now.map(|now| raw.insert("duplicate_window".into(), json!(now)));
            let mut wanted = BucketConfig::new("b");
            wanted.ttl = Some(Duration::from_secs(ttl));
            merge(&wanted, &mut raw);
            raw.get("duplicate_window").and_then(Value::as_i64)
        };
        assert_eq!(window(None, 60), None);
        assert_eq!(window(Some(DUPLICATE_WINDOW), 60), None);
        assert_eq!(window(Some(90_000_000_000), 60), Some(60_000_000_000));
        assert_eq!(window(Some(30_000_000_000), 60), Some(30_000_000_000));
    }

    #[test]
    fn a_domain_and_its_prefix_are_the_same() {
        let mut wanted = BucketConfig::new("m");
        wanted.mirror = Some(Source::new("b").api_prefix("$JS.hub.API"));
        assert_eq!(normal(&wanted).mirror, Some(Source::new("b").domain("hub")));
    }

    #[test]
    fn a_stream_without_history_is_no_bucket() {
        let raw = json!({ "config": { "name": "KV_x", "max_msgs_per_subject": -1 } });
        assert!(of_info(&raw).unwrap_err().to_string().contains("no bucket"));
    }
}
