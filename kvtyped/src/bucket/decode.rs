//! Conversion between stored entries and typed records.

use std::sync::Arc;

use bytes::Bytes;

use super::clock::BucketClock;
use super::content::{Content, Target};
use super::entry::{Entry, Pending, Removed, Version};
use super::schema_state::BucketSchema;
use crate::backend::{Operation, RawEntry, RecordHeaders};
use crate::codec::{Codec, CodecError, read_back};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, ModelKey};
use crate::model::index::values_of;
use crate::model::{DecodeError, KvModel, Refusal};
use crate::observe::note_read;

fn undecodable(codec: &'static str, detail: String) -> Error {
    Error::new(ErrorKind::Decode { codec, detail })
}

fn located(error: Error, raw: &RawEntry) -> Error {
    error.at_revision(raw.revision).with_key(raw.key.as_str())
}

fn with_model<T>(error: Error, raw: &RawEntry) -> Error {
    located(error, raw).of_model::<T>()
}

/// Decodes a stored key.
pub(crate) fn key<T: KvModel>(stored: &Key) -> Result<T::Key> {
    T::Key::decode(stored.as_str()).map_err(|error| {
        // The reason quotes the key.
        let reason = if T::SENSITIVE_KEY { "it does not match the template".to_owned() } else { error.to_string() };
        hide::<T>(undecodable("key", reason).with_key(stored.as_str()).of_model::<T>())
    })
}

/// Hides the key in the output of an error, if it is a secret.
fn hide<T: KvModel>(error: Error) -> Error {
    if T::SENSITIVE_KEY { error.hide_key() } else { error }
}

/// Returns the reason of the removal if the entry is a delete marker.
pub(super) fn removal(raw: &RawEntry) -> Result<Option<Removed>> {
    match &raw.operation {
        Operation::Put => Ok(None),
        Operation::Delete => Ok(Some(Removed::Deleted)),
        Operation::Purge => Ok(Some(Removed::Purged)),
        Operation::Expired => Ok(Some(Removed::Expired)),
        Operation::Unknown(name) => {
            // Any client can write a name of any length.
            let name: String = name.chars().take(32).collect();
            Err(located(undecodable("record", format!("this version does not know the operation {name:?}")), raw))
        }
    }
}

/// Decodes the record of an entry. Returns `None` if the entry is a delete marker.
pub(crate) fn entry<T: KvModel>(raw: &RawEntry, clock: &Arc<BucketClock>) -> Result<Option<Entry<T>>> {
    if removal(raw).map_err(hide::<T>)?.is_some() {
        return Ok(None);
    }
    let key = key::<T>(&raw.key).map_err(|error| located(error, raw))?;
    record(raw, key, clock).map(Some).map_err(hide::<T>)
}

/// Decodes the record of an entry without its metadata. Returns `None` if the entry is a delete marker.
pub(crate) fn value<T: KvModel>(raw: &RawEntry) -> Result<Option<T>> {
    if removal(raw).map_err(hide::<T>)?.is_some() {
        return Ok(None);
    }
    let key = key::<T>(&raw.key).map_err(|error| located(error, raw))?;
    record_value(raw, &key).map(|(value, _)| Some(value)).map_err(hide::<T>)
}

/// Decodes the record of an entry that is not a delete marker. `key` is the decoded key of the entry.
fn record<T: KvModel>(raw: &RawEntry, key: T::Key, clock: &Arc<BucketClock>) -> Result<Entry<T>> {
    let (value, version) = record_value(raw, &key)?;
    clock.observe(raw.created);
    // Only a program that writes an earlier version needs to notice a switch.
    if T::SCHEMA.writes < T::SCHEMA.version {
        clock.observe_version(version);
    }
    let clock = Arc::clone(clock);
    let (revision, created, ttl, pending) = (raw.revision, raw.created, raw.ttl, Pending::UNKNOWN);
    let (headers, is_rewrite) = (raw_headers::<T>(&raw.headers), raw.headers.rewrite_of().is_some());
    Ok(Entry { value, key, revision, created, ttl, version, is_rewrite, pending, headers, clock })
}

/// Decodes the value of a record. Returns it with its schema version.
fn record_value<T: KvModel>(raw: &RawEntry, key: &T::Key) -> Result<(T, u32)> {
    note_read(raw.value.len());
    let version = stored_version::<T>(raw)?;
    let stored = decode_value::<T>(version, raw)?;
    let value = T::__from_stored(key, stored);
    if value.__has_key(key) {
        return Ok((value, version));
    }
    let detail = "the record names another key than its stored key".to_owned();
    Err(with_model::<T>(undecodable("key", detail), raw))
}

/// Returns the headers that the entry of a raw record shows.
fn raw_headers<T: KvModel>(headers: &RecordHeaders) -> Option<Box<RecordHeaders>> {
    let headers = || Box::new(headers.clone().with_indexes(None));
    T::__IS_RAW.then(headers).filter(|headers| **headers != RecordHeaders::NONE)
}

