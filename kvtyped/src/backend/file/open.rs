//! Opening a file, on the thread of the journal.
#![allow(clippy::disallowed_methods, reason = "its own thread waits for a disk, outside of the runtime and its clock")]

use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::errors::{damaged, io, is_full, sqlite};
use super::files::{self, OpenFiles};
use super::journal::Journal;
use super::load::{Loaded, Progress, load};
use super::lock::{LockError, LockFile, Mark};
use super::opening::Opening;
use super::options::{FileOptions, SyncMode};
use super::paths::{self, Paths};
use super::schema::{self, Clean, Content, INDEX_FORMAT, Meta};
use crate::backend::local::clock::Clock;
use crate::backend::local::writer::LogWriter;
use crate::backend::state::log::Log;
use crate::backend::state::machine::StateMachine;
use crate::error::{Error, ErrorKind, Result};

/// Locks and opens a file. Writes nothing to an existing file before it passed all checks.
pub(super) fn open(options: &FileOptions, paths: &Paths, progress: &Progress) -> Result<Journal> {
    let mode = options.mode.unwrap_or(FileOptions::MODE);
    let mut lock = acquire(options, paths, mode, progress)?;
    create_file(paths, &lock, mode)?;
    let read = |error| sqlite(paths, error);
    let db = schema::connect(&paths.main).map_err(read)?;
    match schema::content(&db).map_err(read)? {
        Content::Store => {}
        Content::Empty if lock.mark().is_none() => schema::create(&db, &new_meta()).map_err(read)?,
        other => return Err(refusal(paths, &other)),
    }
    let loaded = load(&db, paths, progress)?;
    check_mark(paths, lock.mark(), &loaded)?;

    // All checks passed.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(read)?;
    schema::use_wal(&db).map_err(read)?;
    if let Some(pages) = options.limits.max_pages {
        db.pragma_update(None, "max_page_count", pages).map_err(read)?;
    }
    let mut loaded = loaded;
    let wall = options.limits.now.unwrap_or_else(SystemTime::now);
    let clock = Clock::since_1970(wall, loaded.time);
    let opening = Opening::begin(&mut loaded, options.sync, clock.now());
    let opening = match opening.write(&db) {
        Ok(()) => {
            // An old mark is not wrong, and on a full disk it may be the only one.
            let _ = lock.write_mark(Mark { store: loaded.meta.store, seq: loaded.last });
            None
        }
        // Reads need no space. The first write that finds room completes the open.
        Err(error) if is_full(&error) => {
            files::rewrite(&paths.wal).map_err(|error| io(paths, error))?;
            Some(opening)
        }
        Err(error) => return Err(read(error)),
    };
    schema::set_sync(&db, options.sync == SyncMode::Always).map_err(read)?;
    let files = OpenFiles::new(paths).map_err(|error| io(paths, error))?;
    Ok(journal(options, paths, files, db, lock, loaded, clock).complete_open_later(opening))
}

/// Builds the state and its journal.
fn journal(
    options: &FileOptions,
    paths: &Paths,
    files: OpenFiles,
    db: Connection,
    lock: LockFile,
    mut loaded: Loaded,
    clock: Clock,
) -> Journal {
    let wake = Arc::new(Condvar::new());
    let log = Log::new(u64::try_from(loaded.last).unwrap_or_default(), Arc::clone(&wake));
    let states = std::mem::take(&mut loaded.states).into_values().collect();
    let machine = StateMachine::restore("file:", states, loaded.buckets_created, clock.now(), log);
    let log = LogWriter::new(machine, wake, clock);
    Journal::new(options, paths.clone(), files, db, lock, log, loaded)
}

/// Waits for the lock until the timeout, so that a process can take over from one that ends.
fn acquire(options: &FileOptions, paths: &Paths, mode: u32, progress: &Progress) -> Result<LockFile> {
    const LONGEST: Duration = Duration::from_millis(100);
    let started = Instant::now();
    let mut pause = Duration::from_millis(2);
    // The caller must see the reason before its own timeout.
    let patience = options.timeout.saturating_sub(options.timeout / 8);
    loop {
        match LockFile::acquire(&paths.lock, mode) {
            Ok(lock) => {
                progress.wait_for(None);
                return Ok(lock);
            }
            Err(LockError::Io(error)) => return Err(io(paths, error)),
            Err(LockError::InUse(process)) => {
                if started.elapsed() + pause >= patience || progress.is_cancelled() {
                    return Err(Error::new(ErrorKind::InUse { file: paths.name(), process }));
                }
                progress.wait_for(Some(process));
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST);
    }
}

/// Creates the file if nothing of the store exists.
fn create_file(paths: &Paths, lock: &LockFile, mode: u32) -> Result<()> {
    let length = |path| std::fs::metadata(path).map(|metadata| metadata.len()).ok();
    match (length(&paths.main), length(&paths.wal)) {
        // SQLite would delete the WAL of a file without content.
        (None | Some(0), Some(1..)) => Err(damaged(paths, "the file is empty or missing, but its WAL exists")),
        (None | Some(0), _) if lock.mark().is_some() => Err(damaged(paths, missing(paths))),
        (None, _) => paths::create(&paths.main, mode).map_err(|error| io(paths, error)),
        (Some(_), _) => Ok(()),
    }
}

fn missing(paths: &Paths) -> String {
    format!(
        "the file is empty or missing, but `{}` names its last write; remove that file to create a new store",
        paths.lock.display()
    )
}

/// Returns the reason why a file with this content is not opened.
pub(super) fn refusal(paths: &Paths, content: &Content) -> Error {
    match content {
        Content::Later(format) => Error::unsupported(
            format!("a version of kvtyped that reads format {format}"),
            format!("`{}` of that format, and this version reads format {INDEX_FORMAT}", paths.name()),
        ),
        Content::Foreign => Error::invalid_config(format!("`{}` is a database of another application", paths.name())),
        Content::Empty => damaged(paths, missing(paths)),
        Content::Altered | Content::Store => damaged(paths, "its tables differ from the tables of its format"),
    }
}

/// Refuses a file that ends before its mark.
fn check_mark(paths: &Paths, mark: Option<Mark>, loaded: &Loaded) -> Result<()> {
    match mark {
        Some(mark) if mark.store == loaded.meta.store && mark.seq > loaded.last => Err(damaged(
            paths,
            format!(
                "the writes {} to {} are missing, according to `{}`; if you put back an older copy, remove that file",
                loaded.last + 1,
                mark.seq,
                paths.lock.display()
            ),
        )),
        _ => Ok(()),
    }
}

fn new_meta() -> Meta {
    Meta { store: rand::random(), applied: 0, time: 0, opens: 0, clean: Clean::Closed, buckets: 0, digest: 0 }
}
