//! The thread that writes the journal: one transaction for all effects that were applied during the last one.
//!
//! | file | content |
//! |---|---|
//! | `write` | groups of effects, and the syncs of an interval |
//! | `tidy` | checkpoints of the journal and of the WAL, and free pages |
//! | `close` | the end of a store |
#![allow(clippy::disallowed_methods, reason = "its own thread waits for a disk, outside of the runtime and its clock")]

mod write;
mod tidy;
mod close;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::backup;
use super::buckets::BucketRows;
use super::control::Control;
use super::files::OpenFiles;
use super::load::Loaded;
use super::lock::LockFile;
use super::opening::Opening;
use super::options::{FileOptions, Limits, SyncMode};
use super::paths::Paths;
use super::schema::Meta;
use super::stored_config::Unknown;
use crate::backend::local::shared::LocalShared;
use crate::backend::local::writer::{LogWriter, Task};

/// The size of one transaction.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
/// The reason of a failure if the files are not in their place.
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

    /// Sets the first transaction of the open, if it is not written yet.
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
                    let rows = self.write(group);
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

    /// Answers the requests of callers.
    fn serve(&mut self, control: &Control) {
        while let Some(request) = control.next() {
            let source = Rc::clone(&self.db);
            let copy = backup::Copy::begin(&request.path, &self.paths);
            let result = copy.and_then(|copy| copy.run(&source, || self.write_pending()));
            let _ = request.reply.send(result);
        }
    }

    /// Writes the pending effects, in the pauses of a backup. Returns whether the store has not failed.
    fn write_pending(&mut self) -> bool {
        while let Task::Write(group) = self.log.next(GROUP_BYTES, Duration::ZERO, || true) {
            self.write(group);
        }
        self.failed.is_none()
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
