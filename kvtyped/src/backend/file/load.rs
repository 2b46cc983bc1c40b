//! Loading a file: the state up to `meta.applied`, and then the journal. Decides nothing, and writes nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use super::buckets::{self, BucketRow, BucketRows, add};
use super::errors::{damaged, sqlite};
use super::paths::Paths;
use super::row::{self, COLUMNS, Row};
use super::schema::Meta;
use super::stored_config::Unknown;
use crate::backend::KeySpace;
use crate::backend::state::bucket::BucketState;
use crate::error::{Error, Result};
use crate::revision::Revision;

/// The content of a file.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) meta: Meta,
    pub(super) rows: BucketRows,
    pub(super) states: BTreeMap<u64, BucketState>,
    pub(super) unknown: Unknown,
    /// The number of the last effect.
    pub(super) last: i64,
    /// The latest time.
    pub(super) time: Duration,
    /// The size of the journal.
    pub(super) journal_bytes: usize,
    /// Whether the file has entries of deleted buckets.
    pub(super) has_orphans: bool,
    /// The highest number of a bucket.
    pub(super) buckets_created: u64,
}

/// The progress of an open, and whether its caller still waits.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) rows: AtomicU64,
    pub(super) cancelled: AtomicBool,
    /// The process that has the lock, while the open waits for it.
    holder: Mutex<Option<String>>,
}

impl Progress {
    /// Counts a row. Returns an error if the caller gave up.
    fn count(&self) -> Result<()> {
        let rows = self.rows.fetch_add(1, Ordering::Relaxed);
        match rows.is_multiple_of(1024) && self.is_cancelled() {
            true => Err(Error::unavailable("the open was cancelled")),
            false => Ok(()),
        }
    }

    /// Sets the process that has the lock.
    pub(super) fn wait_for(&self, process: Option<String>) {
        *self.holder.lock().unwrap_or_else(PoisonError::into_inner) = process;
    }

    /// Returns the process that has the lock, if the open waits for it.
    pub(super) fn holder(&self) -> Option<String> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// Loads a file.
pub(super) fn load(db: &Connection, paths: &Paths, progress: &Progress) -> Result<Loaded> {
    let read = |error| sqlite(paths, error);
    let meta = Meta::read(db).map_err(read)?.ok_or_else(|| damaged(paths, "table `meta`: the row is damaged"))?;
    let rows = buckets::read(db, &meta).map_err(read)?;
    let rows = rows.ok_or_else(|| damaged(paths, "table `bucket`: a row is damaged or missing"))?;
    let time = row::time(meta.time).unwrap_or_default();
    let buckets_created = u64::try_from(meta.buckets).unwrap_or_default();
    let mut loaded = Loaded {
        meta,
        states: BTreeMap::new(),
        unknown: Unknown::default(),
        last: meta.applied,
        time,
        journal_bytes: 0,
        has_orphans: false,
        buckets_created,
        rows,
    };
    loaded.add_buckets().ok_or_else(|| damaged(paths, "table `bucket`: a setting is invalid"))?;
    loaded.read_entries(db, paths, progress)?;
    loaded.read_journal(db, paths, progress)?;
    Ok(loaded)
}

impl Loaded {
    fn add_buckets(&mut self) -> Option<()> {
        for (id, row) in &self.rows {
            let id = u64::try_from(*id).ok()?;
            let config = self.unknown.parse(id, row.config.as_bytes()).filter(|config| config.name == row.name)?;
            let mut bucket = BucketState::new(id, config, row::time(row.created)?);
            bucket.last_revision = Revision::new(u64::try_from(row.last_revision).ok()?);
            bucket.last_removed = Revision::new(u64::try_from(row.last_removed).ok()?);
            self.states.insert(id, bucket);
        }
        Some(())
    }

