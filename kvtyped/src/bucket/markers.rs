//! The markers that this process left, or read: what a `create` goes over with one write, where it would be refused at
//! first; and whether there are others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::key::Key;
use crate::revision::Revision;

/// How many are remembered.
const REMEMBERED: usize = 1_024;

/// A marker that is no more there costs one write that is refused; one that is not remembered costs the same.
#[derive(Debug, Default)]
pub(super) struct Markers {
    known: Mutex<HashMap<Key, Marker>>,
    /// Whether the last creation that knew of no marker went over one.
    others: AtomicBool,
}

#[derive(Debug)]
struct Marker {
    revision: Revision,
    /// In which it was left: later, its revision may be that of something else.
    epoch: u64,
}

impl Markers {
    fn all(&self) -> MutexGuard<'_, HashMap<Key, Marker>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers one.
    pub(super) fn left(&self, key: Key, revision: Revision, epoch: u64) {
        let mut all = self.all();
        if all.len() >= REMEMBERED {
            all.clear();
        }
        all.insert(key, Marker { revision, epoch });
    }

    /// The revision of the marker of this key, once, if one is remembered of this epoch.
    pub(super) fn take(&self, key: &Key, epoch: u64) -> Option<Revision> {
        let marker = self.all().remove(key).filter(|marker| marker.epoch == epoch);
        marker.map(|marker| marker.revision)
    }

    /// Remembers that there was a marker which was not known.
    pub(super) fn met_another(&self) {
        self.others.store(true, Ordering::Relaxed);
    }

    /// Remembers that there was none where one was looked for.
    pub(super) fn met_none(&self) {
        self.others.store(false, Ordering::Relaxed);
    }

    /// Whether it is likely that there is a marker where none is known.
    pub(super) fn are_of_others(&self) -> bool {
        self.others.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new("acme.7").expect("a key")
    }

    #[test]
    fn a_marker_is_remembered_once() {
        let markers = Markers::default();
        markers.left(key(), Revision::new(7), 1);
        assert_eq!(markers.take(&key(), 1), Some(Revision::new(7)));
        assert_eq!(markers.take(&key(), 1), None);
    }

    #[test]
    fn a_marker_of_another_epoch_is_forgotten() {
        let markers = Markers::default();
        markers.left(key(), Revision::new(7), 1);
        assert_eq!(markers.take(&key(), 2), None);
    }

    #[test]
    fn markers_do_not_pile_up() {
        let markers = Markers::default();
        for id in 0..10 * REMEMBERED {
            markers.left(Key::new(id.to_string()).expect("a key"), Revision::new(1), 1);
        }
        assert!(markers.all().len() <= REMEMBERED);
    }
}
