//! The settings that every stream of a bucket has (ADR-8): their comparison and repair.
//!
//! Each difference breaks a promise. With `discard = old` a full stream drops acknowledged records. With `no_ack` no
//! write is acknowledged. With a subject transform a record is stored under another key, except with the transform of
//! [`write_epochs`](super::write_epochs). Limits (`max_msgs`,
//! `max_consumers`, `consumer_limits`) are not compared: a server that reaches a limit returns an error.

use serde_json::{Map, Value, json};

use super::index_subject::has_index_subject;
use super::stream_config::{bucket_name, has_counters, source_transform, subject_prefix};
use super::write_epochs::{self, EpochSettings};
use crate::config::Difference;

/// A setting that every bucket has.
struct Setting {
    field: &'static str,
    /// The value in the stream of a bucket.
    wanted: fn() -> Value,
    /// The value that a missing field means.
    absent: fn() -> Value,
}

const fn setting(field: &'static str, wanted: fn() -> Value, absent: fn() -> Value) -> Setting {
    Setting { field, wanted, absent }
}

const REGULAR: &[Setting] = &[
    setting("retention", || json!("limits"), || json!("limits")),
    setting("discard", || json!("new"), || json!("old")),
    setting("discard_new_per_subject", || json!(false), || json!(false)),
    setting("allow_rollup_hdrs", || json!(true), || json!(false)),
    setting("deny_delete", || json!(true), || json!(false)),
    setting("deny_purge", || json!(false), || json!(false)),
    setting("allow_direct", || json!(true), || json!(false)),
    setting("no_ack", || json!(false), || json!(false)),
    setting("sealed", || json!(false), || json!(false)),
    setting("persist_mode", || json!("default"), || json!("default")),
];

/// A setting of a stream that differs from that of a bucket.
struct Irregular {
    field: &'static str,
    wanted: Value,
    found: Value,
}

fn irregular(bucket: &str, raw: &Map<String, Value>) -> Vec<Irregular> {
    let mut irregular = Vec::new();
    let mut compare = |field: &'static str, wanted: Value, found: Value| {
        if wanted != found {
            irregular.push(Irregular { field, wanted, found });
        }
    };
    for Setting { field, wanted, absent } in REGULAR {
        // A stream of counters has `discard = old`: the server allows no other value.
        if *field == "discard" && has_counters(raw) {
            continue;
        }
        let found = raw.get(*field).filter(|value| !value.is_null() && **value != json!(""));
        compare(field, wanted(), found.cloned().unwrap_or_else(absent));
    }
    let is_mirror = raw.get("mirror").is_some_and(Value::is_object);
    // The transform of write epochs harms no bucket: it only maps subjects that a bucket without epochs does not take.
    let epochs = if is_mirror { Vec::new() } else { write_epochs::taken_epochs(bucket, raw) };
    if !write_epochs::has_transform(bucket, raw) || is_mirror {
        let wanted = if epochs.is_empty() { Value::Null } else { write_epochs::transform(bucket) };
        compare("subject_transform", wanted, raw.get("subject_transform").cloned().unwrap_or(Value::Null));
    }
    let subjects = match EpochSettings::read(bucket, raw) {
        _ if is_mirror => json!([]),
        settings => {
            let has_index = has_index_subject(bucket, raw);
            json!(write_epochs::stream_subjects(bucket, settings.accepts(), epochs.last().copied(), has_index))
        }
    };
    compare("subjects", subjects, raw.get("subjects").filter(|found| found.is_array()).cloned().unwrap_or(json!([])));
    if is_mirror {
        compare("mirror_direct", json!(true), raw.get("mirror_direct").cloned().unwrap_or(json!(false)));
    }
    if let Some(sources) = raw.get("sources").and_then(Value::as_array) {
        let mapped: Vec<_> = sources.iter().map(|source| mapped_source(bucket, source)).collect();
        compare("sources", json!(mapped), json!(sources));
    }
    irregular
}

