//! Conversion of a bucket's settings to a stream configuration (ADR-8, ADR-57). [`stream_info`](super::stream_info) is the reverse.
//!
//! The configuration stays JSON, so that an update keeps the fields that this version does not know.

use serde_json::{Map, Value, json};

use super::index_subject::{has_index_subject, index_subject};
use super::write_epochs::{EpochSettings, stream_subjects, transform};
use crate::backend::Capabilities;
use crate::config::{BucketConfig, Placement, Republish, Source, Storage, nanos};
use crate::error::{Error, Result};

/// Returns the name of a bucket's stream.
pub(crate) fn stream_name(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// Returns the bucket name of a stream, or `None` if the name of the stream is not that of a bucket.
pub(crate) fn bucket_name(stream: &str) -> Option<&str> {
    stream.strip_prefix("KV_")
}

/// Returns the subject prefix of a bucket.
pub(crate) fn subject_prefix(bucket: &str) -> String {
    format!("$KV.{bucket}.")
}

/// Checks that the server supports the requested settings.
pub(crate) fn check(wanted: &BucketConfig, capabilities: &Capabilities) -> Result<()> {
    if wanted.limit_markers.is_some_and(|ttl| !ttl.is_zero()) && !capabilities.key_ttl {
        let needs = "nats-server 2.11 (JetStream API level 1) for limit markers";
        return Err(Error::unsupported(needs, capabilities.backend.clone()));
    }
    if wanted.write_epochs.is_some() && !capabilities.write_epochs {
        let needs = "nats-server 2.11 (JetStream API level 1) for write epochs";
        return Err(Error::unsupported(needs, capabilities.backend.clone()));
    }
    if wanted.index_entries == Some(true) && wanted.ttl.is_some() && !capabilities.key_ttl {
        let needs = "nats-server 2.11 (JetStream API level 1) for an index in a bucket with `ttl`";
        return Err(Error::unsupported(needs, capabilities.backend.clone()));
    }
    if wanted.atomic == Some(true) && !capabilities.atomic {
        let needs = "nats-server 2.12.1 for atomic batches";
        return Err(Error::unsupported(needs, capabilities.backend.clone()));
    }
    Ok(())
}

/// Returns the stream configuration of a new bucket.
pub(crate) fn to_stream_config(wanted: &BucketConfig) -> Map<String, Value> {
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
    merge_update(wanted, &mut raw);
    raw
}

/// Returns the stream configuration of new counters (ADR-49): the names of a bucket, and increments as messages.
///
/// A full stream discards old messages, because a counter must not refuse an increment.
pub(crate) fn to_counter_config(wanted: &BucketConfig) -> Map<String, Value> {
    let mut raw = to_stream_config(wanted);
    raw.insert("discard".to_owned(), json!("old"));
    raw.insert("allow_msg_counter".to_owned(), json!(true));
    raw
}

/// Returns whether a stream holds counters.
pub(crate) fn has_counters(raw: &Map<String, Value>) -> bool {
    raw.get("allow_msg_counter").and_then(Value::as_bool).unwrap_or_default()
}

/// Sets the requested settings in a stream configuration and keeps all other fields.
pub(crate) fn merge_update(wanted: &BucketConfig, raw: &mut Map<String, Value>) {
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
        rollups,
        atomic,
        index_entries,
        write_epochs,
        write_epoch,
        irregular: _,
    } = wanted;
    // An existing stream without epochs gets them in several updates.
    let epochs = match (EpochSettings::read(name, raw), write_epochs) {
        (EpochSettings::Active { epochs, epoch }, _) => {
            EpochSettings::Active { epochs: write_epochs.unwrap_or(epochs), epoch: write_epoch.unwrap_or(epoch) }
        }
        (found, None) => found,
        (_, Some(epochs)) => {
            EpochSettings::Active { epochs: *epochs, epoch: write_epoch.unwrap_or(BucketConfig::FIRST_WRITE_EPOCH) }
        }
    };
    let had_index = has_index_subject(name, raw);
    let had_markers = raw.contains_key("subject_delete_marker_ttl");
    // A server allows rollups in every stream with limit markers, whatever the configuration says.
    if *rollups == Some(false)
        && let Some(markers) = raw.get_mut("subject_delete_marker_ttl")
    {
        *markers = json!(0);
    }
    // A server without atomic batches does not know the field, so `false` is not sent to it.
    let atomic = atomic.filter(|on| *on || raw.contains_key("allow_atomic"));
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
    let raw_sources = || sources.iter().map(|source| write_source(source, name, true)).collect();
    set("sources", (!sources.is_empty()).then(raw_sources));
    match limit_markers {
        // A server cannot disable message TTLs once they are enabled.
        Some(ttl) if ttl.is_zero() => set("subject_delete_marker_ttl", had_markers.then_some(json!(0))),
        markers => {
            set("allow_msg_ttl", markers.map(|_| json!(true)));
            set("subject_delete_marker_ttl", markers.and_then(nanos).map(|ttl| json!(ttl)));
        }
    }
    set("allow_rollup_hdrs", rollups.map(|on| json!(on)));
    set("allow_atomic", atomic.map(|on| json!(on)));
    let has_index = *index_entries == Some(true);
    match epochs {
        EpochSettings::Active { epochs, epoch } => {
            set("subjects", Some(json!(stream_subjects(name, epochs, Some(epoch), has_index || had_index))));
            set("subject_transform", Some(transform(name)));
        }
        _ if has_index && !had_index => {
            let subjects = raw.entry("subjects").or_insert_with(|| json!([]));
            if let Some(subjects) = subjects.as_array_mut() {
                subjects.push(json!(index_subject(name)));
            }
        }
        _ => {}
    }
    if !metadata.is_empty() {
        let raw_metadata = raw.entry("metadata").or_insert_with(|| json!({}));
        for (key, value) in metadata {
            raw_metadata[key] = json!(value);
        }
    }
}

