//! First come, first served: tickets, in the order in which they were drawn.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use tokio::time::{Instant, sleep_until};

use super::holding::{Holding, fence_of};
use super::lease::Lease;
use super::slot::{Slot, SlotKey};
use super::tenure::{Attempt, Claim, Over};
use super::wait::{is_final, passes, patience};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Filter;
use crate::revision::Revision;
use crate::watch::Event;

const TICKET: &str = "ticket-";

/// A place in the queue for a lease: a lease itself, so that who dies while waiting does not hold up the others for ever.
pub(super) struct Ticket {
    lease: Lease,
}

impl Ticket {
    /// Draws a ticket.
    pub(super) async fn draw(claim: &Claim) -> Result<Self> {
        let holding = Holding::new(claim.holding.owner.clone(), claim.holding.note.clone(), None);
        let key = claim.key.beside(format!("{TICKET}{}", holding.id));
        let ticket = Claim { key, holding, fenced: false, ..claim.clone() };
        match ticket.attempt(Over::Nothing, None).await {
            Attempt::Taken(lease) => Ok(Self { lease }),
            Attempt::Failed(error, _) => Err(error),
            // Its key has a name that nothing else has.
            Attempt::Refused(_) => Err(Error::new(ErrorKind::AlreadyExists)),
        }
    }

    /// Whether anybody waits.
    pub(super) async fn others(claim: &Claim) -> Result<bool> {
        let mut keys = claim.bucket.keys(Self::all(claim)).await?;
        while let Some(key) = keys.try_next().await? {
            if key.part().starts_with(TICKET) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn all(claim: &Claim) -> Filter<Slot<Holding>> {
        SlotKey::parts(claim.key.recipe(), claim.key.name())
    }

    /// Waits until it is the first and the lease is free, and takes it.
    pub(super) async fn wait(mut self, claim: Claim) -> Result<Lease> {
        let mut events = claim.bucket.watch(Self::all(&claim)).await?;
        let mut known = Known::default();
        let mut look = Instant::now() + patience(claim.times.ttl);
        loop {
            let event = tokio::select! {
                biased;
                event = events.next() => Some(event),
                () = self.lease.lost() => {
                    // The place is lost with it.
                    self = Self::draw(&claim).await?;
                    continue;
                }
                () = sleep_until(look) => None,
            };
            let mut over = None;
            match event {
                None => over = Some(Over::Nothing),
                Some(Some(Ok(event))) => {
                    // Only what is heard of the lease puts off the look: those who wait with us are heard of all the time.
                    if known.learn(claim.key.part(), event) {
                        look = Instant::now() + patience(claim.times.ttl);
                    }
                }
                Some(Some(Err(error))) if is_final(&error) => return Err(error),
                Some(Some(Err(_))) => {}
                Some(None) => return Err(Error::new(ErrorKind::Closed)),
            }
            if !known.is_first(self.lease.fence().get()) || (known.held && over.is_none()) {
                if over.is_some() {
                    look = Instant::now() + patience(claim.times.ttl);
                }
                continue;
            }
            look = Instant::now() + patience(claim.times.ttl);
            let over = over.or(known.marker.map(Over::Told)).unwrap_or(Over::Nothing);
            match claim.clone().attempt(over, None).await {
                Attempt::Taken(lease) => return Ok(lease),
                Attempt::Refused(_) => known.held = true,
                Attempt::Failed(error, _) if passes(&error) => known.held = true,
                Attempt::Failed(error, _) => return Err(error),
            }
        }
    }
}

/// What one who waits knows.
#[derive(Default)]
struct Known {
    ready: bool,
    held: bool,
    marker: Option<Revision>,
    /// The tickets, by their numbers.
    tickets: BTreeMap<u64, String>,
}

impl Known {
    /// Whether it was about the lease.
    fn learn(&mut self, lease: &str, event: Event<Slot<Holding>>) -> bool {
        match event {
            Event::Put(entry) if entry.key().part() == lease => {
                (self.held, self.marker) = (true, None);
                return true;
            }
            Event::Put(entry) if entry.key().part().starts_with(TICKET) => {
                self.tickets.insert(fence_of(&entry).get(), entry.key().part().to_owned());
            }
            Event::Removed { key, revision, .. } if key.part() == lease => {
                (self.held, self.marker) = (false, Some(revision));
                return true;
            }
            Event::Removed { key, .. } => self.tickets.retain(|_, part| part != key.part()),
            Event::Ready => self.ready = true,
            Event::Resync => *self = Self::default(),
            _ => {}
        }
        false
    }

    fn is_first(&self, number: u64) -> bool {
        self.ready && self.tickets.keys().next().is_none_or(|first| *first >= number)
    }
}
