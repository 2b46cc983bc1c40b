//! The thread that writes the journal: one transaction for all effects that were applied during the last one.
#![allow(clippy::disallowed_methods, reason = "its own thread waits for a disk, outside of the runtime and its clock")]

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::backup;
use super::buckets::BucketRows;
use super::checkpoint;
use super::control::Control;
use super::errors::{is_busy, is_full, no_space_reason};
use super::files::{self, OpenFiles};
use super::load::Loaded;
use super::lock::{LockFile, Mark};
use super::opening::Opening;
use super::options::{FileOptions, Limits, SyncMode};
use super::paths::Paths;
use super::row::{INSERT, Insertion, nanos};
use super::schema::{self, Clean, Meta, transaction};
use super::stored_config::Unknown;
use crate::backend::local::shared::LocalShared;
use crate::backend::local::writer::{LogWriter, Task};
use crate::backend::state::effect::Record;

/// The size of one transaction.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
/// The size of the WAL that starts its checkpoint, in pages. SQLite then writes from the beginning of the WAL. Commits
/// that do not extend the file are flushed in three quarters of the time, so a small WAL is better than a large one.
const WAL_PAGES: usize = 1_000;
/// The size of a page in bytes.
const PAGE: usize = 4_096;
/// The size of the first transaction of an open, in the WAL.
const OPENING_BYTES: u64 = 64 * 1024;
/// The thread tidies up after this time without a write.
const IDLE: Duration = Duration::from_millis(500);
/// The pause after an attempt to tidy up that failed.
const RETRY: Duration = Duration::from_secs(10);

/// The reason of a failure if the files are elsewhere.
const MOVED: &str = "its files were moved, replaced or removed";

/// The open file.
pub(super) struct Journal {
    /// Shared with a copy in progress.
    db: Rc<Connection>,
    paths: Paths,
    files: OpenFiles,
    lock: LockFile,
    log: LogWriter,
    sync: SyncMode,
    limits: Limits,
    /// The first transaction of the open, if the disk was full.
    opening: Option<Opening>,
    meta: Meta,
    rows: BucketRows,
    unknown: Unknown,
    /// The number of the last committed effect.
    last: i64,
    /// The size of the journal.
    journal_bytes: usize,
    /// An estimate of the number of pages that were written since the last checkpoint of the WAL.
    wal_pages: usize,
    /// Whether commits are not synced, and since when.
    unsynced_since: Option<Instant>,
    /// The position of the removal of entries of deleted buckets.
    sweep: Option<i64>,
    /// Whether the thread has work for idle times.
    has_work: bool,
    /// No work for idle times before this instant.
    paused_until: Option<Instant>,
    /// The reason why the store failed.
    failed: Option<String>,
}

impl Journal {
    pub(super) fn new(
        options: &FileOptions,
        paths: Paths,
        files: OpenFiles,
        db: Connection,
        lock: LockFile,
        log: LogWriter,
        loaded: Loaded,
    ) -> Self {
        let Loaded { meta, rows, unknown, last, journal_bytes, has_orphans, .. } = loaded;
        Self {
            db: Rc::new(db),
            paths,
            files,
            lock,
            log,
            sync: options.sync,
            limits: options.limits.clone(),
            opening: None,
            meta,
            rows,
            unknown,
            last,
            journal_bytes,
            wal_pages: 0,
            unsynced_since: None,
            sweep: has_orphans.then_some(0),
            has_work: true,
            paused_until: None,
            failed: None,
        }
    }

    /// Sets the first transaction of the open, if it is still to write.
    pub(super) fn complete_open_later(mut self, opening: Option<Opening>) -> Self {
        self.opening = opening;
        self
    }

    /// Returns the part of the store that handles share.
    pub(super) fn shared(&self) -> LocalShared {
        self.log.shared(u64::try_from(self.meta.opens).unwrap_or_default())
    }

    /// Writes the markers of the entries that expired while the store was closed.
    pub(super) fn expire(&mut self) {
        self.log.advance_all();
        while let Task::Write(group) = self.log.next(GROUP_BYTES, Duration::ZERO, || true) {
            self.write(group);
        }
    }

