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
pub(super) struct Listing {
    /// The number of messages until the end of the round.
    left: u64,
    first_round: bool,
    /// The last revision of the round, if the server's count cannot be trusted.
    end: Option<Revision>,
    /// The revision that the delivering server must have reached.
    wanted: Revision,
    /// The highest revision that the server has provably reached.
    reached: Revision,
    /// The number of consecutive idle reports without progress.
    stuck: u32,
}

impl Listing {
    pub(super) fn new(pending: u64, wanted: Revision) -> Self {
        Self { left: pending, first_round: true, end: None, wanted, reached: Revision::ZERO, stuck: 0 }
    }

    /// Creates a listing for a server that counts incorrectly. `last` is the last revision of the bucket.
    pub(super) fn uncounted(last: Revision, wanted: Revision) -> Self {
        Self { left: u64::MAX, end: Some(last), ..Self::new(0, wanted) }
    }

    /// Records a message, and the number of messages pending after it.
    pub(super) fn take(&mut self, revision: Revision, behind: u64) {
        self.reached = self.reached.max(revision);
        if let Some(end) = self.end {
            if revision >= end && !self.first_round {
                self.left = 0;
            }
            return;
        }
        self.left = self.left.saturating_sub(1);
        if behind == 0 {
            self.left = 0;
        } else if self.left == 0 && self.first_round {
            self.left = behind;
            self.first_round = false;
        }
    }

    /// Whether the first round of an uncounted listing is over.
    pub(super) fn has_met_its_end(&self) -> bool {
        self.left > 0 && self.first_round && self.end.is_some_and(|end| self.reached >= end)
    }

    /// Begins the second round of an uncounted listing.
    pub(super) fn go_on_to(&mut self, last: Revision) {
        self.first_round = false;
        self.end = Some(last);
        if self.reached >= last {
            self.left = 0;
        }
    }

    /// Records that nothing is pending up to this revision. Returns the number of consecutive such reports by a server
    /// that is behind.
    pub(super) fn idle(&mut self, upto: Revision) -> u32 {
        let is_further = upto > self.reached;
        self.reached = self.reached.max(upto);
        self.left = 0;
        self.stuck = if is_further || self.reached >= self.wanted { 0 } else { self.stuck + 1 };
        self.stuck
    }

    /// Whether every entry of the listing has arrived.
    pub(super) fn is_over(&self) -> bool {
        self.left == 0 && self.reached >= self.wanted
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn listing(pending: u64, wanted: u64, messages: &[(u64, u64)]) -> Listing {
        let mut listing = Listing::new(pending, Revision::new(wanted));
        for (revision, behind) in messages {
            assert!(!listing.is_over(), "{listing:?}");
            listing.take(Revision::new(*revision), *behind);
        }
        listing
    }

    #[test]
    fn an_empty_listing_is_over_at_once() {
        assert!(Listing::new(0, Revision::ZERO).is_over());
    }

    #[test]
    fn a_listing_is_over_when_nothing_is_pending() {
        assert!(listing(3, 0, &[(1, 2), (2, 1), (5, 0)]).is_over());
        // The other two entries expired.
        assert!(listing(3, 0, &[(1, 0)]).is_over());
        let mut expired = listing(3, 0, &[(1, 2)]);
        expired.idle(Revision::new(1));
        assert!(expired.is_over());
    }

    #[test]
    fn a_listing_under_writes_ends_after_another_round() {
        let mut listing = listing(2, 0, &[(1, 3), (3, 2)]);
        assert!(!listing.is_over(), "two entries were written during the first round, one of them twice");
        listing.take(Revision::new(4), 5);
        listing.take(Revision::new(5), 5);
        assert!(listing.is_over(), "{listing:?}");
    }

    #[test]
    fn an_uncounted_listing_continues_to_the_last_revision() {
        let revision = Revision::new;
        let mut listing = Listing::uncounted(revision(5), Revision::ZERO);
        listing.take(revision(2), 0);
        assert!(!listing.is_over() && !listing.has_met_its_end(), "the server counts wrong");
        listing.take(revision(5), 0);
        assert!(!listing.is_over() && listing.has_met_its_end());
        listing.go_on_to(revision(7));
        assert!(!listing.is_over() && !listing.has_met_its_end(), "a key was written again during the first round");
        listing.take(revision(7), 3);
        assert!(listing.is_over());

        let mut quiet = Listing::uncounted(revision(5), Revision::ZERO);
        quiet.take(revision(5), 0);
        quiet.go_on_to(revision(5));
        assert!(quiet.is_over());
        let mut others = Listing::uncounted(revision(5), Revision::ZERO);
        others.take(revision(2), 0);
        others.idle(revision(4));
        assert!(others.is_over(), "the later messages do not match this watch");
    }

    #[test]
    fn a_listing_waits_for_a_server_that_is_behind() {
        let mut listing = listing(1, 9, &[(4, 0)]);
        assert!(!listing.is_over());
        listing.take(Revision::new(8), 0);
        assert!(!listing.is_over());
        listing.idle(Revision::new(9));
        assert!(listing.is_over());
    }

    #[test]
    fn a_stuck_server_is_distinguished_from_one_that_catches_up() {
        let mut listing = listing(1, 9, &[(4, 0)]);
        let stuck: Vec<_> = [4, 4, 5, 5, 7, 9, 9].map(|upto| listing.idle(Revision::new(upto))).into();
        assert_eq!(stuck, [1, 2, 0, 1, 0, 0, 0]);
        assert!(listing.is_over());
    }
}
