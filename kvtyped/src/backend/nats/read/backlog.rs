//! The progress of a listing: the entries that existed when a consumer was created.
//!
//! A key that is written during the listing moves to the end of it. A listing therefore continues until no message is
//! pending. Under writes that never pause, it ends after a second round: at the revision that the bucket had at the end
//! of the first round.
//!
//! Some servers report too few pending messages. On such a server the listing continues to the last revision of the
//! bucket.

use crate::revision::Revision;

/// The progress of one listing.
#[derive(Debug)]
pub(crate) struct Backlog {
    /// The number of messages until the end of the round.
    remaining: u64,
    first_pass: bool,
    /// The last revision of the round, if the server's count cannot be trusted.
    target: Option<Revision>,
    /// The revision that the delivering server must have reached.
    min_revision: Revision,
    /// The highest revision that the server has provably reached.
    reached: Revision,
    /// The number of consecutive idle reports without progress.
    stalled: u32,
}

impl Backlog {
    pub(crate) fn new(pending: u64, wanted: Revision) -> Self {
        Self {
            remaining: pending,
            first_pass: true,
            target: None,
            min_revision: wanted,
            reached: Revision::ZERO,
            stalled: 0,
        }
    }

    /// Creates a listing for a server that counts incorrectly. `last` is the last revision of the bucket.
    pub(crate) fn unreliable(last: Revision, wanted: Revision) -> Self {
        Self { remaining: u64::MAX, target: Some(last), ..Self::new(0, wanted) }
    }

    /// Records a message, and the number of messages pending after it.
    pub(crate) fn on_delivery(&mut self, revision: Revision, behind: u64) {
        self.reached = self.reached.max(revision);
        if let Some(end) = self.target {
            if revision >= end && !self.first_pass {
                self.remaining = 0;
            }
            return;
        }
        self.remaining = self.remaining.saturating_sub(1);
        if behind == 0 {
            self.remaining = 0;
        } else if self.remaining == 0 && self.first_pass {
            self.remaining = behind;
            self.first_pass = false;
        }
    }

    /// Whether the first round of an uncounted listing is over.
    pub(crate) fn is_target_reached(&self) -> bool {
        self.remaining > 0 && self.first_pass && self.target.is_some_and(|end| self.reached >= end)
    }

    /// Begins the second round of an uncounted listing.
    pub(crate) fn extend_to(&mut self, last: Revision) {
        self.first_pass = false;
        self.target = Some(last);
        if self.reached >= last {
            self.remaining = 0;
        }
    }

    /// Records that nothing is pending up to this revision. Returns the number of consecutive such reports by a server
    /// that is behind.
    pub(crate) fn on_idle(&mut self, upto: Revision) -> u32 {
        let is_further = upto > self.reached;
        self.reached = self.reached.max(upto);
        self.remaining = 0;
        self.stalled = if is_further || self.reached >= self.min_revision { 0 } else { self.stalled + 1 };
        self.stalled
    }

    /// Whether every entry of the listing has arrived.
    pub(crate) fn is_complete(&self) -> bool {
        self.remaining == 0 && self.reached >= self.min_revision
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn listing(pending: u64, wanted: u64, messages: &[(u64, u64)]) -> Backlog {
        let mut listing = Backlog::new(pending, Revision::new(wanted));
        for (revision, behind) in messages {
            assert!(!listing.is_complete(), "{listing:?}");
            listing.on_delivery(Revision::new(*revision), *behind);
        }
        listing
    }

    #[test]
    fn an_empty_listing_is_over_at_once() {
        assert!(Backlog::new(0, Revision::ZERO).is_complete());
    }

    #[test]
    fn a_listing_is_over_when_nothing_is_pending() {
        assert!(listing(3, 0, &[(1, 2), (2, 1), (5, 0)]).is_complete());
        // The other two entries expired.
        assert!(listing(3, 0, &[(1, 0)]).is_complete());
        let mut expired = listing(3, 0, &[(1, 2)]);
        expired.on_idle(Revision::new(1));
        assert!(expired.is_complete());
    }

    #[test]
    fn a_listing_under_writes_ends_after_another_round() {
        let mut listing = listing(2, 0, &[(1, 3), (3, 2)]);
        assert!(!listing.is_complete(), "two entries were written during the first round, one of them twice");
        listing.on_delivery(Revision::new(4), 5);
        listing.on_delivery(Revision::new(5), 5);
        assert!(listing.is_complete(), "{listing:?}");
    }

    #[test]
    fn an_uncounted_listing_continues_to_the_last_revision() {
        let revision = Revision::new;
        let mut listing = Backlog::unreliable(revision(5), Revision::ZERO);
        listing.on_delivery(revision(2), 0);
        assert!(!listing.is_complete() && !listing.is_target_reached(), "the server counts wrong");
        listing.on_delivery(revision(5), 0);
        assert!(!listing.is_complete() && listing.is_target_reached());
        listing.extend_to(revision(7));
        assert!(
            !listing.is_complete() && !listing.is_target_reached(),
            "a key was written again during the first round"
        );
        listing.on_delivery(revision(7), 3);
        assert!(listing.is_complete());

        let mut quiet = Backlog::unreliable(revision(5), Revision::ZERO);
        quiet.on_delivery(revision(5), 0);
        quiet.extend_to(revision(5));
        assert!(quiet.is_complete());
        let mut others = Backlog::unreliable(revision(5), Revision::ZERO);
        others.on_delivery(revision(2), 0);
        others.on_idle(revision(4));
        assert!(others.is_complete(), "the later messages do not match this watch");
    }

    #[test]
    fn a_listing_waits_for_a_server_that_is_behind() {
        let mut listing = listing(1, 9, &[(4, 0)]);
        assert!(!listing.is_complete());
        listing.on_delivery(Revision::new(8), 0);
        assert!(!listing.is_complete());
        listing.on_idle(Revision::new(9));
        assert!(listing.is_complete());
    }

    #[test]
    fn a_stuck_server_is_distinguished_from_one_that_catches_up() {
        let mut listing = listing(1, 9, &[(4, 0)]);
        let stuck: Vec<_> = [4, 4, 5, 5, 7, 9, 9].map(|upto| listing.on_idle(Revision::new(upto))).into();
        assert_eq!(stuck, [1, 2, 0, 1, 0, 0, 0]);
        assert!(listing.is_complete());
    }
}
