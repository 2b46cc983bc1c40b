//! First come, first served: what is known of a lease and of the tickets of those who wait for it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::holding::{Holding, fence_of};
use super::slot::Slot;
use crate::bucket::Entry;
use crate::revision::Revision;

/// The part of a lock's key under which the ticket of this id is.
pub(super) fn part_of(id: &str) -> String {
    format!("{TICKET}{id}")
}

/// The id of the ticket in this part of a lock's key, if it is one.
pub(super) fn id_of(part: &str) -> Option<&str> {
    part.strip_prefix(TICKET)
}

const TICKET: &str = "ticket-";

/// What a watch has told of a lock.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Whether all that was there has been told.
    pub(super) ready: bool,
    /// The last that is known to have been written of the lease, its removal included.
    pub(super) lease: Revision,
    /// Up to here nothing is missing of what was written of lease and tickets.
    pub(super) complete: Revision,
    pub(super) held: bool,
    /// The tickets, by their numbers: in the order in which they were drawn.
    tickets: BTreeMap<u64, Waits>,
}

/// One who waits.
#[derive(Debug, Clone)]
pub(super) struct Waits {
    pub(super) id: String,
    /// Of the last renewal of the ticket.
    pub(super) revision: Revision,
    pub(super) owner: String,
    pub(super) note: Option<String>,
    /// For how long the lease is wanted; nothing, if it cannot be handed on to this one.
    pub(super) wants: Option<Duration>,
    /// When that was heard.
    heard: Instant,
    /// The lease was handed on to it, or is about to be no more.
    served: bool,
}

impl Waits {
    /// A ticket is renewed after a third of its time. One that has missed that was left by somebody who died, most likely.
    fn is_alive(&self, now: Instant) -> bool {
        self.wants.is_none_or(|wants| self.heard + wants * 2 / 3 > now)
    }
}

impl Queue {
    /// The lease has this revision by now; `id` is its holder's, if there is one. Whether that is news. A holder that has drawn
    /// a ticket has an id that begins with the ticket's.
    pub(super) fn lease(&mut self, revision: Revision, id: Option<&str>) -> bool {
        if let Some(id) = id {
            self.tickets.values_mut().filter(|ticket| id.starts_with(&ticket.id)).for_each(|ticket| ticket.served = true);
        }
        if revision <= self.lease {
            return false;
        }
        (self.lease, self.held) = (revision, id.is_some());
        true
    }

    /// Somebody waits.
    pub(super) fn waits(&mut self, id: &str, entry: &Entry<Slot<Holding>>, heard: Instant) {
        let Holding { owner, note, wants, .. } = &entry.value;
        let (owner, note, wants) = (owner.clone(), note.clone(), wants.map(Duration::from_millis));
        let number = fence_of(entry).get();
        let served = self.tickets.get(&number).is_some_and(|ticket| ticket.served);
        let waits = Waits { id: id.to_owned(), revision: entry.revision(), owner, note, wants, heard, served };
        self.tickets.insert(number, waits);
    }

    /// Somebody waits no more.
    pub(super) fn leaves(&mut self, id: &str) {
        self.tickets.retain(|_, ticket| ticket.id != id);
    }

    /// Who is the first of those who wait; `gone` are those who do so no more, whatever was told of them.
    pub(super) fn first(&self, now: Instant, gone: impl Fn(&str) -> bool) -> Option<&Waits> {
        self.tickets.values().find(|ticket| !ticket.served && ticket.is_alive(now) && !gone(&ticket.id))
    }
}
