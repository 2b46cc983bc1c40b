//! A first-come, first-served view of a lease and its tickets.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::bucket::Entry;
use crate::recipes::lease::record::LeaseRecord;
use crate::recipes::lease::timing::TTL;
use crate::recipes::record::{RecipeRecord, Unknown};
use crate::revision::Revision;

/// Returns the part of a lock's key for the ticket with this id.
pub(crate) fn ticket_part(id: &str) -> String {
    format!("{TICKET}{id}")
}

/// Returns the id of the ticket in this part of a lock's key, if it is a ticket.
pub(crate) fn ticket_id(part: &str) -> Option<&str> {
    part.strip_prefix(TICKET)
}

const TICKET: &str = "ticket-";

/// The longest TTL of a valid ticket, and of a lease that is handed over to a ticket.
///
/// Each user of the bucket can write a ticket. A ticket without a TTL, or with a longer TTL, could block a lock for
/// that long, so it is ignored. A ticket within the bound expires by the server's clock. All tickets of this crate are
/// within the bound.
pub(crate) const MAX_TICKET_TTL: Duration = TTL;

/// The state of a lock that a watch has observed.
#[derive(Debug, Default)]
pub(crate) struct QueueView {
    /// Whether the watch has delivered all initial records.
    pub(crate) ready: bool,
    /// The revision of the last observed write of the lease, including its removal.
    pub(crate) lease: Revision,
    /// All writes of the lease and the tickets up to this revision were observed.
    pub(crate) observed_through: Revision,
    pub(crate) held: bool,
    /// The tickets by number, which is the order of their creation.
    tickets: BTreeMap<u64, QueuedTicket>,
}

/// A waiter.
#[derive(Debug, Clone)]
pub(crate) struct QueuedTicket {
    pub(crate) id: String,
    /// The revision of the last renewal of the ticket.
    pub(crate) revision: Revision,
    pub(crate) owner: String,
    pub(crate) note: Option<String>,
    /// The requested TTL of the lease. `None` if the lease cannot be handed over to this ticket.
    pub(crate) requested_ttl: Option<Duration>,
    /// When the last renewal arrived.
    renewed_at: Instant,
    /// Whether the ticket has had the lease.
    granted: bool,
    pub(crate) unknown: Unknown,
}

impl QueuedTicket {
    /// Returns the waiter of this ticket. Returns `None` if the record is not a ticket, or if its TTL is out of bounds.
    pub(crate) fn from_entry(entry: &Entry<RecipeRecord<LeaseRecord>>, renewed_at: Instant) -> Option<Self> {
        let id = ticket_id(entry.key().part())?;
        entry.ttl().filter(|ttl| ttl.as_duration() <= MAX_TICKET_TTL)?;
        let LeaseRecord { owner, note, requested_ttl_ms: requested_ttl, unknown, .. } = &entry.value;
        Some(Self {
            id: id.to_owned(),
            revision: entry.revision(),
            owner: owner.clone(),
            note: note.clone(),
            requested_ttl: requested_ttl.map(Duration::from_millis),
            renewed_at,
            granted: false,
            unknown: unknown.clone(),
        })
    }

    /// Returns whether the waiter seems alive. A ticket is renewed after a third of its TTL. Without a renewal for two
    /// thirds of its TTL, its waiter is most likely dead.
    fn is_alive(&self, now: Instant) -> bool {
        self.renewed_at + self.requested_ttl.unwrap_or(MAX_TICKET_TTL).min(MAX_TICKET_TTL) * 2 / 3 > now
    }
}

impl QueueView {
    /// Records the revision of the lease, and the id of its holder if there is a holder. Returns whether the revision
    /// is new. The id of a holder that has a ticket starts with the id of the ticket.
    pub(crate) fn observe_lease(&mut self, revision: Revision, id: Option<&str>) -> bool {
        if let Some(id) = id {
            self.tickets
                .values_mut()
                .filter(|ticket| id.starts_with(&ticket.id))
                .for_each(|ticket| ticket.granted = true);
        }
        if revision <= self.lease {
            return false;
        }
        (self.lease, self.held) = (revision, id.is_some());
        true
    }

