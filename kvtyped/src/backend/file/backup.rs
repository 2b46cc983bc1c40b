//! A consistent copy of an open store.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::errors::{damaged, io, sqlite};
use super::paths::{self, Paths};
use super::schema::{self, Clean, Meta};
use crate::error::{Error, Result};

/// The number of pages that one step copies, between groups of effects.
const STEP_PAGES: i32 = 256;

/// A copy in progress.
pub(super) struct Copy {
    target: Paths,
    unfinished: PathBuf,
}

impl Copy {
    /// Prepares the copy. Refuses a path that is in use.
    pub(super) fn begin(path: &Path, source: &Paths) -> Result<Self> {
        let target = Paths::new(path)?;
        if target.main.exists() || target.main == source.main {
            return Err(Error::invalid_config(format!("`{}` exists already; choose another path", target.name())));
        }
        let unfinished = paths::with_suffix(&target.main, ".tmp");
        for left in [unfinished.clone(), paths::with_suffix(&unfinished, "-wal")] {
            // The rest of an interrupted copy.
            let _ = std::fs::remove_file(left);
        }
        Ok(Self { target, unfinished })
    }

    /// Copies all pages. Calls `pause` between two steps, which returns `false` to give up.
    pub(super) fn run(self, source: &Connection, pause: impl FnMut() -> bool) -> Result<()> {
        let result = self.copy(source, pause);
        if result.is_err() {
            let _ = std::fs::remove_file(&self.unfinished);
        }
        result
    }

    fn copy(&self, source: &Connection, pause: impl FnMut() -> bool) -> Result<()> {
        let target = &self.target;
        let mode = super::options::FileOptions::MODE;
        paths::create(&self.unfinished, mode).map_err(|error| io(target, error))?;
        let mut copy = Connection::open(&self.unfinished).map_err(|error| sqlite(target, error))?;
        self.copy_pages(source, &mut copy, pause)?;
        self.seal(&copy).map_err(|error| sqlite(target, error))?;
        let meta = Meta::read(&copy).map_err(|error| sqlite(target, error))?;
        meta.ok_or_else(|| damaged(target, "the copy is incomplete"))?;
        copy.close().map_err(|(_, error)| sqlite(target, error))?;
        std::fs::rename(&self.unfinished, &target.main).map_err(|error| io(target, error))?;
        paths::sync_folder(&target.main).map_err(|error| io(target, error))
    }

    fn copy_pages(&self, source: &Connection, copy: &mut Connection, mut pause: impl FnMut() -> bool) -> Result<()> {
        let error = |error| sqlite(&self.target, error);
        // SQLite copies each page again that this connection changes during the copy.
        let backup = Backup::new(source, copy).map_err(error)?;
        while backup.step(STEP_PAGES).map_err(error)? != StepResult::Done {
            if !pause() {
                return Err(Error::unavailable("the store failed during the copy"));
            }
        }
        Ok(())
    }

    /// Gives the copy its own identity, so that its first open skips the revisions that the original may assign.
    fn seal(&self, copy: &Connection) -> rusqlite::Result<()> {
        copy.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        schema::use_wal(copy)?;
        if let Some(meta) = Meta::read(copy)? {
            let meta = Meta { store: rand::random(), clean: Clean::Copy, ..meta };
            schema::transaction(copy, || meta.write(copy))?;
        }
        schema::truncate_wal(copy)
    }
}
