//! Progress of the operation that is being polled.
//!
//! The progress is a thread-local value. The future of an operation exchanges it for its own on each poll, so that the
//! code below needs no further argument.

use std::cell::Cell;

use crate::revision::Revision;

/// The progress of an operation.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) attempts: u32,
    pub(super) written: u64,
    pub(super) written_bytes: u64,
    pub(super) read: u64,
    pub(super) read_bytes: u64,
    pub(super) revision: Option<Revision>,
    /// The key of the record, if the store traces keys.
    pub(super) key: Option<String>,
}

thread_local! {
    static CURRENT: Cell<Progress> = const { Cell::new(Progress {
        attempts: 0, written: 0, written_bytes: 0, read: 0, read_bytes: 0, revision: None, key: None,
    }) };
}

impl Progress {
    /// Calls `poll` with this progress as the current one.
    pub(super) fn during<R>(&mut self, poll: impl FnOnce() -> R) -> R {
        /// Restores the progress of the caller, also after a panic.
        struct Exchange<'a>(&'a mut Progress, Progress);
        impl Drop for Exchange<'_> {
            fn drop(&mut self) {
                *self.0 = CURRENT.replace(std::mem::take(&mut self.1));
            }
        }
        let outer = CURRENT.replace(std::mem::take(self));
        let _exchange = Exchange(self, outer);
        poll()
    }
}

fn note(change: impl FnOnce(&mut Progress)) {
    let mut progress = CURRENT.take();
    change(&mut progress);
    CURRENT.set(progress);
}

/// Counts a request that writes records of these sizes.
pub(crate) fn note_write(sizes: impl Iterator<Item = usize>) {
    note(|progress| {
        progress.attempts = progress.attempts.saturating_add(1);
        for size in sizes {
            progress.written += 1;
            progress.written_bytes += size as u64;
        }
    });
}

/// Counts a record that was received.
pub(crate) fn note_read(size: usize) {
    note(|progress| {
        progress.read += 1;
        progress.read_bytes += size as u64;
    });
}

/// Notes the key of the record.
pub(super) fn note_key(key: &str) {
    note(|progress| progress.key = Some(key.to_owned()));
}

/// Notes the revision of a write.
pub(crate) fn note_revision(revision: Revision) {
    note(|progress| progress.revision = Some(revision));
}
