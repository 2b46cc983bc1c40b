//! The keys that the sessions of one watch delivered.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// The number of keys beyond which the set remembers nothing: 9 to 18 bytes a key, 300 MB at most.
const MAX_KEYS: usize = 1 << 24;

/// The maximum number of keys to reserve memory for: 18 MB.
const MAX_RESERVED: usize = 1 << 20;

/// The number of hashes that are added to the set at once.
const INSERT_BATCH: usize = 256;

/// The number of expiring delete markers beyond which the set forgets markers that must have expired long ago.
const MARKER_SWEEP_AT: usize = 1_024;

/// How late a server may remove a message whose TTL has passed. An older marker is considered removed.
const MAX_REMOVAL_DELAY: Duration = Duration::from_secs(60);

/// The keys that the sessions of one watch delivered, starting with the first entry of its listing. Each session passes
/// the set to the next one, so that a session that resumes can prove that it missed no removal: if the server has as
/// many keys as the set, it has all of them.
///
/// The set keeps a seeded hash of 8 bytes for each key. If two keys have the same hash, the numbers differ, which costs
/// a listing. It keeps delete markers with a TTL by name, because they expire without another message.
///
/// Cheap to clone; every clone is the same set.
#[derive(Clone, Default)]
pub struct Delivered {
    keys: Arc<Mutex<Keys>>,
}

#[derive(Default)]
struct Keys {
    seed: RandomState,
    hashes: HashSet<u64, BuildHasherDefault<Hashed>>,
    /// The newest hashes, which are not in the set yet. The set of a large bucket is not in the processor's cache, and
    /// many insertions in a row wait for it together.
    newest: Vec<u64>,
    /// Delete markers, with their expiry times.
    markers: HashMap<Box<str>, SystemTime>,
    is_complete: bool,
    is_listed: bool,
}

impl Delivered {
    /// Starts over, for a session that lists every key.
    pub fn restart(&self) {
        let mut keys = self.lock();
        *keys = Keys { is_complete: true, ..Keys::default() };
    }

    /// Makes room for this many keys, which the session is about to deliver. Does nothing for an untrusted claim of more
    /// than a million: the set then grows with the keys.
    pub fn reserve(&self, keys: u64) {
        if let Ok(keys) = usize::try_from(keys)
            && keys <= MAX_RESERVED
        {
            self.lock().hashes.reserve(keys);
        }
    }

    /// Forgets everything, for a session that does not list every key.
    pub fn forget(&self) {
        *self.lock() = Keys::default();
    }

    /// Whether the set contains every key that a listing found.
    pub fn is_complete(&self) -> bool {
        self.lock().flush_newest().is_complete
    }

    /// Whether the listing has ended.
    pub fn is_listed(&self) -> bool {
        self.lock().is_listed
    }

    /// Marks the end of the listing.
    pub fn end_listing(&self) {
        self.lock().is_listed = true;
    }

    /// Adds a key. If its newest entry is a delete marker with a TTL, `marker` is the expiry time of that marker.
    pub fn insert(&self, key: &str, marker: Option<SystemTime>, now: SystemTime) {
        let mut keys = self.lock();
        if !keys.is_complete {
            return;
        }
        let hash = keys.seed.hash_one(key);
        keys.newest.push(hash);
        match marker {
            Some(expires) => {
                keys.markers.insert(key.into(), expires);
                if keys.markers.len().is_power_of_two() && keys.markers.len() >= MARKER_SWEEP_AT {
                    keys.remove_old_markers(now);
                }
            }
            None if keys.markers.is_empty() => {}
            None => drop(keys.markers.remove(key)),
        }
        if keys.newest.len() >= INSERT_BATCH {
            keys.flush_newest();
        }
    }

    /// Removes a delete marker that the server no longer has.
    pub fn remove_marker(&self, key: &str) {
        let mut keys = self.lock();
        if keys.markers.remove(key).is_some() {
            let hash = keys.seed.hash_one(key);
            keys.flush_newest().hashes.remove(&hash);
        }
    }

    /// Removes the delete markers that expired so long ago that they must be gone. Returns their number.
    pub fn remove_old_markers(&self, now: SystemTime) -> usize {
        self.lock().remove_old_markers(now)
    }

    /// Returns the delete markers that have expired at this time, so that the server may have removed them.
    pub fn expired_markers(&self, now: SystemTime) -> Vec<Box<str>> {
        let keys = self.lock();
        keys.markers.iter().filter(|(_, expires)| **expires <= now).map(|(key, _)| key.clone()).collect()
    }

    /// Returns the number of keys.
    pub fn count(&self) -> u64 {
        self.lock().flush_newest().hashes.len() as u64
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keys {
    /// The same with every hash in the set, which forgets everything if it became too large.
    fn flush_newest(&mut self) -> &mut Self {
        self.hashes.extend(self.newest.drain(..));
        if self.hashes.len() > MAX_KEYS {
            *self = Self::default();
        }
        self
    }

    fn remove_old_markers(&mut self, now: SystemTime) -> usize {
        let Self { seed, hashes, markers, .. } = self.flush_newest();
        let before = markers.len();
        markers.retain(|key, expires| {
            let is_gone = *expires + MAX_REMOVAL_DELAY < now;
            if is_gone {
                hashes.remove(&seed.hash_one(&**key));
            }
            !is_gone
        });
        before - markers.len()
    }
}

impl fmt::Debug for Delivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivered").field("count", &self.count()).finish_non_exhaustive()
    }
}

/// Passes a key that is already a hash through unchanged.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn keys_are_counted_once() {
        let delivered = Delivered::default();
        delivered.insert("a", None, NOW);
        assert!(delivered.count() == 0 && !delivered.is_complete(), "no listing has begun");
        delivered.restart();
        for key in ["a", "b", "a"] {
            delivered.insert(key, None, NOW);
        }
        assert_eq!((delivered.count(), delivered.is_complete(), delivered.is_listed()), (2, true, false));
        delivered.forget();
        assert_eq!((delivered.count(), delivered.is_complete()), (0, false));
    }

    #[test]
    fn keys_count_once_across_batched_insertions() {
        let delivered = Delivered::default();
        delivered.restart();
        let keys = 2 * INSERT_BATCH + 1;
        for key in (0..keys).chain(0..keys) {
            delivered.insert(&key.to_string(), (key == 0).then_some(NOW), NOW);
        }
        assert_eq!(delivered.count(), keys as u64);
        delivered.remove_marker("0");
        assert_eq!(delivered.count(), keys as u64 - 1);
    }

    #[test]
    fn remove_marker_keeps_written_keys() {
        let delivered = Delivered::default();
        delivered.restart();
        for key in ["deleted", "deleted and written", "written"] {
            delivered.insert(key, (key != "written").then_some(NOW), NOW);
        }
        delivered.insert("deleted and written", None, NOW);
        assert_eq!(delivered.expired_markers(NOW), ["deleted".into()]);
        assert!(delivered.expired_markers(NOW - MAX_REMOVAL_DELAY).is_empty());
        for key in ["deleted", "deleted and written", "written"] {
            delivered.remove_marker(key);
        }
        assert_eq!(delivered.count(), 2);
    }

    #[test]
    fn old_markers_do_not_accumulate() {
        let delivered = Delivered::default();
        delivered.restart();
        let at = |second: u64| NOW + Duration::from_secs(second);
        for second in 0..10_000 {
            delivered.insert(&second.to_string(), Some(at(second)), at(second));
        }
        assert!(delivered.count() < 2 * MARKER_SWEEP_AT as u64, "{delivered:?}");
    }
}
