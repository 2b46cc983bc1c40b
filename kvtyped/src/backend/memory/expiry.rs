//! What goes with time, and what it leaves behind.
//!
//! From nats-server: `expireMsgs` in `server/memstore.go`, `isSubjectDeleteMarker` in `server/sdm.go`, and the floor
//! under a TTL in `server/stream.go` (`processJetStreamMsg`).

use std::time::Duration;

use bytes::Bytes;

use super::bucket::{BucketState, Stored};
use super::limits::Size;
use crate::backend::Operation;
use crate::ttl::Ttl;

impl BucketState {
    /// Lets go of everything that is due by now, in the order in which it was due.
    ///
    /// An entry goes at its own time or at the bucket's, whichever comes first, and never before. If it was the last of
    /// its key and the bucket has limit markers, a marker takes its place: under a new revision, created at that time,
    /// and due itself in turn. The markers of an expiry and of a purge go without another; that of a delete does not.
    pub(super) fn advance(&mut self, now: Duration) {
        while let Some(&(at, revision)) = self.due.first().filter(|(at, _)| *at <= now) {
            // What is due is stored; were it not, this would be the end of it.
            self.due.remove(&(at, revision));
            let Some(stored) = self.remove(revision) else { continue };
            let was_last = !self.keys.contains_key(&stored.key);
            let was_marker = matches!(stored.operation, Operation::Expired | Operation::Purge);
            if was_last
                && !was_marker
                && let Some(lives) = self.markers_live()
            {
                let record = self.record(Size::of_expired_marker(lives), &stored.key);
                self.store(Stored {
                    key: stored.key,
                    at,
                    operation: Operation::Expired,
                    value: Bytes::new(),
                    ttl: Some(lives),
                    id: None,
                    record,
                });
            }
        }
    }

    /// When an entry goes.
    pub(super) fn expires(&self, stored: &Stored) -> Option<Duration> {
        let own = stored.ttl.map(Ttl::as_duration);
        let shortest = own.into_iter().chain(self.config.ttl).min()?;
        Some(stored.at + shortest)
    }

    /// How long a limit marker stays: a server counts whole seconds of it.
    pub(super) fn markers_live(&self) -> Option<Ttl> {
        self.config.limit_markers.and_then(|markers| Ttl::new(Duration::from_secs(markers.as_secs())))
    }

    /// A server raises the TTL of an entry to that of the markers where a key has a history: below the entry that
    /// expires there may be an older one, which is the key's value again.
    pub(super) fn at_least_the_markers(&self, ttl: Ttl) -> Ttl {
        match self.markers_live() {
            Some(markers) if self.config.history != Some(1) => ttl.max(markers),
            _ => ttl,
        }
    }
}
