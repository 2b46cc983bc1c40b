//! Closes the file.

use super::super::checkpoint;
use super::super::errors::is_full;
use super::super::row::nanos;
use super::super::schema::{self, Clean, Meta, transaction};
use super::{Journal, MOVED};

impl Journal {
    /// Moves everything into the tables of the state, and closes the file.
    pub(super) fn finish(&mut self) -> Result<(), String> {
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
