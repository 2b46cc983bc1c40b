//! Moves the oldest rows of the journal into the tables of the state.

use std::collections::HashMap;

use rusqlite::{Connection, Result, Row};

use super::buckets::{self, BucketRow, BucketRows, add, subtract};
use super::row::{BUCKET_CONFIGURED, BUCKET_CREATED, BUCKET_DELETED, REMOVED, STORED};
use super::schema::{Meta, transaction};

/// The outcome of one step.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) meta: Meta,
    pub(super) rows: BucketRows,
    /// Whether a bucket was deleted.
    pub(super) has_orphans: bool,
}

/// Moves all rows up to `upto` in one transaction. An entry has one number for its whole life, so the order of
/// insertions and removals does not matter.
pub(super) fn step(db: &Connection, meta: &Meta, rows: &BucketRows, upto: i64, time: i64) -> Result<Step> {
    transaction(db, || {
        let mut step = Step { meta: *meta, rows: rows.clone(), has_orphans: false };
        let replaces = step.apply(db, upto)?;
        // An entry that was also removed is never inserted.
        db.prepare_cached(
            "INSERT INTO entry SELECT seq, bucket, revision, created, space, operation, ttl, size, key, id, headers, crc, value
             FROM journal WHERE seq <= ?1 AND effect = 1
             AND seq NOT IN (SELECT target FROM journal WHERE seq <= ?1 AND effect = 2)",
        )?
        .execute([upto])?;
        if replaces {
            step.remove_entries(db, upto)?;
        }
        db.prepare_cached("DELETE FROM journal WHERE seq <= ?")?.execute([upto])?;
        for (id, row) in step.rows.iter().filter(|(id, row)| rows.get(id) != Some(*row)) {
            row.write(*id, db)?;
        }
        for id in rows.keys().filter(|id| !step.rows.contains_key(id)) {
            buckets::remove(*id, db)?;
        }
        step.meta.applied = upto;
        step.meta.time = step.meta.time.max(time);
        step.meta.digest = buckets::digest(&step.rows);
        step.meta.write(db)?;
        Ok(step)
    })
}

impl Step {
    /// Applies the rows to the buckets: settings, revisions, and the counts and digests of new entries. Returns whether a
    /// row removes an entry that an earlier step has moved.
    fn apply(&mut self, db: &Connection, upto: i64) -> Result<bool> {
        let mut statement = db.prepare_cached(
            "SELECT seq, effect, target, bucket, revision, created, space, crc,
             CASE WHEN effect > 2 THEN key END, CASE WHEN effect > 2 THEN value END
             FROM journal WHERE seq <= ? ORDER BY seq",
        )?;
        let mut effects = statement.query([upto])?;
        // The bucket and the checksum of each new entry.
        let mut stored: HashMap<i64, (i64, i64)> = HashMap::new();
        let mut replaces = false;
        while let Some(effect) = effects.next()? {
            let id: i64 = effect.get(3)?;
            match effect.get(1)? {
                STORED => {
                    stored.insert(effect.get(0)?, (id, effect.get(7)?));
                    if let Some(row) = self.rows.get_mut(&id) {
                        row.last_revision = row.last_revision.max(effect.get(4)?);
                    }
                }
                REMOVED => {
                    replaces |= stored.remove(&effect.get(2)?).is_none();
                    if let Some(row) = self.rows.get_mut(&id)
                        && effect.get::<_, Option<i64>>(6)?.is_none()
                    {
                        row.last_removed = row.last_removed.max(effect.get(4)?);
                    }
                }
                kind => self.apply_to_bucket(kind, id, effect)?,
            }
        }
        for (bucket, crc) in stored.into_values() {
            if let Some(row) = self.rows.get_mut(&bucket) {
                (row.entries, row.digest) = (row.entries + 1, add(row.digest, crc));
            }
        }
        Ok(replaces)
    }

    /// Applies an effect on a whole bucket.
    fn apply_to_bucket(&mut self, kind: i64, id: i64, effect: &Row<'_>) -> Result<()> {
        let config = || -> Result<String> {
            let bytes: Vec<u8> = effect.get(9)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        match kind {
            BUCKET_CREATED => {
                let row = BucketRow {
                    name: effect.get(8)?,
                    created: effect.get(5)?,
                    last_revision: 0,
                    last_removed: 0,
                    entries: 0,
                    digest: 0,
                    config: config()?,
                };
                self.meta.buckets = self.meta.buckets.max(id);
                self.rows.insert(id, row);
            }
            BUCKET_CONFIGURED => {
                if let Some(row) = self.rows.get_mut(&id) {
                    row.config = config()?;
                }
            }
            BUCKET_DELETED => {
                self.rows.remove(&id);
                self.has_orphans = true;
            }
            // Skipped revisions.
            _ => {
                if let Some(row) = self.rows.get_mut(&id) {
                    row.last_revision = effect.get(4)?;
                    row.last_removed = row.last_revision;
                }
            }
        }
        Ok(())
    }

    /// Removes entries that earlier steps have moved.
    fn remove_entries(&mut self, db: &Connection, upto: i64) -> Result<()> {
        let mut statement = db.prepare_cached(
            "DELETE FROM entry WHERE seq IN (SELECT target FROM journal WHERE seq <= ? AND effect = 2)
             RETURNING bucket, crc",
        )?;
        let mut removed = statement.query([upto])?;
        while let Some(entry) = removed.next()? {
            if let Some(row) = self.rows.get_mut(&entry.get(0)?) {
                (row.entries, row.digest) = (row.entries - 1, subtract(row.digest, entry.get(1)?));
            }
        }
        Ok(())
    }
}

/// Removes entries of deleted buckets after the row `after`. Returns the last examined row, or `None` at the end.
pub(super) fn sweep(db: &Connection, after: i64, rows: usize) -> Result<Option<i64>> {
    transaction(db, || {
        let last: Option<i64> = db
            .prepare_cached("SELECT max(seq) FROM (SELECT seq FROM entry WHERE seq > ?1 ORDER BY seq LIMIT ?2)")?
            .query_row(rusqlite::params![after, rows as i64], |row| row.get(0))?;
        if let Some(last) = last {
            db.prepare_cached(
                "DELETE FROM entry WHERE seq > ?1 AND seq <= ?2 AND bucket NOT IN (SELECT id FROM bucket)",
            )?
            .execute([after, last])?;
        }
        Ok(last)
    })
}

/// Returns free pages to the file system if a quarter of the pages is free. Returns whether more work is left.
pub(super) fn vacuum(db: &Connection) -> Result<bool> {
    let free: i64 = db.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
    let pages: i64 = db.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    if free < 64 || free * 4 < pages {
        return Ok(false);
    }
    // SQLite frees one page for each step of the statement.
    let mut statement = db.prepare("PRAGMA incremental_vacuum(256)")?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(true)
}

/// Returns free pages until less than a quarter of the pages is free. For a close, which syncs afterwards.
pub(super) fn vacuum_all(db: &Connection) -> Result<()> {
    super::schema::set_sync(db, false)?;
    while vacuum(db)? {}
    Ok(())
}
