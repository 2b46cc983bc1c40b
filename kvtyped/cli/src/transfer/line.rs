//! The lines of an export.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64;
use kvtyped::backend::RecordHeaders;
use kvtyped::bucket::RawWrite;
use kvtyped::config::BucketConfig;
use kvtyped::{Entry, Key, RawRecord};

use crate::codec::{Codec, Models};
use crate::entry::Shown;
use crate::json::{Json, object};
use crate::settings::config_of;

/// A line of an export.
#[derive(Debug, Clone)]
pub(crate) enum Line {
    Bucket(Box<BucketConfig>),
    Entry(Imported),
    End(u64),
}

/// A record of an export.
#[derive(Debug, Clone)]
pub(crate) struct Imported {
    pub(crate) record: RawRecord,
    pub(crate) headers: RecordHeaders,
    /// The TTL of the record itself.
    pub(crate) ttl: Option<Duration>,
    /// Whether the record is exempt from the TTL of its bucket.
    pub(crate) never_expires: bool,
    /// The remaining time at the moment of the export.
    pub(crate) expires_in: Option<Duration>,
    /// When the record expires, by the clock of its server.
    pub(crate) expires_at: Option<SystemTime>,
}

/// The deepest value that a line contains as JSON. A parser of JSON may refuse more than 127 levels.
const MAX_DEPTH: usize = 100;

/// Returns the line of a record. `now` is the time of the server's clock.
pub(crate) fn entry_line(bucket: &str, models: &Models, entry: &Entry<RawRecord>) -> Json {
    let shown = Shown::of_entry(bucket, models, entry);
    let expires_at = entry.remaining().map(|left| {
        // The age is the server's clock minus the time of the write.
        let at = entry.created() + entry.age() + left;
        at.duration_since(UNIX_EPOCH).unwrap_or_default()
    });
    let line = shown.described().with("expires_at_ms", expires_at);
    let Some(record) = &shown.record else { return line };
    // A value in its JSON form is readable, and bytes are exact.
    match (record.decoded.codec, &record.decoded.value) {
        (Some(codec), Ok(value))
            if value.depth() <= MAX_DEPTH && codec.encode(value).is_ok_and(|encoded| encoded == entry.bytes) =>
        {
            line.with("value", value.clone())
        }
        _ => line.with("value_b64", BASE64.encode(&entry.bytes)),
    }
}

/// Returns the last line of an export.
pub(crate) fn end_line(bucket: &str, records: u64, last_revision: u64, unreadable: u64) -> Json {
    object! {
        "v" => 1u8,
        "type" => "end",
        "bucket" => bucket,
        "records" => records,
        "last_revision" => last_revision,
        "unreadable" => (unreadable > 0).then_some(unreadable),
    }
}

impl Line {
    /// Parses a line.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        let json = Json::parse(text).map_err(|error| format!("it is not JSON (column {})", error.column()))?;
        match json.get("v").and_then(Json::unsigned) {
            Some(1) => {}
            Some(newer) => return Err(format!("its format is {newer}, and this tool reads format 1")),
            None => return Err("it has no field `v`".to_owned()),
        }
        match json.get("type").and_then(Json::text) {
            Some("bucket") => Ok(Self::Bucket(Box::new(config_of(&json)?))),
            Some("entry") => Imported::of_json(&json).map(Self::Entry),
            Some("end") => Ok(Self::End(json.get("records").and_then(Json::unsigned).unwrap_or_default())),
            _ => Err("its type is not `bucket`, `entry` or `end`".to_owned()),
        }
    }
}

impl Imported {
    fn of_json(json: &Json) -> Result<Self, String> {
        let text = |field: &str| json.get(field).and_then(Json::text);
        let number = |field: &str| json.get(field).and_then(Json::unsigned);
        let key = Key::new(text("key").ok_or("it has no key")?).map_err(|error| error.to_string())?;
        let bytes = match (json.get("value"), text("value_b64")) {
            (_, Some(base64)) => BASE64.decode(base64.as_bytes()).map_err(|_| "`value_b64` is not base64")?,
            (Some(value), None) => {
                let codec = text("codec").and_then(Codec::of_name).ok_or("the tool does not know its codec")?;
                codec.encode(value)?
            }
            (None, None) => return Err("it has no value".to_owned()),
        };
        let mut headers = RecordHeaders::NONE;
        if let Some(Json::Object(fields)) = json.get("headers") {
            for (name, text) in fields {
                let is_known = text.text().is_some_and(|text| headers.set(name, text));
                if !is_known {
                    return Err(format!("the tool does not know the header `{name}`"));
                }
            }
        }
        Ok(Self {
            record: RawRecord::new(key, bytes),
            headers,
            ttl: number("ttl_ms").map(Duration::from_millis),
            never_expires: json.get("never_expires").is_some_and(Json::is_true),
            expires_in: number("expires_in_ms").map(Duration::from_millis),
            expires_at: number("expires_at_ms").map(|millis| UNIX_EPOCH + Duration::from_millis(millis)),
        })
    }

    /// Returns the remaining time in whole seconds. `None` if the record never expires.
    pub(crate) fn remaining(&self, now: Option<SystemTime>) -> Option<Duration> {
        let left = match (self.expires_at, now) {
            (Some(at), Some(now)) => at.duration_since(now).unwrap_or_default(),
            _ => self.expires_in?,
        };
        Some(Duration::from_secs(left.as_secs()))
    }

    /// Returns the write of the record with this TTL.
    pub(crate) fn write(self, ttl: Option<Duration>) -> RawWrite {
        RawWrite::new(self.record).headers(self.headers).ttl(ttl)
    }
}