/// A source of a bucket maps the keys of another bucket to keys of this one. Without a mapping, no client of this
/// bucket finds the copied records.
fn mapped_source(bucket: &str, source: &Value) -> Value {
    let own = subject_prefix(bucket);
    let transforms = source["subject_transforms"].as_array().map(Vec::as_slice).unwrap_or_default();
    let arrives = |transform: &Value| transform["dest"].as_str().is_some_and(|dest| dest.starts_with(&own));
    let origin = source["name"].as_str().and_then(bucket_name);
    // A stream that is not a bucket may have the subjects of this one.
    let Some(origin) = origin.filter(|origin| *origin != bucket && !transforms.iter().any(arrives)) else {
        return source.clone();
    };
    let below = subject_prefix(origin);
    let keys = source["filter_subject"].as_str().and_then(|filter| filter.strip_prefix(&below)).unwrap_or(">");
    let mut mapped = source.clone();
    if let Some(mapped) = mapped.as_object_mut() {
        mapped.remove("filter_subject");
        mapped.insert("subject_transforms".to_owned(), source_transform(origin, bucket, keys));
    }
    mapped
}

/// Returns the settings of a stream that differ from the settings of a bucket.
pub(crate) fn differences(bucket: &str, raw: &Map<String, Value>) -> Vec<Difference> {
    let differences = irregular(bucket, raw).into_iter();
    let show = |value: Value| if value.is_null() { "none".to_owned() } else { value.to_string().replace('"', "") };
    differences
        .map(|Irregular { field, wanted, found }| Difference {
            setting: field,
            wanted: show(wanted),
            found: show(found),
        })
        .collect()
}

