//! A map with a bounded size in bytes that forgets the oldest entries.

use std::collections::{HashMap, VecDeque};

use crate::key::Key;

/// The bytes of an entry in addition to its key and value: its slots in the map and the order.
const OVERHEAD: usize = 320;

/// The remembered values of some keys.
///
/// `add` and `take` run in amortized constant time. An entry that is taken and added again counts as new.
#[derive(Debug)]
pub(crate) struct Recent<V> {
    entries: HashMap<Key, Entry<V>>,
    /// The entries in insertion order, including stale slots of removed entries.
    order: VecDeque<(u64, Key)>,
    next: u64,
    bytes: usize,
    capacity: usize,
}

#[derive(Debug)]
struct Entry<V> {
    number: u64,
    bytes: usize,
    value: V,
}

impl<V> Recent<V> {
    /// Creates a map for entries of this many bytes in total.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), next: 0, bytes: 0, capacity }
    }

    /// Adds an entry whose value takes this many bytes on the heap, and forgets the oldest entries beyond the bound.
    pub(crate) fn add(&mut self, key: Key, value: V, heap: usize) {
        drop(self.take(&key));
        let number = self.next;
        self.next += 1;
        let bytes = OVERHEAD + 2 * key.as_str().len() + heap;
        self.bytes += bytes;
        self.order.push_back((number, key.clone()));
        self.entries.insert(key, Entry { number, bytes, value });
        while self.bytes > self.capacity {
            let Some((number, key)) = self.order.pop_front() else { break };
            if self.is_at(&key, number) {
                drop(self.take(&key));
            }
        }
        // More than half of the slots are stale, so the amortized cost of a sweep is constant.
        if self.order.len() > 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            self.order.retain(|(number, key)| entries.get(key).is_some_and(|entry| entry.number == *number));
        }
    }

    /// Removes an entry and returns its value.
    pub(crate) fn take(&mut self, key: &Key) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.bytes -= entry.bytes;
        Some(entry.value)
    }

    fn is_at(&self, key: &Key, number: u64) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.number == number)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Key {
        Key::new(format!("key.{n}")).expect("a key")
    }

    #[test]
    fn each_added_entry_evicts_the_oldest() {
        let mut recent = Recent::new(100 * (OVERHEAD + 2 * "key.100".len() + 10));
        for n in 100..1_000 {
            recent.add(key(n), n, 10);
            assert_eq!(recent.len(), (n - 99).min(100), "each added entry replaces the oldest one");
        }
        assert!((100..900).all(|n| recent.take(&key(n)).is_none()));
        assert!((900..1_000).all(|n| recent.take(&key(n)) == Some(n)));
        assert_eq!((recent.len(), recent.bytes), (0, 0));
    }

    #[test]
    fn readded_entry_becomes_the_newest() {
        let mut recent = Recent::new(3 * (OVERHEAD + 2 * "key.0".len()));
        (0..3).for_each(|n| recent.add(key(n), n, 0));
        let first = recent.take(&key(0)).expect("it is there");
        recent.add(key(0), first, 0);
        recent.add(key(3), 3, 0);
        assert_eq!((recent.take(&key(1)), recent.take(&key(0))), (None, Some(0)));
    }

    #[test]
    fn stale_slots_of_reused_key_are_bounded() {
        let mut recent = Recent::new(usize::MAX);
        for n in 0..100_000 {
            recent.add(key(0), n, 0);
            assert!(recent.order.len() <= 67, "{} places for one entry", recent.order.len());
        }
        assert_eq!(recent.len(), 1);
    }

    #[test]
    fn oversized_entry_evicts_every_entry() {
        let mut recent = Recent::new(1_000);
        recent.add(key(0), (), 0);
        recent.add(key(1), (), 1_000_000);
        assert_eq!((recent.len(), recent.bytes), (0, 0));
    }
}