/// Returns the headers that a changed raw record keeps, if `found` is a record: all but the cause of its write.
pub(crate) fn kept_headers<T: KvModel>(found: Option<&RawEntry>) -> Option<RecordHeaders> {
    let found = found.filter(|entry| T::__IS_RAW && entry.is_live())?;
    Some(found.headers.clone().of_bytes())
}

/// Returns the schema version of a stored record.
pub(crate) fn stored_version<T: KvModel>(raw: &RawEntry) -> Result<u32> {
    let found = match T::SCHEMA.version_field {
        None => raw.headers.version,
        Some(read) => read(&raw.value).map_err(|error| with_model::<T>(Error::decode(&error), raw))?,
    };
    Ok(found.unwrap_or(T::SCHEMA.unversioned))
}

fn decode_value<T: KvModel>(version: u32, raw: &RawEntry) -> Result<T::Value> {
    if T::__IS_RAW {
        return T::Codec::decode(&raw.value).map_err(|error| with_model::<T>(Error::decode(&error), raw));
    }
    if let Some(encoding) = raw.headers.encoding() {
        let encoding: String = encoding.chars().take(32).collect();
        let detail = format!("this version does not support the encoding {encoding:?} of the record");
        return Err(located(undecodable("record", detail), raw));
    }
    let schema = T::SCHEMA;
    // A program that keeps newer records reads them by its own shape.
    let shape = if schema.keeps_newer { version.min(schema.version) } else { version };
    (schema.decode)(shape, &raw.value).map_err(|error| with_model::<T>(decode_error(error), raw))
}

fn decode_error(error: DecodeError) -> Error {
    match error {
        DecodeError::Codec(error) => Error::decode(&error),
        DecodeError::Newer { found, knows } => Error::new(ErrorKind::Newer { found, knows }),
        DecodeError::TooOld { found, oldest } => Error::new(ErrorKind::TooOld { found, oldest }),
        DecodeError::Upgrade { from, to, source } => {
            let detail = format!("a record of schema version {from} cannot be upgraded to version {to}");
            undecodable("upgrade", detail).caused_by(source)
        }
    }
}

/// Converts an entry to a version of the history.
pub(crate) fn version<T: KvModel>(raw: &RawEntry, clock: &Arc<BucketClock>) -> Result<Version<T>> {
    let key = key::<T>(&raw.key)?;
    let revision = raw.revision;
    Ok(match removal(raw) {
        Ok(Some(reason)) => Version::Removed { key, revision, created: raw.created, reason },
        Ok(None) => match record(raw, key, clock) {
            Ok(entry) => Version::Put(entry),
            // Decoding the key again is cheaper than keeping a copy for errors, which are rare.
            Err(error) => Version::Undecodable { key: self::key::<T>(&raw.key)?, revision, error: hide::<T>(error) },
        },
        Err(error) => Version::Undecodable { key, revision, error: hide::<T>(error) },
    })
}

/// A record that is encoded as the version that its bucket takes, and not yet compared with its encoding.
#[derive(Debug, Clone)]
pub(crate) struct Unverified {
    bytes: Bytes,
    /// The version of the bytes.
    shape: u32,
    /// The version that the stored record names.
    version: u32,
    target: Option<Target>,
}

impl Unverified {
    /// Encodes a record. `found` is the version of the record that it replaces, if the program has read that record.
    ///
    /// A record is never written as an older version than the one that was read, because that would drop fields. A record
    /// of a newer version than the program, which the program may keep, is written under the version that it had.
    pub(super) fn new<T: KvModel>(record: &T, bucket: &BucketSchema, found: Option<u32>) -> Result<Self> {
        let target = bucket.target::<T>()?;
        let writes = target.map_or(T::SCHEMA.version, |target| target.writes);
        let version = found.map_or(writes, |found| writes.max(found));
        let shape = version.min(T::SCHEMA.version);
        let bytes = (T::SCHEMA.encode)(record.stored(), shape).map(Bytes::from).map_err(unwritable::<T>)?;
        Ok(Self { bytes, shape, version, target })
    }

    /// Whether the two encodings are the same record of the same version.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.version == other.version && self.bytes == other.bytes
    }

    pub(super) fn version(&self) -> u32 {
        self.version
    }

    /// Returns the record as it is stored, if it is encoded as an earlier version than the one of the program.
    pub(super) fn as_stored<T: KvModel>(&self, key: &T::Key) -> Result<Option<T>> {
        if self.shape == T::SCHEMA.version {
            return Ok(None);
        }
        let stored =
            (T::SCHEMA.decode)(self.shape, &self.bytes).map_err(|error| decode_error(error).of_model::<T>())?;
        Ok(Some(T::__from_stored(key, stored)))
    }

    /// Checks that the bytes decode to this record, and returns the content of its write.
    pub(super) fn verify<T: KvModel>(self, record: &T, key: T::Key) -> Result<Content> {
        record.__validate().map_err(|refusal| invalid::<T>(refusal))?;
        // An earlier version may lack fields, which are then not indexed either.
        let index = match const { T::__INDEXES.is_empty() } {
            true => None,
            false => Some(self.as_stored::<T>(&key)?.as_ref().map_or_else(|| values_of(record), values_of)),
        };
        let Self { bytes, shape, version, target } = self;
        if shape == T::SCHEMA.version {
            verify(record, key, &bytes)?;
        }
        let header = match T::SCHEMA.version_field {
            Some(read) => {
                check_version_field::<T>(read(&bytes).map_err(unwritable::<T>)?, version)?;
                None
            }
            // A record without a header is a record of version 1, unless the model says otherwise.
            None if version == 1 && T::SCHEMA.unversioned == 1 => None,
            None => Some(version),
        };
        Ok(Content::put(bytes, RecordHeaders::of_version(header), target).with_index(index))
    }
}

