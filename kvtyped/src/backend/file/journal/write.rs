//! Groups of effects, one transaction each.

use std::time::{Duration, Instant};

use super::super::errors::{is_busy, is_full, no_space_reason};
use super::super::files;
use super::super::lock::Mark;
use super::super::options::SyncMode;
use super::super::row::{Insertion, nanos, signed};
use super::super::schema::{self, transaction};
use super::tidy::PAGE;
use super::{Journal, MOVED};
use crate::backend::state::effect::Record;

/// The size of the first transaction of an open, in the WAL.
const OPENING_BYTES: u64 = 64 * 1024;
/// Effects that arrive while a group is inserted join the group up to this size.
const JOINED_BYTES: usize = 128 * 1024;

impl Journal {
    /// Writes a group with the effects that join it, and answers their calls. Returns the number of effects.
    pub(super) fn write(&mut self, mut group: Vec<Record>) -> usize {
        if !self.files.are_in_place() {
            drop(group);
            self.fail(&MOVED);
            return 0;
        }
        let mut result = self.insert(&mut group);
        for _ in 0..50 {
            if !result.as_ref().is_err_and(is_busy) {
                break;
            }
            // Another program reads the file, and nothing was written.
            std::thread::sleep(Duration::from_millis(10));
            result = self.insert(&mut group);
        }
        let rows = group.len();
        match result {
            Ok(size) => {
                self.journal_bytes += size;
                self.wal_pages += size / PAGE + 2;
                self.last = group.last().map_or(self.last, |record| signed(record.seq));
                self.has_work = true;
                self.paused_until = self.paused_until.filter(|until| *until > Instant::now());
                match self.sync {
                    SyncMode::Always => self.mark(),
                    SyncMode::Every(_) | SyncMode::Off => drop(self.unsynced_since.get_or_insert_with(Instant::now)),
                }
                self.log.committed(group);
                self.sync_if_due();
            }
            Err(error) if is_full(&error) => {
                let waiting = self.opening.as_ref().map(|_| files::length(&self.paths.wal) + OPENING_BYTES);
                self.log.refused(group, &no_space_reason(&self.paths, waiting));
                self.make_room();
            }
            Err(error) => {
                // The undo data is dropped with the group, because the outcome of its effects is unknown.
                drop(group);
                self.fail(&error);
            }
        }
        rows
    }

    /// Writes the first transaction of the open, if it is not written yet.
    pub(super) fn complete_open(&mut self) -> rusqlite::Result<()> {
        if let Some(opening) = &self.opening {
            opening.write(&self.db)?;
            self.opening = None;
            schema::set_sync(&self.db, self.sync == SyncMode::Always)?;
        }
        Ok(())
    }

    /// Commits a group. Effects that arrive during the insertion join the group, so they need no separate sync. Returns
    /// the size of the group.
    fn insert(&mut self, group: &mut Vec<Record>) -> rusqlite::Result<usize> {
        self.complete_open()?;
        transaction(&self.db, || {
            let mut insertion = Insertion::new(&self.db, &self.unknown)?;
            let (mut inserted, mut size) = (0, 0);
            loop {
                for record in group.iter().skip(inserted) {
                    insertion.insert(record)?;
                    size += record.size();
                }
                inserted = group.len();
                if size < JOINED_BYTES {
                    self.log.join(group, JOINED_BYTES - size);
                }
                if group.len() == inserted {
                    return Ok(size);
                }
            }
        })
    }

    /// Writes the mark of the last synced effect.
    pub(super) fn mark(&mut self) {
        // If this fails, the older mark is still correct.
        let _ = self.lock.write_mark(Mark { store: self.meta.store, seq: self.last });
    }

    /// Ends the store. A failed sync is never repeated: the system may have dropped the data that it could not write.
    pub(super) fn fail(&mut self, error: &dyn std::fmt::Display) {
        let name = self.paths.name();
        let reason = format!("the store failed, because `{name}` cannot be written: {error}; open it again");
        self.log.failed(&reason);
        self.failed = Some(reason);
    }

    /// Syncs all commits if the interval has passed.
    pub(super) fn sync_if_due(&mut self) {
        let SyncMode::Every(interval) = self.sync else { return };
        if self.unsynced_since.is_some_and(|since| since.elapsed() >= interval) {
            let time = nanos(self.log.now());
            let mut meta = self.meta;
            meta.time = meta.time.max(time);
            let synced = schema::set_sync(&self.db, true)
                .and_then(|()| transaction(&self.db, || meta.write(&self.db)))
                .and_then(|()| schema::set_sync(&self.db, false));
            match synced {
                Ok(()) => {
                    self.meta = meta;
                    self.unsynced_since = None;
                    self.mark();
                }
                Err(error) if is_full(&error) => drop(schema::set_sync(&self.db, false)),
                Err(error) => self.fail(&error),
            }
        }
    }
}
