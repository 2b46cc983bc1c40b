//! The delete markers that this process has written or read. With a known marker, a `create` needs one write. Without
//! it, the server refuses the first attempt.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::recent::Recent;
use crate::key::Key;
use crate::revision::Revision;

/// The bound on remembered markers, in bytes. It fits more than ten thousand.
const MAX_BYTES: usize = 4 * 1_024 * 1_024;

/// Remembered delete markers. An outdated or missing entry costs one refused write.
#[derive(Debug)]
pub(crate) struct Tombstones {
    known: Mutex<Recent<Tombstone>>,
    /// Whether the last `create` without a remembered marker found a marker on the server.
    found_foreign: AtomicBool,
}

#[derive(Debug)]
struct Tombstone {
    revision: Revision,
    /// The epoch of the connection. In a later epoch, the revision may belong to another entry.
    epoch: u64,
}

impl Default for Tombstones {
    fn default() -> Self {
        Self { known: Mutex::new(Recent::new(MAX_BYTES)), found_foreign: AtomicBool::new(false) }
    }
}

impl Tombstones {
    fn all(&self) -> MutexGuard<'_, Recent<Tombstone>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a marker.
    pub(crate) fn remember(&self, key: Key, revision: Revision, epoch: u64) {
        self.all().add(key, Tombstone { revision, epoch }, 0);
    }

    /// Removes the remembered marker of this key and returns its revision, if it is of this epoch.
    pub(crate) fn forget(&self, key: &Key, epoch: u64) -> Option<Revision> {
        let marker = self.all().take(key).filter(|marker| marker.epoch == epoch);
        marker.map(|marker| marker.revision)
    }

    /// Records that a `create` found an unknown marker.
    pub(crate) fn saw_foreign(&self) {
        self.found_foreign.store(true, Ordering::Relaxed);
    }

    /// Records that a lookup found no marker.
    pub(crate) fn saw_none(&self) {
        self.found_foreign.store(false, Ordering::Relaxed);
    }

    /// Returns whether an unknown marker is likely, based on the last `create`.
    pub(crate) fn expect_foreign(&self) -> bool {
        self.found_foreign.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new("acme.7").expect("a key")
    }

    #[test]
    fn remembered_marker_is_returned_once() {
        let markers = Tombstones::default();
        markers.remember(key(), Revision::new(7), 1);
        assert_eq!(markers.forget(&key(), 1), Some(Revision::new(7)));
        assert_eq!(markers.forget(&key(), 1), None);
    }

    #[test]
    fn marker_of_another_epoch_is_forgotten() {
        let markers = Tombstones::default();
        markers.remember(key(), Revision::new(7), 1);
        assert_eq!(markers.forget(&key(), 2), None);
    }

    #[test]
    fn number_of_remembered_markers_is_bounded() {
        let markers = Tombstones::default();
        let key = |id: u64| Key::new(id.to_string()).expect("a key");
        for id in 0..100_000 {
            markers.remember(key(id), Revision::new(1), 1);
        }
        assert!((99_000..100_000).all(|id| markers.forget(&key(id), 1).is_some()));
        assert_eq!(markers.forget(&key(0), 1), None);
        assert!(markers.all().len() < 15_000);
    }
}