    /// Reads the table of entries, and compares it with the counts and digests of the buckets.
    fn read_entries(&mut self, db: &Connection, paths: &Paths, progress: &Progress) -> Result<()> {
        let mut found: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        let mut last = 0;
        let query = "SELECT seq, 1, NULL, bucket, revision, created, space, operation, ttl, size, key, id, headers, crc, value FROM entry ORDER BY seq";
        each_row(db, paths, query, |row| {
            progress.count()?;
            let before = last;
            let wrong = |reason| damaged(paths, format!("table `entry`, the row after {before}: {reason}"));
            let row = row.map_err(wrong)?;
            last = row.seq;
            let of_bucket = found.entry(row.bucket).or_default();
            of_bucket.0 += 1;
            of_bucket.1 = add(of_bucket.1, row.crc());
            match self.states.get_mut(&row.bucket()) {
                Some(bucket) => {
                    let (entry, revision) =
                        row.entry().zip(row.revision()).ok_or_else(|| wrong("a column is invalid"))?;
                    bucket.insert(revision, entry);
                }
                None => self.has_orphans = true,
            }
            Ok(())
        })?;
        if last > self.meta.applied {
            return Err(damaged(paths, format!("table `entry`: row {last} is later than row {}", self.meta.applied)));
        }
        for (id, BucketRow { entries, digest, .. }) in &self.rows {
            if found.get(id).copied().unwrap_or_default() != (*entries, *digest) {
                return Err(damaged(paths, format!("table `entry`: rows of bucket {id} are missing")));
            }
        }
        Ok(())
    }

    /// Applies the journal.
    fn read_journal(&mut self, db: &Connection, paths: &Paths, progress: &Progress) -> Result<()> {
        let query = format!("SELECT {COLUMNS} FROM journal ORDER BY seq");
        each_row(db, paths, &query, |row| {
            progress.count()?;
            let expected = self.last + 1;
            let wrong = |reason: &str| damaged(paths, format!("table `journal`, row {expected}: {reason}"));
            let row = row.map_err(wrong)?;
            if row.seq != expected {
                return Err(damaged(paths, format!("table `journal`: rows {expected} to {} are missing", row.seq - 1)));
            }
            self.last = row.seq;
            self.journal_bytes += 160 + row.value.map_or(0, <[u8]>::len);
            self.time = self.time.max(row::time(row.created).unwrap_or_default());
            self.apply(&row).ok_or_else(|| wrong("it does not fit to the rows before it"))
        })
    }

    /// Applies one effect. Returns `None` if it is impossible.
    pub(super) fn apply(&mut self, row: &Row<'_>) -> Option<()> {
        let id = row.bucket();
        match row.effect {
            row::STORED => {
                let bucket = self.states.get_mut(&id)?;
                let revision = row.revision()?;
                bucket.last_revision = bucket.last_revision.max(revision);
                bucket.insert(revision, row.entry()?);
            }
            row::REMOVED => {
                let bucket = self.states.get_mut(&id)?;
                let revision = row.revision()?;
                let removed = bucket.take(revision)?;
                if removed.space == KeySpace::Records {
                    bucket.last_removed = bucket.last_removed.max(revision);
                }
                (Some(row::signed(removed.seq)) == row.target).then_some(())?;
            }
            row::BUCKET_CREATED => {
                let config = self.unknown.parse(id, row.value?)?;
                self.buckets_created = self.buckets_created.max(id);
                let bucket = BucketState::new(id, config, row::time(row.created)?);
                self.states.insert(id, bucket).is_none().then_some(())?;
            }
            row::BUCKET_CONFIGURED => {
                let bucket = self.states.get_mut(&id)?;
                bucket.config = self.unknown.parse(id, row.value?)?;
                bucket.schedule_expiry();
            }
            row::BUCKET_DELETED => drop(self.states.remove(&id)?),
            row::REVISION_SKIPPED => {
                let bucket = self.states.get_mut(&id)?;
                bucket.skip_to(row.revision()?);
            }
            _ => return None,
        }
        Some(())
    }
}

/// Calls `act` with each row of a query of [`COLUMNS`], or with the reason why the row is invalid.
pub(super) fn each_row(
    db: &Connection,
    paths: &Paths,
    query: &str,
    mut act: impl FnMut(Result<Row<'_>, &'static str>) -> Result<()>,
) -> Result<()> {
    let mut statement = db.prepare(query).map_err(|error| sqlite(paths, error))?;
    let mut rows = statement.query([]).map_err(|error| sqlite(paths, error))?;
    while let Some(row) = rows.next().map_err(|error| sqlite(paths, error))? {
        act(Row::read(row))?;
    }
    Ok(())
}
