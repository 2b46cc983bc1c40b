//! The rows of the table of buckets, as the journal thread keeps them.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::crc::Crc;
use super::schema::Meta;

/// A row of the table `bucket`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BucketRow {
    pub(super) name: String,
    pub(super) created: i64,
    pub(super) last_revision: i64,
    /// The highest revision that was ever removed.
    pub(super) last_removed: i64,
    /// The number of the rows in `entry`, and the sum of their checksums.
    pub(super) entries: i64,
    pub(super) digest: i64,
    /// The configuration as JSON.
    pub(super) config: String,
}

/// All rows by the number of their bucket.
pub(super) type BucketRows = BTreeMap<i64, BucketRow>;

/// Adds checksums, without the sign.
pub(super) fn add(digest: i64, crc: i64) -> i64 {
    digest.wrapping_add(crc) & i64::MAX
}

/// Subtracts checksums.
pub(super) fn subtract(digest: i64, crc: i64) -> i64 {
    digest.wrapping_sub(crc) & i64::MAX
}

impl BucketRow {
    fn crc(&self, id: i64) -> i64 {
        let Self { name, created, last_revision, last_removed, entries, digest, config } = self;
        let numbers = [id, *created, *last_revision, *last_removed, *entries, *digest];
        let crc = Crc::new().text(Some(name)).text(Some(config));
        numbers.into_iter().fold(crc, |crc, number| crc.integer(Some(number))).end()
    }

    /// Writes the row.
    pub(super) fn write(&self, id: i64, db: &Connection) -> rusqlite::Result<()> {
        let Self { name, created, last_revision, last_removed, entries, digest, config } = self;
        let mut statement = db.prepare_cached("INSERT OR REPLACE INTO bucket VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")?;
        let crc = self.crc(id);
        let values = rusqlite::params![id, name, created, last_revision, last_removed, entries, digest, config, crc];
        statement.execute(values).map(drop)
    }
}

/// Removes the row of a bucket.
pub(super) fn remove(id: i64, db: &Connection) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM bucket WHERE id = ?")?.execute([id]).map(drop)
}

/// Returns the digest of all rows.
pub(super) fn digest(rows: &BucketRows) -> i64 {
    rows.iter().fold(0, |digest, (id, row)| add(digest, row.crc(*id)))
}

/// Reads all rows with a valid checksum. The second value is the number of the others.
pub(super) fn read_valid(db: &Connection) -> rusqlite::Result<(BucketRows, usize)> {
    let query = "SELECT id, name, created, last_revision, last_removed, entries, digest, config, crc FROM bucket";
    let mut statement = db.prepare(query)?;
    let mut rows = statement.query([])?;
    let (mut valid, mut damaged) = (BucketRows::new(), 0);
    while let Some(row) = rows.next()? {
        let read = || -> rusqlite::Result<(i64, BucketRow, i64)> {
            let bucket = BucketRow {
                name: row.get(1)?,
                created: row.get(2)?,
                last_revision: row.get(3)?,
                last_removed: row.get(4)?,
                entries: row.get(5)?,
                digest: row.get(6)?,
                config: row.get(7)?,
            };
            Ok((row.get(0)?, bucket, row.get(8)?))
        };
        match read() {
            Ok((id, bucket, crc)) if bucket.crc(id) == crc => drop(valid.insert(id, bucket)),
            _ => damaged += 1,
        }
    }
    Ok((valid, damaged))
}

/// Reads all rows. Returns `None` if a row is damaged or missing.
pub(super) fn read(db: &Connection, meta: &Meta) -> rusqlite::Result<Option<BucketRows>> {
    let (rows, damaged) = read_valid(db)?;
    Ok((damaged == 0 && digest(&rows) == meta.digest).then_some(rows))
}