    /// Writes effects until the log is closed, and then closes the file.
    pub(super) fn run(mut self, control: &Arc<Control>) {
        while self.failed.is_none() {
            match self.log.next(GROUP_BYTES, self.pause(), || control.has_requests()) {
                Task::Write(group) => {
                    let rows = group.len();
                    self.write(group);
                    self.tidy_under_load(rows);
                }
                Task::Interrupted => self.serve(control),
                Task::Idle => self.tidy_when_idle(),
                Task::Closed => {
                    let result = self.finish();
                    drop(self);
                    control.closed(result);
                    return;
                }
            }
        }
        let reason = self.failed.clone().unwrap_or_default();
        drop(self);
        control.closed(Err(reason));
    }

    /// Writes one group, and reports its fate.
    pub(super) fn write(&mut self, group: Vec<Record>) {
        if !self.files.are_in_place() {
            drop(group);
            self.fail(&MOVED);
            return;
        }
        let mut result = self.insert(&group);
        for _ in 0..50 {
            if !result.as_ref().is_err_and(is_busy) {
                break;
            }
            // Another program looks at the file, and nothing was written.
            std::thread::sleep(Duration::from_millis(10));
            result = self.insert(&group);
        }
        match result {
            Ok(()) => {
                let size: usize = group.iter().map(Record::size).sum();
                self.journal_bytes += size;
                self.wal_pages += size / PAGE + 2;
                self.last = group.last().map_or(self.last, |record| super::row::signed(record.seq));
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
                // The undo data is dropped with the group: the fate of its effects is unknown.
                drop(group);
                self.fail(&error);
            }
        }
    }

    /// Writes the first transaction of the open, if it is still to write.
    fn complete_open(&mut self) -> rusqlite::Result<()> {
        if let Some(opening) = &self.opening {
            opening.write(&self.db)?;
            self.opening = None;
            schema::set_sync(&self.db, self.sync == SyncMode::Always)?;
        }
        Ok(())
    }

    fn insert(&mut self, group: &[Record]) -> rusqlite::Result<()> {
        self.complete_open()?;
        transaction(&self.db, || {
            let mut statement = self.db.prepare_cached(INSERT)?;
            let mut insertion = Insertion { db: &self.db, statement: &mut statement, unknown: &self.unknown };
            group.iter().try_for_each(|record| insertion.insert(record))
        })
    }

    /// Writes the mark of the last synced effect.
    fn mark(&mut self) {
        // An old mark is not wrong.
        let _ = self.lock.write_mark(Mark { store: self.meta.store, seq: self.last });
    }

    /// Ends the store. A failed sync is never repeated: the system may have dropped the data that it could not write.
    fn fail(&mut self, error: &dyn std::fmt::Display) {
        let name = self.paths.name();
        let reason = format!("the store failed, because `{name}` cannot be written: {error}; open it again");
        self.log.failed(&reason);
        self.failed = Some(reason);
    }

