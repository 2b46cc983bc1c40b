//! Effects as rows of the journal.

use std::time::Duration;

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Connection, Statement};

use super::crc::Crc;
use super::{schema, stored_config};
use crate::backend::state::effect::{Effect, Record};
use crate::backend::state::entry::StoredEntry;
use crate::backend::{KeySpace, Operation, OperationId, RecordHeaders};
use crate::key::Key;
use crate::revision::Revision;
use crate::ttl::Ttl;

// The numbers of the key spaces in the column `space`. A removal of a record has none.
const RECORDS: i64 = 0;
const INDEX: i64 = 1;

// The numbers of the effects in the column `effect`.
pub(super) const STORED: i64 = 1;
pub(super) const REMOVED: i64 = 2;
pub(super) const BUCKET_CREATED: i64 = 3;
pub(super) const BUCKET_CONFIGURED: i64 = 4;
pub(super) const BUCKET_DELETED: i64 = 5;
pub(super) const REVISION_SKIPPED: i64 = 6;

/// The columns of a row in their order, without the checksum.
pub(super) const COLUMNS: &str =
    "seq, effect, target, bucket, revision, created, space, operation, ttl, size, key, id, headers, crc, value";

/// Inserts a row into the journal. A duplicate number is an error.
pub(super) const INSERT: &str =
    "INSERT INTO journal (seq, effect, target, bucket, revision, created, space, operation, ttl, size, key, id, headers, crc, value)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// Inserts a row of [`REMOVED`], which uses only some columns.
const INSERT_REMOVED: &str =
    "INSERT INTO journal (seq, effect, target, bucket, revision, created, space, crc) VALUES (?, ?, ?, ?, ?, ?, ?, ?)";

/// A TTL that never ends, in the column `ttl`.
const NEVER: i64 = -1;

/// One row of the journal, or of the table of entries, where `effect` is [`STORED`] and `target` is absent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Row<'a> {
    pub(super) seq: i64,
    pub(super) effect: i64,
    pub(super) target: Option<i64>,
    pub(super) bucket: i64,
    pub(super) revision: Option<i64>,
    pub(super) created: i64,
    pub(super) space: Option<i64>,
    pub(super) operation: Option<i64>,
    pub(super) ttl: Option<i64>,
    pub(super) size: Option<i64>,
    pub(super) key: Option<&'a str>,
    pub(super) id: Option<&'a str>,
    pub(super) headers: Option<&'a str>,
    pub(super) value: Option<&'a [u8]>,
}

impl<'a> Row<'a> {
    /// Returns the checksum of all columns.
    pub(super) fn crc(&self) -> i64 {
        let Self {
            seq,
            effect,
            target,
            bucket,
            revision,
            created,
            space,
            operation,
            ttl,
            size,
            key,
            id,
            headers,
            value,
        } = *self;
        let numbers =
            [Some(effect), Some(seq), target, Some(bucket), revision, Some(created), space, operation, ttl, size];
        let crc = numbers.into_iter().fold(Crc::new(), Crc::integer);
        crc.text(key).text(id).text(headers).blob(value).end()
    }

    /// Inserts the row with a statement of [`INSERT`].
    pub(super) fn insert(&self, insert: &mut Statement<'_>) -> rusqlite::Result<()> {
        let Self {
            seq,
            effect,
            target,
            bucket,
            revision,
            created,
            space,
            operation,
            ttl,
            size,
            key,
            id,
            headers,
            value,
        } = *self;
        let crc = self.crc();
        let values = rusqlite::params![
            seq, effect, target, bucket, revision, created, space, operation, ttl, size, key, id, headers, crc, value
        ];
        insert.execute(values).map(drop)
    }

    /// Inserts a row of [`REMOVED`] with a statement of [`INSERT_REMOVED`].
    fn insert_removed(&self, insert: &mut Statement<'_>) -> rusqlite::Result<()> {
        let Self { seq, effect, target, bucket, revision, created, space, .. } = *self;
        let values = rusqlite::params![seq, effect, target, bucket, revision, created, space, self.crc()];
        insert.execute(values).map(drop)
    }

    /// Reads a row with [`COLUMNS`]. Returns `Err` with a reason if a column has another type or the checksum differs.
    pub(super) fn read(row: &'a rusqlite::Row<'_>) -> Result<Self, &'static str> {
        let (row, crc) = Self::read_unchecked(row).ok_or("a column has another type")?;
        if row.crc() == crc { Ok(row) } else { Err("the checksum differs") }
    }

    fn read_unchecked(row: &'a rusqlite::Row<'_>) -> Option<(Self, i64)> {
        let number = |index| match row.get_ref(index).ok()? {
            ValueRef::Null => Some(None),
            ValueRef::Integer(number) => Some(Some(number)),
            _ => None,
        };
        let text = |index| match row.get_ref(index).ok()? {
            ValueRef::Null => Some(None),
            ValueRef::Text(text) => std::str::from_utf8(text).ok().map(Some),
            _ => None,
        };
        let value = match row.get_ref(14).ok()? {
            ValueRef::Null => None,
            ValueRef::Blob(value) => Some(value),
            _ => return None,
        };
        let read = Self {
            seq: number(0)??,
            effect: number(1)??,
            target: number(2)?,
            bucket: number(3)??,
            revision: number(4)?,
            created: number(5)??,
            space: number(6)?,
            operation: number(7)?,
            ttl: number(8)?,
            size: number(9)?,
            key: text(10)?,
            id: text(11)?,
            headers: text(12)?,
            value,
        };
        Some((read, number(13)??))
    }

    /// Returns the revision of the row.
    pub(super) fn revision(&self) -> Option<Revision> {
        Some(Revision::new(u64::try_from(self.revision?).ok()?))
    }

    /// Returns the number of the bucket.
    pub(super) fn bucket(&self) -> u64 {
        u64::try_from(self.bucket).unwrap_or_default()
    }

    /// Returns the entry of a [`STORED`] row.
    pub(super) fn entry(&self) -> Option<StoredEntry> {
        let operation = match self.operation? {
            0 => Operation::Put,
            1 => Operation::Delete,
            2 => Operation::Purge,
            3 => Operation::Expired,
            _ => return None,
        };
        let space = match self.space? {
            RECORDS => KeySpace::Records,
            INDEX => KeySpace::Index,
            _ => return None,
        };
        let ttl = match self.ttl {
            None => None,
            Some(NEVER) => Some(Ttl::NEVER),
            Some(seconds) => Some(Ttl::new(Duration::from_secs(u64::try_from(seconds).ok()?))?),
        };
        Some(StoredEntry {
            space,
            key: Key::new(self.key?).ok()?,
            at: time(self.created)?,
            operation,
            value: Bytes::copy_from_slice(self.value?),
            ttl,
            headers: self.headers.map_or(Some(RecordHeaders::default()), parse_headers)?,
            id: self.id.map(OperationId::from_stored),
            size: u64::try_from(self.size?).ok()?,
            seq: u64::try_from(self.seq).ok()?,
        })
    }
}

