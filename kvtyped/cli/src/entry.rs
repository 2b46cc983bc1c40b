//! Entries of a bucket as objects and rows.

use std::time::{Duration, SystemTime};

use data_encoding::BASE64;
use kvtyped::bucket::Version;
use kvtyped::{Entry, Key, RawRecord, Removed, Revision};

use crate::codec::{Decoded, Models};
use crate::json::{Json, object};
use crate::out::{Item, Payload};
use crate::time;

/// The longest value of a row, in characters.
const MAX_CELL: usize = 200;

/// An entry of a bucket: a record, or the marker of a removed one.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) bucket: String,
    pub(crate) key: Key,
    pub(crate) revision: Revision,
    pub(crate) created: Option<SystemTime>,
    /// `put`, `delete`, `purge` or `expire`.
    pub(crate) op: &'static str,
    pub(crate) record: Option<Record>,
}

/// The record of an entry.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) bytes: bytes::Bytes,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) ttl: Option<kvtyped::Ttl>,
    pub(crate) expires_in: Option<Duration>,
    pub(crate) age: Duration,
    pub(crate) decoded: Decoded,
}

impl Shown {
    /// Reads an entry.
    pub(crate) fn of_entry(bucket: &str, models: &Models, entry: &Entry<RawRecord>) -> Self {
        let mut headers = Vec::new();
        entry.headers().for_each(|name, text| headers.push((name, text.to_owned())));
        let record = Record {
            bytes: entry.bytes.clone(),
            headers,
            ttl: entry.ttl(),
            expires_in: entry.remaining(),
            age: entry.age(),
            decoded: models.decode(entry.key(), entry.headers(), &entry.bytes),
        };
        Self {
            bucket: bucket.to_owned(),
            key: entry.key().clone(),
            revision: entry.revision(),
            created: Some(entry.created()),
            op: "put",
            record: Some(record),
        }
    }

    /// Reads one version in the history of a key.
    pub(crate) fn of_version(bucket: &str, models: &Models, version: &Version<RawRecord>) -> Self {
        if let Some(entry) = version.entry() {
            return Self::of_entry(bucket, models, entry);
        }
        let (created, op) = match version {
            Version::Removed { created, reason, .. } => (Some(*created), op_of(*reason)),
            _ => (None, "unreadable"),
        };
        let (key, revision) = (version.key().clone(), version.revision());
        Self { bucket: bucket.to_owned(), key, revision, created, op, record: None }
    }

    /// Whether the record does not decode.
    pub(crate) fn is_undecodable(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.decoded.value.is_err())
    }

    /// Returns the object of the contract.
    pub(crate) fn json(&self) -> Json {
        self.described().with_value(self.record.as_ref())
    }

    /// Returns the object without the value.
    pub(crate) fn described(&self) -> Json {
        let record = self.record.as_ref();
        let ttl = record.and_then(|record| record.ttl);
        let headers = record.filter(|record| !record.headers.is_empty()).map(|record| {
            Json::Object(record.headers.iter().map(|(name, text)| ((*name).to_owned(), Json::from(text))).collect())
        });
        object! {
            "v" => 1u8,
            "type" => "entry",
            "bucket" => self.bucket.as_str(),
            "key" => self.key.as_str(),
            "revision" => self.revision,
            "op" => self.op,
            "created" => self.created.map(time::rfc3339),
            "ttl_ms" => ttl.filter(|ttl| !ttl.is_never()).map(|ttl| ttl.as_duration()),
            "never_expires" => ttl.filter(|ttl| ttl.is_never()).map(|_| true),
            "expires_in_ms" => record.and_then(|record| record.expires_in),
            "headers" => headers,
            "codec" => record.map(|record| record.decoded.name.as_str()),
            "codec_guessed" => record.filter(|record| record.decoded.is_guessed).map(|_| true),
            "size" => record.map(|record| record.bytes.len()),
        }
    }

    /// Returns the value as one line.
    pub(crate) fn value_cell(&self) -> String {
        let Some(record) = &self.record else { return String::new() };
        match &record.decoded.value {
            Ok(value) => value.line(),
            Err(reason) => format!("<{reason}>"),
        }
    }

    /// Returns the value as one short line, for a table.
    pub(crate) fn short_cell(&self, is_for_person: bool) -> String {
        let cell = self.value_cell();
        match is_for_person && cell.chars().count() > MAX_CELL {
            true => cell.chars().take(MAX_CELL).chain(['…']).collect(),
            false => cell,
        }
    }

    /// Returns the remaining time, or an empty text.
    pub(crate) fn left_cell(&self) -> String {
        self.record.as_ref().and_then(|record| record.expires_in).map(time::short).unwrap_or_default()
    }

    /// Returns the age.
    pub(crate) fn age_cell(&self) -> String {
        self.record.as_ref().map(|record| time::short(record.age)).unwrap_or_default()
    }

    /// Returns the codec, with a question mark if it was guessed.
    pub(crate) fn codec_cell(&self) -> String {
        let Some(record) = &self.record else { return String::new() };
        format!("{}{}", record.decoded.name, if record.decoded.is_guessed { "?" } else { "" })
    }

    /// Returns the item with these cells. `is_raw` shows the bytes for `-o value`.
    pub(crate) fn item(&self, cells: Vec<String>, is_raw: bool) -> Item {
        let item = Item::new(self.json()).cells(cells).name(self.key.as_str());
        match &self.record {
            Some(record) => item.value(record.payload(is_raw)),
            None => item,
        }
    }
}

impl Record {
    /// Returns the value, or the bytes if they do not decode.
    pub(crate) fn payload(&self, is_raw: bool) -> Payload {
        match &self.decoded.value {
            Ok(value) if !is_raw => Payload::Json(value.clone()),
            _ => Payload::Raw(self.bytes.to_vec()),
        }
    }

    /// Returns the value for a comparison by lines.
    pub(crate) fn pretty(&self) -> String {
        match &self.decoded.value {
            Ok(value) => value.pretty(),
            Err(reason) => format!("<{reason}>\n{}", BASE64.encode(&self.bytes)),
        }
    }
}

impl Json {
    /// Adds the value of a record, or its bytes and the reason why they do not decode.
    fn with_value(self, record: Option<&Record>) -> Self {
        match record.map(|record| (&record.decoded.value, record)) {
            Some((Ok(value), _)) => self.with("value", value.clone()),
            Some((Err(reason), record)) => {
                self.with("value_b64", BASE64.encode(&record.bytes)).with("undecodable", reason)
            }
            None => self,
        }
    }
}

/// Returns the operation that removed a record.
pub(crate) fn op_of(reason: Removed) -> &'static str {
    match reason {
        Removed::Deleted => "delete",
        Removed::Purged => "purge",
        Removed::Expired => "expire",
        _ => "removed",
    }
}
