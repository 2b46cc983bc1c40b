//! The messages that a first pass over a bucket has yet to receive: the entries that existed when a consumer was created.
//!
//! A key that is written during the pass moves to the end of it. A pass therefore continues until no message is pending.
//! Under writes that never pause, it ends after a second round: at the messages that were pending at the end of the first
//! round.
//!
//! There are three ways to find the end, because a server's number of pending messages is not always exact:
//!
//! * **Reported** (a watch): a message with no pending message after it is the last one.
//! * **Verified** (a scan): while a pending key is written, a server no longer counts its old entry and does not yet count
//!   its new one. So the number is trusted only if it decreased by one with each message. Otherwise the consumer must be
//!   asked.
//! * **Target** (a watch of several filters on a server that counts too few messages): the pass continues to the last
//!   revision of the bucket.

use crate::revision::Revision;

/// The progress of one first pass.
#[derive(Debug)]
pub(crate) struct Backlog {
    counting: Counting,
    /// The number of messages until the end of the round.
    remaining: u64,
    /// Whether this round contains the entries that existed when the consumer was created.
    first_round: bool,
    /// The number of pending messages according to the last message.
    pending: u64,
    /// Whether the server must be asked where the round ends.
    needs_check: bool,
    /// The revision that the delivering server must have reached.
    min_revision: Revision,
    /// The highest revision that the server has provably reached.
    reached: Revision,
    /// The number of consecutive idle reports without progress.
    stalled: u32,
}

/// How the end of a round is found.
#[derive(Debug)]
enum Counting {
    Reported,
    /// `steady`: the number of pending messages decreased by one with each message. `history`: every revision of a key
    /// is delivered, so none is skipped when the key is written.
    Verified {
        steady: bool,
        history: bool,
    },
    /// The last revision of the round.
    Target(Revision),
}

impl Backlog {
    /// Creates the backlog of a watch on a server that counts correctly. `min_revision` is the revision that the
    /// delivering server must have reached.
    pub(crate) fn reported(pending: u64, min_revision: Revision) -> Self {
        Self {
            counting: Counting::Reported,
            remaining: pending,
            first_round: true,
            pending,
            needs_check: false,
            min_revision,
            reached: Revision::ZERO,
            stalled: 0,
        }
    }

    /// Creates the backlog of a scan. `history`: the scan includes all revisions of a key.
    pub(crate) fn verified(pending: u64, history: bool) -> Self {
        Self { counting: Counting::Verified { steady: true, history }, ..Self::reported(pending, Revision::ZERO) }
    }

    /// Creates the backlog of a watch on a server that counts too few messages. `last` is the last revision of the
    /// bucket.
    pub(crate) fn up_to(last: Revision, min_revision: Revision) -> Self {
        Self { counting: Counting::Target(last), ..Self::reported(u64::MAX, min_revision) }
    }

    /// Records a message, and the number of messages pending after it.
    pub(crate) fn on_delivery(&mut self, revision: Revision, pending: u64) {
        self.reached = self.reached.max(revision);
        self.pending = pending;
        if !matches!(self.counting, Counting::Target(_)) {
            self.remaining = self.remaining.saturating_sub(1);
        }
        match &mut self.counting {
            Counting::Reported if pending == 0 => self.remaining = 0,
            Counting::Reported if self.remaining == 0 && self.first_round => {
                self.remaining = pending;
                self.first_round = false;
            }
            Counting::Reported => {}
            Counting::Verified { steady, history } => {
                *steady &= pending == self.remaining;
                if pending == 0 || self.remaining == 0 {
                    let is_over = *steady || self.remaining == 0 && (!self.first_round || *history);
                    self.needs_check = !is_over;
                }
            }
            Counting::Target(last) if self.first_round => self.needs_check |= revision >= *last,
            Counting::Target(last) if revision >= *last => self.remaining = 0,
            Counting::Target(_) => {}
        }
    }

    /// Whether the server must be asked where the round ends: for the number of pending messages
    /// ([`on_pending`](Self::on_pending)), or for the last revision of the bucket ([`extend_to`](Self::extend_to)).
    pub(crate) fn needs_check(&self) -> bool {
        self.needs_check
    }

    /// Records the number of pending messages that the server reports on request.
    pub(crate) fn on_pending(&mut self, pending: u64) {
        self.needs_check = false;
        if self.remaining == 0 {
            // Every initial entry arrived or was written again. An entry that was written again is still pending.
            self.first_round = false;
            self.remaining = pending;
        } else if pending == 0 {
            self.remaining = 0;
        }
    }

    /// Decides by the last message, because the user may not ask the server. If messages of the round are missing, the
    /// silence ends the scan.
    pub(crate) fn on_check_denied(&mut self) {
        self.on_pending(if self.remaining == 0 { self.pending } else { 0 });
    }

    /// Begins the second round of a backlog up to a revision.
    pub(crate) fn extend_to(&mut self, last: Revision) {
        self.needs_check = false;
        self.first_round = false;
        self.counting = Counting::Target(last);
        if self.reached >= last {
            self.remaining = 0;
        }
    }

    /// Records that nothing is pending up to this revision. Returns the number of consecutive such reports by a server
    /// that is behind.
    pub(crate) fn on_idle(&mut self, through: Revision) -> u32 {
        let is_further = through > self.reached;
        self.reached = self.reached.max(through);
        (self.remaining, self.needs_check) = (0, false);
        self.stalled = if is_further || self.reached >= self.min_revision { 0 } else { self.stalled + 1 };
        self.stalled
    }