/// The default duplicate window of a server: two minutes, in nanoseconds.
const DUPLICATE_WINDOW: i64 = 120_000_000_000;

/// Adjusts the duplicate window, which must not exceed the new `max_age`. A default value is removed, so that the
/// server chooses its default again. Any other value is limited to the new `max_age`.
fn fit_duplicate_window(raw: &mut Map<String, Value>, ttl: i64) {
    let number = |field: &str| raw.get(field).and_then(Value::as_i64).filter(|number| *number > 0);
    let Some(window) = number("duplicate_window") else { return };
    if window == number("max_age").map_or(DUPLICATE_WINDOW, |age| age.min(DUPLICATE_WINDOW)) {
        raw.remove("duplicate_window");
    } else if window > ttl {
        raw.insert("duplicate_window".to_owned(), json!(ttl));
    }
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

/// Returns the JSON of a mirror's origin or of a source. `mapped` maps the subjects of a source to this bucket.
fn write_source(source: &Source, bucket: &str, mapped: bool) -> Value {
    let Source { bucket: origin, domain: _, api_prefix: _, deliver_prefix, keys, start_revision } = source;
    let mut raw = json!({ "name": stream_name(origin) });
    let filter = format!("{}{}", subject_prefix(origin), keys.as_deref().unwrap_or(">"));
    // A bucket of the same name in another domain or account already has the right subjects.
    if mapped && origin != bucket {
        raw["subject_transforms"] = source_transform(origin, bucket, keys.as_deref().unwrap_or(">"));
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

/// Returns the mapping of these keys of another bucket to the same keys of this one.
pub(crate) fn source_transform(origin: &str, bucket: &str, keys: &str) -> Value {
    let src = format!("{}{keys}", subject_prefix(origin));
    json!([{ "src": src, "dest": format!("{}{}", subject_prefix(bucket), destination(keys)) }])
}

/// Converts a key filter to the destination of a mapping: the nth `*` becomes a reference to the nth wildcard.
pub(crate) fn destination(keys: &str) -> String {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;
    use crate::backend::nats::jetstream::stream_info::{normalize, parse_config, read};
    use crate::config::WriteEpochs;

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
        config.rollups = Some(true);
        config.atomic = Some(true);
        config
    }

    #[test]
    fn config_round_trips_through_stream_config() {
        assert_eq!(read("b", &to_stream_config(&full())).unwrap(), full());
        let mut mirror = BucketConfig::new("m").with_defaults(false, false);
        mirror.mirror = Some(Source::new("b").keys("eu.>"));
        let raw = to_stream_config(&mirror);
        assert_eq!(raw.get("subjects"), None);
        assert_eq!(raw["mirror"], json!({ "name": "KV_b", "filter_subject": "$KV.b.eu.>" }));
        assert_eq!(read("m", &raw).unwrap(), mirror);
    }

    #[test]
    fn source_subjects_map_to_bucket_subjects() {
        let raw = to_stream_config(&full());
        assert_eq!(raw["subjects"], json!(["$KV.b.>"]));
        assert_eq!(raw["sources"][0]["subject_transforms"], json!([{ "src": "$KV.one.>", "dest": "$KV.b.>" }]));
        let narrowed = json!([{ "src": "$KV.two.eu.*.x.>", "dest": "$KV.b.eu.{{wildcard(1)}}.x.>" }]);
        assert_eq!(raw["sources"][1]["subject_transforms"], narrowed);
        assert_eq!(raw["sources"][1]["external"], json!({ "api": "$JS.hub.API", "deliver": "" }));
        assert_eq!(raw["sources"][2]["subject_transforms"], Value::Null);
        assert_eq!(raw["sources"][2]["filter_subject"], "$KV.b.eu.>");
    }

    #[test]
    fn merge_update_keeps_unset_settings() {
        let mut raw = to_stream_config(&full());
        raw.insert("allow_atomic".into(), json!(true));
        raw["metadata"]["_nats.level"] = json!("1");
        let before = raw.clone();
        merge_update(&BucketConfig::new("b"), &mut raw);
        assert_eq!(raw, before);
        let mut wanted = BucketConfig::new("b");
        wanted.history = Some(7);
        wanted.metadata = [("team".to_owned(), "us".to_owned())].into();
        merge_update(&wanted, &mut raw);
        assert_eq!((&raw["max_msgs_per_subject"], &raw["allow_atomic"]), (&json!(7), &json!(true)));
        assert_eq!(raw["metadata"], json!({ "_nats.level": "1", "owner": "me", "team": "us" }));
        let read = read("b", &raw).unwrap();
        assert_eq!(read.metadata.keys().collect::<Vec<_>>(), ["owner", "team"]);
    }

    #[test]
    fn shorter_ttl_lowers_duplicate_window() {
        let window = |now: Option<i64>, ttl| {
            let mut raw = to_stream_config(&BucketConfig::new("b"));
            now.map(|now| raw.insert("duplicate_window".into(), json!(now)));
            let mut wanted = BucketConfig::new("b");
            wanted.ttl = Some(Duration::from_secs(ttl));
            merge_update(&wanted, &mut raw);
            raw.get("duplicate_window").and_then(Value::as_i64)
        };
        assert_eq!(window(None, 60), None);
        assert_eq!(window(Some(DUPLICATE_WINDOW), 60), None);
        assert_eq!(window(Some(90_000_000_000), 60), Some(60_000_000_000));
        assert_eq!(window(Some(30_000_000_000), 60), Some(30_000_000_000));
    }

    #[test]
    fn api_prefix_of_domain_normalizes_to_domain() {
        let mut wanted = BucketConfig::new("m");
        wanted.mirror = Some(Source::new("b").api_prefix("$JS.hub.API"));
        assert_eq!(normalize(&wanted).mirror, Some(Source::new("b").domain("hub")));
    }

    #[test]
    fn write_epochs_round_trip_through_stream_config() {
        let mut config = BucketConfig::new("b").with_defaults(false, false);
        for (epochs, subjects) in
            [(WriteEpochs::Open, json!(["$KV.b.>", "$KV.=w.b.1.>"])), (WriteEpochs::Closed, json!(["$KV.=w.b.1.>"]))]
        {
            config.write_epochs = Some(epochs);
            config = config.with_defaults(false, false);
            let mut raw = to_stream_config(&config);
            assert_eq!(raw["subjects"], subjects);
            assert_eq!(raw["subject_transform"], json!({ "src": "$KV.=w.b.*.>", "dest": "$KV.b.>" }));
            assert_eq!(read("b", &raw).unwrap(), config);
            let mut switch = BucketConfig::new("b");
            switch.write_epoch = Some(7);
            merge_update(&switch, &mut raw);
            let found = read("b", &raw).unwrap();
            assert_eq!((found.write_epochs, found.write_epoch), (Some(epochs), Some(7)));
        }
    }

    #[test]
    fn index_entries_have_a_second_subject() {
        let mut config = BucketConfig::new("b").with_defaults(false, false);
        config.index_entries = Some(true);
        let raw = to_stream_config(&config);
        assert_eq!(raw["subjects"], json!(["$KV.b.>", "$KV.=i.b.>"]));
        assert_eq!(read("b", &raw).unwrap(), config);
        let mut added = to_stream_config(&BucketConfig::new("b").with_defaults(false, false));
        merge_update(&config, &mut added);
        assert_eq!(added["subjects"], raw["subjects"]);
        merge_update(&config, &mut added);
        assert_eq!(added["subjects"], raw["subjects"], "the subject is added once");
        // Write epochs and index entries in one stream.
        config.write_epochs = Some(WriteEpochs::Closed);
        let mut closed = to_stream_config(&config.clone().with_defaults(false, false));
        assert_eq!(closed["subjects"], json!(["$KV.=w.b.1.>", "$KV.=i.b.>"]));
        let mut switch = BucketConfig::new("b");
        switch.write_epoch = Some(7);
        merge_update(&switch, &mut closed);
        assert_eq!(closed["subjects"], json!(["$KV.=w.b.7.>", "$KV.=i.b.>"]));
        assert_eq!(read("b", &closed).unwrap().irregular, []);
    }

    #[test]
    fn stream_with_unlimited_history_is_not_a_bucket() {
        let raw = json!({ "config": { "name": "KV_x", "max_msgs_per_subject": -1 } });
        assert!(parse_config(&raw).unwrap_err().to_string().contains("not a bucket"));
    }
}