    /// Records a waiter whose ticket has this number.
    pub(crate) fn upsert(&mut self, number: u64, renewed: QueuedTicket) {
        let granted = self.tickets.get(&number).is_some_and(|ticket| ticket.granted);
        self.tickets.insert(number, QueuedTicket { granted, ..renewed });
    }

    /// Removes a waiter.
    pub(crate) fn remove(&mut self, id: &str) {
        self.tickets.retain(|_, ticket| ticket.id != id);
    }

    /// Returns whether this ticket has had the lease.
    pub(crate) fn is_served(&self, id: &str) -> bool {
        self.tickets.values().any(|ticket| ticket.id == id && ticket.granted)
    }

    /// Returns the first waiter. `gone` identifies waiters that have left, whatever the watch has delivered.
    pub(crate) fn head(&self, now: Instant, gone: impl Fn(&str) -> bool) -> Option<&QueuedTicket> {
        self.tickets.values().find(|ticket| !ticket.granted && ticket.is_alive(now) && !gone(&ticket.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTED_TTL: Duration = Duration::from_secs(30);

    fn ticket(id: &str, revision: u64) -> QueuedTicket {
        QueuedTicket {
            id: id.to_owned(),
            revision: Revision::new(revision),
            owner: String::new(),
            note: None,
            requested_ttl: Some(REQUESTED_TTL),
            renewed_at: Instant::now(),
            granted: false,
            unknown: Unknown::default(),
        }
    }

    fn first(queue: &QueueView) -> Option<&str> {
        queue.head(Instant::now(), |_| false).map(|first| &*first.id)
    }

    /// Returns a queue of two waiters: `a`, then `b`.
    fn queue() -> QueueView {
        let mut queue = QueueView::default();
        queue.upsert(2, ticket("b", 2));
        queue.upsert(1, ticket("a", 1));
        queue
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_are_served_in_ticket_order() {
        let mut queue = queue();
        assert_eq!(first(&queue), Some("a"));
        // A renewal keeps its number.
        queue.upsert(1, ticket("a", 9));
        assert_eq!(queue.head(Instant::now(), |_| false).map(|first| first.revision.get()), Some(9));
        assert_eq!(queue.head(Instant::now(), |id| id == "a").map(|first| &*first.id), Some("b"));
        queue.remove("a");
        assert_eq!(first(&queue), Some("b"));
    }

    #[tokio::test(start_paused = true)]
    async fn served_ticket_does_not_get_lease_again() {
        let mut queue = queue();
        assert!(queue.observe_lease(Revision::new(3), Some("a")));
        assert_eq!((first(&queue), queue.held), (Some("b"), true));
        // A renewal of the ticket was in flight.
        queue.upsert(1, ticket("a", 4));
        assert_eq!(first(&queue), Some("b"));
        assert!(queue.is_served("a") && !queue.is_served("b"));
        // The ticket's waiter took the lease with a separate attempt.
        assert!(queue.observe_lease(Revision::new(5), Some("b.1")));
        assert_eq!(first(&queue), None);
    }

    #[tokio::test(start_paused = true)]
    async fn old_events_of_the_lease_are_ignored() {
        let mut queue = queue();
        assert!(queue.observe_lease(Revision::new(5), Some("c")));
        assert!(!queue.observe_lease(Revision::new(5), Some("c")));
        assert!(!queue.observe_lease(Revision::new(4), None));
        assert!(queue.held);
        assert!(queue.observe_lease(Revision::new(6), None));
        assert!(!queue.held);
    }

    #[tokio::test(start_paused = true)]
    async fn ticket_without_renewals_is_skipped() {
        let mut queue = queue();
        tokio::time::advance(REQUESTED_TTL / 2).await;
        queue.upsert(2, ticket("b", 7));
        assert_eq!(first(&queue), Some("a"));
        tokio::time::advance(REQUESTED_TTL / 5).await;
        assert_eq!(first(&queue), Some("b"));
        queue.upsert(1, ticket("a", 8));
        assert_eq!(first(&queue), Some("a"));
    }
}
