//! The second subject of a stream, which stores the index entries of a bucket.
//!
//! A stream with the subject `$KV.=i.b.>` also stores the index entries of the bucket `b`. Other clients
//! filter by `$KV.b.>`, so they do not see the entries. No bucket has the name `=i`.

use serde_json::{Map, Value, json};

/// Returns the subject prefix of the index entries of a bucket.
pub(crate) fn index_prefix(bucket: &str) -> String {
    format!("$KV.=i.{bucket}.")
}

/// Returns the subject of every index entry of a bucket.
pub(crate) fn index_subject(bucket: &str) -> String {
    format!("{}>", index_prefix(bucket))
}

/// Whether the stream of a bucket takes index entries.
pub(crate) fn has_index_subject(bucket: &str, raw: &Map<String, Value>) -> bool {
    let wanted = json!(index_subject(bucket));
    raw.get("subjects").and_then(Value::as_array).is_some_and(|subjects| subjects.contains(&wanted))
}