    /// Whether every entry of the first pass has arrived.
    pub(crate) fn is_complete(&self) -> bool {
        self.remaining == 0 && !self.needs_check && self.reached >= self.min_revision
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn backlog(pending: u64, min_revision: u64, messages: &[(u64, u64)]) -> Backlog {
        let mut backlog = Backlog::reported(pending, Revision::new(min_revision));
        for (revision, pending) in messages {
            assert!(!backlog.is_complete(), "{backlog:?}");
            backlog.on_delivery(Revision::new(*revision), *pending);
        }
        backlog
    }

    #[test]
    fn empty_listing_is_complete_at_once() {
        assert!(Backlog::reported(0, Revision::ZERO).is_complete());
    }

    #[test]
    fn listing_completes_without_pending_messages() {
        assert!(backlog(3, 0, &[(1, 2), (2, 1), (5, 0)]).is_complete());
        // The other two entries expired.
        assert!(backlog(3, 0, &[(1, 0)]).is_complete());
        let mut expired = backlog(3, 0, &[(1, 2)]);
        expired.on_idle(Revision::new(1));
        assert!(expired.is_complete());
    }

    #[test]
    fn listing_under_writes_ends_after_second_round() {
        let mut backlog = backlog(2, 0, &[(1, 3), (3, 2)]);
        assert!(!backlog.is_complete(), "two entries were written during the first round, one of them twice");
        backlog.on_delivery(Revision::new(4), 5);
        backlog.on_delivery(Revision::new(5), 5);
        assert!(backlog.is_complete(), "{backlog:?}");
    }

    #[test]
    fn listing_without_counts_ends_at_last_revision() {
        let revision = Revision::new;
        let mut backlog = Backlog::up_to(revision(5), Revision::ZERO);
        backlog.on_delivery(revision(2), 0);
        assert!(!backlog.is_complete() && !backlog.needs_check(), "the server counts wrong");
        backlog.on_delivery(revision(5), 0);
        assert!(!backlog.is_complete() && backlog.needs_check());
        backlog.extend_to(revision(7));
        assert!(!backlog.is_complete() && !backlog.needs_check(), "a key was written again during the first round");
        backlog.on_delivery(revision(7), 3);
        assert!(backlog.is_complete());

        let mut quiet = Backlog::up_to(revision(5), Revision::ZERO);
        quiet.on_delivery(revision(5), 0);
        quiet.extend_to(revision(5));
        assert!(quiet.is_complete());
        let mut others = Backlog::up_to(revision(5), Revision::ZERO);
        others.on_delivery(revision(2), 0);
        others.on_idle(revision(4));
        assert!(others.is_complete(), "the later messages do not match this watch");
    }

    #[test]
    fn listing_waits_for_lagging_replica() {
        let mut backlog = backlog(1, 9, &[(4, 0)]);
        assert!(!backlog.is_complete());
        backlog.on_delivery(Revision::new(8), 0);
        assert!(!backlog.is_complete());
        backlog.on_idle(Revision::new(9));
        assert!(backlog.is_complete());
    }

    #[test]
    fn stuck_replica_is_distinguished_from_lagging() {
        let mut backlog = backlog(1, 9, &[(4, 0)]);
        let stuck: Vec<_> = [4, 4, 5, 5, 7, 9, 9].map(|through| backlog.on_idle(Revision::new(through))).into();
        assert_eq!(stuck, [1, 2, 0, 1, 0, 0, 0]);
        assert!(backlog.is_complete());
    }

    fn verified(pending: u64, history: bool, messages: &[u64]) -> Backlog {
        let mut backlog = Backlog::verified(pending, history);
        for (revision, pending) in (1..).zip(messages) {
            assert!(!backlog.is_complete() && !backlog.needs_check(), "{backlog:?}");
            backlog.on_delivery(Revision::new(revision), *pending);
        }
        backlog
    }

    #[test]
    fn verified_backlog_trusts_steady_countdown() {
        assert!(Backlog::verified(0, false).is_complete());
        assert!(verified(3, false, &[2, 1, 0]).is_complete());
        // A pending key was written, and the server does not count its new entry yet.
        let mut written = verified(3, false, &[2, 0]);
        assert!(!written.is_complete() && written.needs_check());
        written.on_pending(1);
        assert!(!written.is_complete() && !written.needs_check());
        written.on_delivery(Revision::new(9), 0);
        assert!(!written.is_complete() && written.needs_check(), "the first round was not steady");
        written.on_pending(0);
        assert!(written.is_complete());
    }

    #[test]
    fn verified_backlog_under_writes_takes_second_round() {
        let mut backlog = verified(2, false, &[2, 2]);
        assert!(backlog.needs_check());
        backlog.on_pending(2);
        backlog.on_delivery(Revision::new(8), 3);
        assert!(!backlog.is_complete() && !backlog.needs_check());
        backlog.on_delivery(Revision::new(9), 3);
        assert!(backlog.is_complete(), "{backlog:?}");
        assert!(verified(2, true, &[2, 2]).is_complete(), "a history skips no entry");
    }

    #[test]
    fn denied_check_falls_back_to_last_message() {
        let mut backlog = verified(2, false, &[2, 2]);
        backlog.on_check_denied();
        assert!(!backlog.is_complete(), "two messages are pending");
        let mut missing = verified(3, false, &[2, 0]);
        missing.on_check_denied();
        assert!(missing.is_complete());
    }
}
