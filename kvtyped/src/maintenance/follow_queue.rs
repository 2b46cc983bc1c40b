//! The changes that a follower has received and not handled yet.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::follow_record::Seen;
use crate::key::Key;
use crate::revision::Revision;

/// The number of changes that wait for their turn.
const WAITING: usize = 256;

/// The changes that are not handled yet.
#[derive(Debug, Default)]
pub(super) struct FollowQueue {
    revisions: BTreeSet<Revision>,
    /// The records that are being handled, each with the change that waits for it.
    busy: HashMap<Key, Option<Seen>>,
    ready: VecDeque<(Key, Seen)>,
    last: Revision,
}

impl FollowQueue {
    /// Creates a queue of the changes after a revision.
    pub(super) fn after(revision: Revision) -> Self {
        Self { last: revision, ..Self::default() }
    }

    /// Records that the changes up to a revision were received.
    pub(super) fn advance(&mut self, revision: Revision) {
        self.last = self.last.max(revision);
    }

    /// Returns whether the follower should receive no further change for a while.
    pub(super) fn is_full(&self) -> bool {
        self.ready.len() >= WAITING
    }

    /// Returns the highest revision whose predecessors are all handled.
    pub(super) fn position(&self) -> Revision {
        self.revisions.first().map_or(self.last, |first| Revision::new(first.get().saturating_sub(1)))
    }

    pub(super) fn add(&mut self, key: Key, seen: Seen) {
        self.revisions.insert(seen.revision);
        match self.busy.get_mut(&key) {
            // Only one repair of a record runs, so that an earlier one stores nothing after a later one.
            Some(waiting) => {
                if let Some(earlier) = waiting.replace(seen) {
                    self.revisions.remove(&earlier.revision);
                }
            }
            None => self.ready.push_back((key, seen)),
        }
    }

    pub(super) fn next(&mut self) -> Option<(Key, Seen)> {
        let (key, seen) = self.ready.pop_front()?;
        match self.busy.get_mut(&key) {
            Some(waiting) => {
                if let Some(earlier) = waiting.replace(seen) {
                    self.revisions.remove(&earlier.revision);
                }
                self.next()
            }
            None => {
                self.busy.insert(key.clone(), None);
                Some((key, seen))
            }
        }
    }

    pub(super) fn done(&mut self, key: Key, at: Revision) {
        self.revisions.remove(&at);
        if let Some(Some(seen)) = self.busy.remove(&key) {
            self.ready.push_back((key, seen));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.revisions.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(revision: u64) -> Seen {
        Seen { revision: Revision::new(revision), is_removal: false, is_listed: false, is_kept: false }
    }

    #[test]
    fn position_stays_before_the_first_change_that_is_not_handled() {
        let (a, b) = (Key::new("a").expect("a key"), Key::new("b").expect("a key"));
        let mut queue = FollowQueue::after(Revision::new(4));
        for (key, revision) in [(&a, 5), (&b, 6), (&a, 7)] {
            queue.advance(Revision::new(revision));
            queue.add(key.clone(), seen(revision));
        }
        let first = queue.next().expect("a change");
        assert_eq!((&first.0, first.1.revision.get()), (&a, 5));
        // The later change of the same record waits for the first one.
        let second = queue.next().expect("a change");
        assert_eq!((&second.0, second.1.revision.get()), (&b, 6));
        assert!(queue.next().is_none());
        queue.done(b, Revision::new(6));
        assert_eq!(queue.position().get(), 4);
        queue.done(a.clone(), Revision::new(5));
        assert_eq!(queue.position().get(), 6);
        let third = queue.next().expect("a change");
        assert_eq!((&third.0, third.1.revision.get()), (&a, 7));
        queue.done(a, Revision::new(7));
        assert!(queue.is_empty());
        assert_eq!(queue.position().get(), 7);
    }
}