fn check_version_field<T: KvModel>(field: Option<u32>, version: u32) -> Result<()> {
    // An earlier version may lack the field.
    if field.unwrap_or(T::SCHEMA.unversioned) == version {
        return Ok(());
    }
    let found = field.map_or("is empty".to_owned(), |field| format!("is {field}"));
    let detail =
        format!("the version field {found}, and the record is written as version {version}; set it to {version}");
    Err(Error::new(ErrorKind::Encode { codec: T::SCHEMA.codec, detail }).of_model::<T>())
}

/// Encodes a record that is to be written under `key`, and checks the encoding. `found` is the version of the record
/// that it replaces, if the program has read that record.
pub(crate) fn encode<T: KvModel>(
    record: &T,
    key: T::Key,
    bucket: &BucketSchema,
    found: Option<u32>,
) -> Result<Content> {
    Unverified::new(record, bucket, found)?.verify(record, key)
}

/// Encodes a record as this version, whatever version the bucket takes. The program must be able to write it.
pub(crate) fn encode_version<T: KvModel>(
    record: &T,
    key: T::Key,
    bucket: &BucketSchema,
    version: u32,
) -> Result<Content> {
    let target = bucket.target::<T>()?;
    let bytes = (T::SCHEMA.encode)(record.stored(), version).map(Bytes::from).map_err(unwritable::<T>)?;
    Unverified { bytes, shape: version, version, target }.verify(record, key)
}

/// Checks that the bytes of a record decode to this record.
fn verify<T: KvModel>(record: &T, key: T::Key, bytes: &[u8]) -> Result<()> {
    let read = read_back::<T::Codec, _>(bytes).map_err(unwritable::<T>)?;
    // The key may contain fields that the codec leaves out.
    let read = T::from_stored(key, read);
    T::Codec::verify(record.stored(), read.stored()).map_err(unwritable::<T>)?;
    if read.key() == record.key() {
        return Ok(());
    }
    let detail = "the record names another key when it is read back".to_owned();
    Err(Error::new(ErrorKind::Encode { codec: "key", detail }).of_model::<T>())
}

fn invalid<T: KvModel>(refusal: Refusal) -> Error {
    Error::new(ErrorKind::Invalid { path: refusal.path() }).caused_by(refusal).of_model::<T>()
}

/// Checks that a record is equal to the stored record with the same bytes.
pub(super) fn verify_same<T: KvModel>(record: &T, stored: &T) -> Result<()> {
    T::Codec::verify(record.stored(), stored.stored()).map_err(unwritable::<T>)
}

fn unwritable<T: KvModel>(error: CodecError) -> Error {
    Error::encode(&error).of_model::<T>()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::SystemTime;

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::revision::Revision;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kvtyped::KvModel)]
    #[kv(key = "{tenant}.{id}")]
    struct Session {
        tenant: String,
        id: u64,
    }

    /// The field `tenant` is not stored. It is taken from the key of the entry.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kvtyped::KvModel)]
    #[kv(key = "{tenant}.{id}")]
    struct Slim {
        #[serde(skip)]
        tenant: String,
        id: u64,
    }

    fn version_of<T: KvModel>(key: &str, value: &'static str) -> Version<T> {
        let raw = RawEntry {
            key: Key::new(key).unwrap(),
            revision: Revision::new(3),
            created: SystemTime::UNIX_EPOCH,
            operation: Operation::Put,
            value: Bytes::from_static(value.as_bytes()),
            ttl: None,
            headers: RecordHeaders::default(),
            id: None,
        };
        version(&raw, &Arc::new(BucketClock::local())).unwrap()
    }

    #[test]
    fn record_under_another_key_is_undecodable() {
        let value = r#"{"tenant":"acme","id":7}"#;
        let read = version_of::<Session>("acme.7", value);
        assert_eq!(read.entry().unwrap().key(), &SessionKey::new("acme", 7));
        for key in ["acme.8", "beta.7", "acm.7"] {
            let Version::Undecodable { key: found, error, .. } = version_of::<Session>(key, value) else {
                panic!("{key} holds the record of another key");
            };
            assert_eq!((found.to_string().as_str(), error.key()), (key, Some(key)));
            assert!(error.to_string().contains("names another key"), "{error}");
        }
    }

    #[test]
    fn unstored_fields_are_filled_from_the_key() {
        let read = version_of::<Slim>("acme.7", r#"{"id":7}"#);
        assert_eq!(**read.entry().unwrap(), Slim { tenant: "acme".into(), id: 7 });
        assert!(version_of::<Slim>("acme.8", r#"{"id":7}"#).entry().is_none());
    }
}
