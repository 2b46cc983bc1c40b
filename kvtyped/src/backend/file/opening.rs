//! The first transaction of an open.

use std::time::Duration;

use rusqlite::Connection;

use super::load::Loaded;
use super::options::SyncMode;
use super::row::{INSERT, REVISION_SKIPPED, Row, nanos, signed};
use super::schema::{self, Clean, Meta};
use crate::config::Storage;
use crate::revision::Revision;

/// The number of revisions that an open skips if it cannot know which revisions were assigned.
const SKIPPED: u64 = 1 << 32;

/// Everything that an open writes. Precedes all other writes.
#[derive(Debug)]
pub(super) struct Opening {
    meta: Meta,
    /// The number of the last effect before the open.
    last: i64,
    at: i64,
    /// The buckets that skip revisions, and their new last revisions.
    skipped: Vec<(i64, i64)>,
}

impl Opening {
    /// Counts the open, and lets buckets skip revisions that were perhaps assigned. Writes nothing.
    pub(super) fn begin(loaded: &mut Loaded, sync: SyncMode, now: Duration) -> Self {
        let was = loaded.meta.clean;
        let last = loaded.last;
        let mut skipped = Vec::new();
        for (id, bucket) in &mut loaded.states {
            // The revisions that the bucket assigned are not stored, or another copy of the store assigns them.
            let is_unknown =
                bucket.config.storage == Some(Storage::Memory) || matches!(was, Clean::Copy | Clean::Unsynced);
            if is_unknown {
                let to = Revision::new(bucket.last_revision.get() + SKIPPED);
                bucket.skip_to(to);
                skipped.push((signed(*id), signed(to.get())));
                loaded.last += 1;
            }
        }
        loaded.meta.opens += 1;
        loaded.meta.time = nanos(now);
        loaded.meta.clean = if sync == SyncMode::Always { Clean::Open } else { Clean::Unsynced };
        loaded.time = now;
        Self { meta: loaded.meta, last, at: nanos(now), skipped }
    }

    /// Empties the WAL, and records the open in one durable transaction.
    ///
    /// The checkpoint writes the pages of the WAL again. A sync that failed in an earlier process can therefore not leave
    /// data in the page cache only.
    pub(super) fn write(&self, db: &Connection) -> rusqlite::Result<()> {
        schema::set_sync(db, true)?;
        schema::truncate_wal(db)?;
        schema::transaction(db, || {
            let mut statement = db.prepare_cached(INSERT)?;
            for (seq, (bucket, revision)) in (self.last + 1..).zip(&self.skipped) {
                let row = Row { seq, effect: REVISION_SKIPPED, bucket: *bucket, created: self.at, ..Row::default() };
                Row { revision: Some(*revision), ..row }.insert(&mut statement)?;
            }
            self.meta.write(db)
        })
    }
}
