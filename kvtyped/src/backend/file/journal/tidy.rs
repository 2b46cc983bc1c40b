//! Moves rows of the journal, pages of the WAL, and free pages.

use std::time::{Duration, Instant};

use super::super::errors::{is_busy, is_full};
use super::super::options::SyncMode;
use super::super::row::nanos;
use super::super::{checkpoint, schema};
use super::Journal;

/// The size of the WAL that starts its checkpoint, in pages. SQLite then writes from the beginning of the WAL. Commits
/// that do not extend the file are flushed in three quarters of the time, so a small WAL is better than a large one.
const WAL_PAGES: usize = 1_000;
/// The size of a page in bytes.
pub(super) const PAGE: usize = 4_096;
/// The thread tidies up after this time without a write.
const IDLE: Duration = Duration::from_millis(500);
/// The pause after an attempt to tidy up that failed.
const RETRY: Duration = Duration::from_secs(10);

impl Journal {
    /// Returns how long the thread may wait for effects.
    pub(super) fn pause(&self) -> Duration {
        const LONGEST: Duration = Duration::from_secs(3600);
        let work = match self.paused_until {
            Some(until) => until.saturating_duration_since(Instant::now()),
            None if self.has_work => IDLE,
            None => LONGEST,
        };
        match (self.sync, self.unsynced_since) {
            (SyncMode::Every(interval), Some(since)) => work.min(interval.saturating_sub(since.elapsed())),
            _ => work,
        }
    }

    /// Tries to make room on a full disk. The WAL may hold several versions of a page, and is written from its beginning
    /// again after a checkpoint. The journal may hold many entries that are removed already.
    pub(super) fn make_room(&mut self) {
        if self.opening.is_some() {
            return;
        }
        self.checkpoint_wal();
        if self.failed.is_none() && self.meta.applied < self.last {
            self.checkpoint();
        }
        if self.failed.is_none() {
            self.checkpoint_wal();
        }
    }

    /// Moves rows of a long journal, and the WAL if it is long. `rows` is the number of rows of the last group: twice as
    /// many are moved, so that a long journal becomes shorter.
    pub(super) fn tidy_under_load(&mut self, rows: usize) {
        if self.opening.is_some() {
            return;
        }
        let quarter = usize::try_from(self.log.stored_bytes() / 4).unwrap_or(usize::MAX);
        let least = self.limits.journal_bytes.min(1024 * 1024);
        let longest = quarter.max(least).min(self.limits.journal_bytes);
        let end = self.meta.applied.saturating_add(i64::try_from(rows * 2).unwrap_or(i64::MAX));
        while self.journal_bytes > longest
            && self.meta.applied < end
            && self.failed.is_none()
            && self.paused_until.is_none_or(|until| until <= Instant::now())
        {
            self.checkpoint();
        }
        self.checkpoint_long_wal();
    }

    pub(super) fn checkpoint_long_wal(&mut self) {
        if self.wal_pages > WAL_PAGES && self.failed.is_none() {
            self.checkpoint_wal();
        }
    }

    /// Does one step of the work for idle times.
    pub(super) fn tidy_when_idle(&mut self) {
        self.sync_if_due();
        if !self.has_work || self.failed.is_some() || self.paused_until.is_some_and(|until| until > Instant::now()) {
            return;
        }
        self.paused_until = None;
        if self.opening.is_some() {
            if let Err(error) = self.complete_open() {
                self.failed_tidying(&error);
            }
        } else if self.journal_bytes > 0 {
            self.checkpoint();
        } else if let Some(after) = self.sweep {
            self.sweep_orphans(after);
        } else {
            self.checkpoint_wal();
            self.has_work = match checkpoint::vacuum(&self.db) {
                Ok(more) => more,
                Err(error) => self.failed_tidying(&error),
            };
        }
        if self.has_work {
            // The next step follows at once, unless effects are pending.
            self.paused_until.get_or_insert_with(Instant::now);
        }
    }

    /// Moves some rows of the journal into the tables of the state.
    pub(super) fn checkpoint(&mut self) {
        let upto = self.last.min(self.meta.applied.saturating_add(self.limits.checkpoint_rows));
        let time = nanos(self.log.now());
        match checkpoint::step(&self.db, &self.meta, &self.rows, upto, time) {
            Ok(step) => {
                let rows = usize::try_from(self.last - self.meta.applied).unwrap_or(1).max(1);
                let moved = usize::try_from(upto - self.meta.applied).unwrap_or_default();
                // An estimate, which assumes that all rows have about the same size.
                self.journal_bytes -= self.journal_bytes / rows * moved;
                if upto == self.last {
                    self.journal_bytes = 0;
                }
                self.wal_pages += moved / 4 + 2;
                (self.meta, self.rows) = (step.meta, step.rows);
                if step.has_orphans {
                    self.sweep = Some(0);
                }
            }
            Err(error) => drop(self.failed_tidying(&error)),
        }
    }

    pub(super) fn sweep_orphans(&mut self, after: i64) {
        let rows = usize::try_from(self.limits.checkpoint_rows).unwrap_or(usize::MAX);
        match checkpoint::sweep(&self.db, after, rows) {
            Ok(next) => {
                self.sweep = next;
                self.wal_pages += rows / 16 + 2;
            }
            Err(error) => drop(self.failed_tidying(&error)),
        }
    }

    fn checkpoint_wal(&mut self) {
        self.wal_pages = 0;
        match schema::checkpoint_wal(&self.db) {
            Ok(()) if self.sync == SyncMode::Off => {
                self.unsynced_since = None;
                self.mark();
            }
            Ok(()) => {}
            Err(error) => {
                // Tries again after the next commit: if a commit succeeds, the disk has room.
                self.wal_pages = WAL_PAGES + 1;
                self.failed_tidying(&error);
            }
        }
    }

    /// Tidies up later if the disk is full, and fails otherwise. Returns `true`, because work remains.
    fn failed_tidying(&mut self, error: &rusqlite::Error) -> bool {
        if is_full(error) || is_busy(error) {
            self.paused_until = Some(Instant::now() + RETRY);
        } else {
            self.fail(error);
        }
        true
    }
}
