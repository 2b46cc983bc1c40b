//! Expiry of entries, and the markers that expired entries leave.
//!
//! From nats-server: `expireMsgs` in `server/memstore.go`, `isSubjectDeleteMarker` in `server/sdm.go`, and the floor
//! under a TTL in `server/stream.go` (`processJetStreamMsg`).

use std::time::Duration;

use bytes::Bytes;

use super::bucket::BucketState;
use super::changes::Changes;
use super::entry::StoredEntry;
use super::limits::Size;
use crate::backend::{KeySpace, Operation, RecordHeaders};
use crate::error::Result;
use crate::key::Key;
use crate::ttl::Ttl;

/// The retry interval of a marker that did not fit.
const RETRY: Duration = Duration::from_secs(2);

impl BucketState {
    /// Removes all entries that have expired, in the order of their expiry times.
    ///
    /// An entry expires at the end of its own TTL or of the bucket's, whichever comes first, and never earlier. If the
    /// entry was the last one of its key and the bucket has limit markers, a marker takes its place. The marker has a
    /// new revision and the expiry time as its creation time, and expires in turn. The markers of an expiry and of a
    /// purge expire without another marker. The marker of a delete does not.
    ///
    /// The marker is a write like another: if it does not fit, the entry stays until the marker fits.
    pub(crate) fn advance(&mut self, now: Duration) -> Changes {
        let mut changes = Changes::default();
        if now >= self.expiry_paused_until {
            self.expire(now, &mut changes);
        }
        changes
    }

    /// Returns the time of the next expiry.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        self.expirations.first().map(|(at, _)| (*at).max(self.expiry_paused_until))
    }

    /// Computes the expiry time of each entry.
    pub(crate) fn schedule_expiry(&mut self) {
        self.expirations =
            self.entries.iter().filter_map(|(revision, stored)| Some((self.expires(stored)?, *revision))).collect();
    }

    pub(super) fn expire(&mut self, now: Duration, changes: &mut Changes) {
        while let Some(&(at, revision)) = self.expirations.first().filter(|(at, _)| *at <= now) {
            self.expirations.pop_first();
            let Some(stored) = self.entries.get(&revision) else { continue };
            let is_last = self.keys.get(&stored.key).is_some_and(|revisions| revisions.len() == 1);
            let is_marker = matches!(stored.operation, Operation::Expired | Operation::Purge);
            match self.marker_ttl().filter(|_| is_last && !is_marker) {
                None => self.remove(revision, changes),
                Some(lives) => match self.expired_marker(stored.key.clone(), at, lives) {
                    Ok(marker) => self.store(marker, changes),
                    Err(_) => {
                        self.expirations.insert((now + RETRY, revision));
                    }
                },
            }
        }
    }

    fn expired_marker(&self, key: Key, at: Duration, lives: Ttl) -> Result<StoredEntry> {
        let size = Size::expired_marker(lives);
        let record = self.check_limits(size, KeySpace::Records, &key)?;
        let operation = Operation::Expired;
        Ok(StoredEntry {
            space: KeySpace::Records,
            key,
            at,
            operation,
            value: Bytes::new(),
            ttl: Some(lives),
            headers: RecordHeaders::default(),
            id: None,
            size: record,
            seq: 0,
        })
    }

    /// Returns the expiry time of a record.
    pub(crate) fn expires(&self, stored: &StoredEntry) -> Option<Duration> {
        if stored.ttl.is_some_and(Ttl::is_never) {
            return None;
        }
        let own = stored.ttl.map(Ttl::as_duration);
        let shortest = own.into_iter().chain(self.config.ttl).min()?;
        Some(stored.at + shortest)
    }

    /// Returns the TTL of limit markers: a server counts whole seconds.
    pub(crate) fn marker_ttl(&self) -> Option<Ttl> {
        self.config.limit_markers.and_then(|markers| Ttl::new(Duration::from_secs(markers.as_secs())))
    }

    /// Raises a TTL to that of the limit markers, as a server does for keys with a history: below the entry that
    /// expires there may be an older entry, which would become the value of the key again.
    pub(crate) fn clamp_to_marker_ttl(&self, ttl: Ttl) -> Ttl {
        match self.marker_ttl() {
            Some(markers) if self.config.history != Some(1) => ttl.max(markers),
            _ => ttl,
        }
    }
}