/// Gives a stream the settings of a bucket. The server decides whether each change is allowed.
///
/// Damaged write epochs stay, because their repair takes several updates of the stream.
pub(crate) fn repair(bucket: &str, raw: &mut Map<String, Value>) {
    let is_damaged = matches!(EpochSettings::read(bucket, raw), EpochSettings::Damaged { .. });
    for Irregular { field, wanted, .. } in irregular(bucket, raw) {
        match wanted {
            _ if is_damaged && matches!(field, "subjects" | "subject_transform") => {}
            Value::Null => drop(raw.remove(field)),
            // A server before 2.14 does not know `persist_mode`, and rejects the field.
            _ if field == "persist_mode" => drop(raw.remove(field)),
            wanted => drop(raw.insert(field.to_owned(), wanted)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::backend::nats::jetstream::stream_config::{to_counter_config, to_stream_config};
    use crate::config::{BucketConfig, Source, WriteEpochs};

    fn plain() -> Map<String, Value> {
        to_stream_config(&BucketConfig::new("b"))
    }

    #[test]
    fn created_streams_have_no_irregular_setting() {
        let mut mirror = BucketConfig::new("b");
        mirror.mirror = Some(Source::new("origin"));
        let mut collecting = BucketConfig::new("b");
        collecting.sources = vec![Source::new("one").keys("eu.>"), Source::new("b").domain("hub")];
        for raw in [
            plain(),
            to_stream_config(&mirror),
            to_stream_config(&collecting),
            to_counter_config(&BucketConfig::new("b")),
        ] {
            assert_eq!(differences("b", &raw), [], "{raw:?}");
        }
    }

    #[test]
    fn each_irregular_setting_is_reported_and_repaired() {
        let cases = [
            ("retention", json!("interest"), "retention: wanted limits, found interest"),
            ("discard", json!("old"), "discard: wanted new, found old"),
            ("discard_new_per_subject", json!(true), "discard_new_per_subject: wanted false, found true"),
            ("allow_rollup_hdrs", json!(false), "allow_rollup_hdrs: wanted true, found false"),
            ("deny_delete", json!(false), "deny_delete: wanted true, found false"),
            ("deny_purge", json!(true), "deny_purge: wanted false, found true"),
            ("allow_direct", json!(false), "allow_direct: wanted true, found false"),
            ("no_ack", json!(true), "no_ack: wanted false, found true"),
            ("sealed", json!(true), "sealed: wanted false, found true"),
            ("persist_mode", json!("async"), "persist_mode: wanted default, found async"),
            (
                "subject_transform",
                json!({ "src": "$KV.b.>", "dest": "x.>" }),
                "subject_transform: wanted none, found {dest:x.>,src:$KV.b.>}",
            ),
            ("subjects", json!(["$KV.b.>", "more"]), "subjects: wanted [$KV.b.>], found [$KV.b.>,more]"),
            ("subjects", json!([]), "subjects: wanted [$KV.b.>], found []"),
        ];
        for (field, value, wanted) in cases {
            let mut raw = plain();
            raw.insert(field.to_owned(), value);
            let texts: Vec<_> = differences("b", &raw).iter().map(ToString::to_string).collect();
            assert_eq!(texts, [wanted]);
            repair("b", &mut raw);
            assert_eq!(differences("b", &raw), [], "{field}");
        }
        for field in ["discard", "allow_rollup_hdrs", "deny_delete", "allow_direct", "subjects"] {
            let mut raw = plain();
            raw.remove(field);
            assert_eq!(differences("b", &raw).len(), 1, "a stream without `{field}`");
        }
        // The administrator sets the limits.
        let mut limited = plain();
        limited.insert("max_msgs".to_owned(), json!(7));
        limited.insert("max_consumers".to_owned(), json!(7));
        assert_eq!(differences("b", &limited), []);
    }

    #[test]
    fn half_of_write_epochs_is_irregular() {
        let mut wanted = BucketConfig::new("b");
        wanted.write_epochs = Some(WriteEpochs::Open);
        wanted.write_epoch = Some(7);
        let texts =
            |raw: &Map<String, Value>| -> Vec<_> { differences("b", raw).iter().map(ToString::to_string).collect() };
        let whole = to_stream_config(&wanted);
        assert_eq!(texts(&whole), [""; 0]);
        let mut raw = whole.clone();
        raw.remove("subject_transform");
        assert_eq!(texts(&raw), ["subject_transform: wanted {dest:$KV.b.>,src:$KV.=w.b.*.>}, found none"]);
        let damaged = raw.clone();
        repair("b", &mut raw);
        assert_eq!(raw, damaged, "the repair takes several updates");
        let mut raw = whole;
        raw.insert("subjects".to_owned(), json!(["$KV.b.>", "$KV.=w.b.6.>", "$KV.=w.b.7.>"]));
        let wanted = "subjects: wanted [$KV.b.>,$KV.=w.b.7.>], found [$KV.b.>,$KV.=w.b.6.>,$KV.=w.b.7.>]";
        assert_eq!(texts(&raw), [wanted]);
    }

    #[test]
    fn mirror_without_direct_reads_is_irregular() {
        let mut wanted = BucketConfig::new("b");
        wanted.mirror = Some(Source::new("origin"));
        let mut raw = to_stream_config(&wanted);
        raw.remove("mirror_direct");
        assert_eq!(differences("b", &raw)[0].to_string(), "mirror_direct: wanted true, found false");
        repair("b", &mut raw);
        assert_eq!(raw["mirror_direct"], json!(true));
        assert_eq!(raw.get("subjects"), None);
    }

    #[test]
    fn source_without_mapping_is_irregular() {
        let mut raw = plain();
        let unfiltered = json!({ "name": "KV_one" });
        let filtered = json!({ "name": "KV_one", "filter_subject": "$KV.one.eu.>" });
        let foreign = json!({ "name": "ORDERS", "subject_transforms": [{ "src": "o.>", "dest": "$KV.b.>" }] });
        raw.insert("sources".to_owned(), json!([unfiltered, filtered, foreign.clone()]));
        assert_eq!(differences("b", &raw).len(), 1);
        repair("b", &mut raw);
        let mapped =
            |src: &str, dest: &str| json!({ "name": "KV_one", "subject_transforms": [{ "src": src, "dest": dest }] });
        let wanted = json!([mapped("$KV.one.>", "$KV.b.>"), mapped("$KV.one.eu.>", "$KV.b.eu.>"), foreign]);
        assert_eq!(raw["sources"], wanted);
    }
}