/// The insertion of records into the journal.
pub(super) struct Insertion<'a> {
    db: &'a Connection,
    statement: CachedStatement<'a>,
    removed: CachedStatement<'a>,
    /// Returns the text of a configuration with the unknown settings of its bucket.
    unknown: &'a stored_config::Unknown,
}

impl<'a> Insertion<'a> {
    pub(super) fn new(db: &'a Connection, unknown: &'a stored_config::Unknown) -> rusqlite::Result<Self> {
        let (statement, removed) = (db.prepare_cached(INSERT)?, db.prepare_cached(INSERT_REMOVED)?);
        Ok(Self { db, statement, removed, unknown })
    }

    /// Inserts one record.
    pub(super) fn insert(&mut self, record: &Record) -> rusqlite::Result<()> {
        let row = Row { seq: signed(record.seq), created: nanos(record.at), ..Row::default() };
        match &record.effect {
            Effect::Stored { bucket, revision, entry } => {
                let headers = headers(&entry.headers);
                let operation = match entry.operation {
                    Operation::Put | Operation::Unknown(_) => 0,
                    Operation::Delete => 1,
                    Operation::Purge => 2,
                    Operation::Expired => 3,
                };
                let row = Row {
                    effect: STORED,
                    bucket: signed(*bucket),
                    revision: Some(signed(revision.get())),
                    created: nanos(entry.at),
                    space: Some(match entry.space {
                        KeySpace::Records => RECORDS,
                        KeySpace::Index => INDEX,
                    }),
                    operation: Some(operation),
                    ttl: entry.ttl.map(|ttl| if ttl.is_never() { NEVER } else { signed(ttl.as_secs()) }),
                    size: Some(signed(entry.size)),
                    key: Some(entry.key.as_str()),
                    id: entry.id.as_ref().map(OperationId::as_str),
                    headers: headers.as_deref(),
                    value: Some(&entry.value),
                    ..row
                };
                row.insert(&mut self.statement)
            }
            Effect::Removed { bucket, removal } => {
                let (target, revision) = (Some(signed(removal.entry.seq)), Some(signed(removal.revision.get())));
                let space = (removal.entry.space == KeySpace::Index).then_some(INDEX);
                let row = Row { effect: REMOVED, target, bucket: signed(*bucket), revision, space, ..row };
                row.insert_removed(&mut self.removed)
            }
            Effect::BucketCreated { bucket, config } => {
                let row = Row { effect: BUCKET_CREATED, bucket: signed(*bucket), ..row };
                self.insert_config(row, *bucket, config)
            }
            Effect::BucketConfigured { bucket, config, .. } => {
                let row = Row { effect: BUCKET_CONFIGURED, bucket: signed(*bucket), ..row };
                self.insert_config(row, *bucket, config)
            }
            Effect::BucketDeleted { bucket } => {
                let row = Row { effect: BUCKET_DELETED, bucket: signed(bucket.id), ..row };
                row.insert(&mut self.statement)
            }
        }
    }

    fn insert_config(
        &mut self,
        row: Row<'_>,
        bucket: u64,
        config: &crate::config::BucketConfig,
    ) -> rusqlite::Result<()> {
        if config.index_entries == Some(true) {
            schema::use_index_format(self.db)?;
        }
        let text = self.unknown.to_text(bucket, config);
        let row = Row { key: Some(&config.name), value: Some(text.as_bytes()), ..row };
        row.insert(&mut self.statement)
    }
}

/// Returns the headers of a record as JSON, or `None` without headers.
fn headers(headers: &RecordHeaders) -> Option<String> {
    let mut object = serde_json::Map::new();
    headers.for_each(|name, text| {
        object.insert(name.to_owned(), text.into());
    });
    (!object.is_empty()).then(|| serde_json::Value::Object(object).to_string())
}

fn parse_headers(text: &str) -> Option<RecordHeaders> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
    let mut headers = RecordHeaders::default();
    for (name, value) in &object {
        // A later version may store headers that this version does not know.
        headers.set(name, value.as_str()?);
    }
    Some(headers)
}

/// Returns a number as SQLite stores it.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns a time of the state in nanoseconds.
pub(super) fn nanos(time: Duration) -> i64 {
    crate::config::nanos(time).unwrap_or(i64::MAX)
}

/// Returns a stored time as a time of the state.
pub(super) fn time(nanos: i64) -> Option<Duration> {
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}