    /// Syncs all commits if the interval has passed.
    fn sync_if_due(&mut self) {
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

    /// Tries to make room on a full disk. The WAL may hold pages that are written twice, and starts again from its
    /// beginning after it is moved. The journal may hold many entries that are removed already.
    fn make_room(&mut self) {
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

    /// Returns how long the thread may wait for effects.
    fn pause(&self) -> Duration {
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

    /// Moves rows of a long journal, and the WAL if it is long. `rows` is the number of rows of the last group: twice as
    /// many are moved, so that a long journal becomes shorter.
    fn tidy_under_load(&mut self, rows: usize) {
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

    fn checkpoint_long_wal(&mut self) {
        if self.wal_pages > WAL_PAGES && self.failed.is_none() {
            self.checkpoint_wal();
        }
    }

    /// Does one step of the work for idle times.
    fn tidy_when_idle(&mut self) {
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
            // The next step follows at once, unless effects wait.
            self.paused_until.get_or_insert_with(Instant::now);
        }
    }

    /// Moves some rows of the journal into the tables of the state.
    fn checkpoint(&mut self) {
        let upto = self.last.min(self.meta.applied.saturating_add(self.limits.checkpoint_rows));
        let time = nanos(self.log.now());
        match checkpoint::step(&self.db, &self.meta, &self.rows, upto, time) {
            Ok(step) => {
                let rows = usize::try_from(self.last - self.meta.applied).unwrap_or(1).max(1);
                let moved = usize::try_from(upto - self.meta.applied).unwrap_or_default();
                // An estimate: the rows have about one size.
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

    fn sweep_orphans(&mut self, after: i64) {
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
                // After the next commit again: there is room if a commit succeeds.
                self.wal_pages = WAL_PAGES + 1;
                self.failed_tidying(&error);
            }
        }
    }

    /// Tidies up later if the disk is full, and fails otherwise. Returns whether the work is still to do.
    fn failed_tidying(&mut self, error: &rusqlite::Error) -> bool {
        if is_full(error) || is_busy(error) {
            self.paused_until = Some(Instant::now() + RETRY);
        } else {
            self.fail(error);
        }
        true
    }

    /// Answers the requests of callers.
    fn serve(&mut self, control: &Control) {
        while let Some(request) = control.next() {
            let source = Rc::clone(&self.db);
            let copy = backup::Copy::begin(&request.path, &self.paths);
            let result = copy.and_then(|copy| copy.run(&source, || self.write_pending()));
            let _ = request.reply.send(result);
        }
    }

    /// Writes the pending effects. For the pauses of a backup.
    fn write_pending(&mut self) -> bool {
        while let Task::Write(group) = self.log.next(GROUP_BYTES, Duration::ZERO, || true) {
            self.write(group);
        }
        self.failed.is_none()
    }

    /// Moves everything into the tables of the state, and closes the file.
    fn finish(&mut self) -> Result<(), String> {
        if let Err(error) = self.complete_open() {
            // Nothing was written since the open, so the next open does the same.
            return if is_full(&error) { Ok(()) } else { Err(self.not_tidied(&error)) };
        }
        while self.meta.applied < self.last && self.failed.is_none() {
            let before = self.meta.applied;
            self.checkpoint();
            self.checkpoint_long_wal();
            if self.meta.applied == before {
                break;
            }
        }
        while let Some(after) = self.sweep
            && self.failed.is_none()
        {
            self.sweep_orphans(after);
            self.checkpoint_long_wal();
            if self.sweep == Some(after) {
                break;
            }
        }
        if let Some(reason) = &self.failed {
            return Err(reason.clone());
        }
        if !self.files.are_in_place() {
            return Err(format!("`{}` cannot be written: {MOVED}", self.paths.name()));
        }
        let meta = Meta { clean: Clean::Closed, time: self.meta.time.max(nanos(self.log.now())), ..self.meta };
        let closed = checkpoint::vacuum_all(&self.db)
            .and_then(|()| schema::set_sync(&self.db, true))
            .and_then(|()| transaction(&self.db, || meta.write(&self.db)))
            .and_then(|()| schema::truncate_wal(&self.db));
        match closed {
            Ok(()) => {
                self.mark();
                let _ = self.lock.sync();
                Ok(())
            }
            // Everything is durable in the journal, so the next open continues.
            Err(error) if is_full(&error) => {
                let _ = schema::truncate_wal(&self.db);
                Ok(())
            }
            Err(error) => Err(self.not_tidied(&error)),
        }
    }

    fn not_tidied(&self, error: &rusqlite::Error) -> String {
        format!("`{}` cannot be tidied up: {error}", self.paths.name())
    }
}

/// Fails the store if the thread ends by a panic.
impl Drop for Journal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.log.failed("the thread of the store panicked; open the store again");
        }
        if self.failed.is_some() {
            // The next open finds the WAL as it is.
            let keep = rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            let _ = self.db.set_db_config(keep, true);
        }
    }
}
