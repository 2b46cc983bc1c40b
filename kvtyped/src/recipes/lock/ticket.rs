//! A ticket in the wait queue of a lock, and the wait for the lock.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::queue_view::{QueuedTicket, ticket_part};
use super::wait_queue::{WaitQueue, WaiterEvent};
use crate::backend::Read;
use crate::error::{Error, ErrorKind, Result};
use crate::recipes::lease::handle::Lease;
use crate::recipes::lease::keeper::{AcquireOutcome, AcquireRequest, ExpectedTombstone};
use crate::recipes::lease::record::LeaseRecord;
use crate::recipes::lease::wait::{is_unreadable, passes, poll_interval, unreadable};
use crate::recipes::record::RecipeKey;

/// The TTL of a ticket's delete marker. It is as short as possible, so that a new watch receives few of them.
const TICKET_TOMBSTONE_TTL: Duration = Duration::from_secs(1);

/// The shortest delay after a failed attempt to create a ticket.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// A ticket in the wait queue. It is a lease, so a dead waiter does not block the queue without a limit.
struct Ticket {
    place: QueueEntry,
    lease: Lease,
}

/// The registration of a waiter in the local queue. It precedes the ticket, so that no message is missed.
struct QueueEntry {
    id: String,
    line: Arc<WaitQueue>,
    told: mpsc::UnboundedReceiver<WaiterEvent>,
}

impl Drop for QueueEntry {
    fn drop(&mut self) {
        self.line.unregister(&self.id);
    }
}

/// Returns whether a lock has waiters.
pub(crate) async fn has_waiters(claim: &AcquireRequest) -> Result<bool> {
    let mut records = claim.bucket.list(RecipeKey::parts(claim.key.recipe(), claim.key.name())).await?;
    while let Some(record) = records.next().await {
        match record {
            Ok(record) if QueuedTicket::of(&record, Instant::now()).is_some() => return Ok(true),
            // An unreadable record is not a ticket.
            Err(error) if !is_unreadable(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(false)
}

/// Waits until the lease is handed over to this waiter, or until the lease is free and this waiter is the first, and
/// takes the lease. A waiter that is not fair also takes a lease that has been free for long, ahead of the first
/// waiter.
pub(crate) async fn wait(claim: AcquireRequest, line: Arc<WaitQueue>, fair: bool) -> Result<Lease> {
    let longest = || poll_interval(claim.times.ttl);
    let mut ticket = match Ticket::create(&line, &claim).await {
        // A fair lock makes its first attempt here. Other locks have made it already.
        Err(error) if claim.retry_transient && (passes(&error) || (!fair && claim.waits_out(&error))) => {
            Ticket::recreate(&line, &claim).await?
        }
        drawn => drawn?,
    };
    let mut look = Instant::now() + longest();
    loop {
        let told = tokio::select! {
            biased;
            told = ticket.place.told.recv() => told,
            () = ticket.lease.lost() => None,
            () = sleep_until(look) => {
                // Only events of the lease defer the check. The tickets of other waiters cause events all the time.
                let (now, later) = (Instant::now(), line.last_lease_event().map(|heard| heard + longest()));
                if let Some(later) = later.filter(|later| *later > now) {
                    look = later;
                    continue;
                }
                look = now + longest();
                let Ticket { place: QueueEntry { id, line, told }, .. } = &mut ticket;
                tokio::select! {
                    biased;
                    // A lease that is handed over during the check does not wait for the reply.
                    told = told.recv() => told,
                    free = check_lease(&claim, id, line, fair) => match free? {
                        Some(over) => Some(WaiterEvent::LeaseFree(over)),
                        None if ticket.is_spent() => None,
                        None => continue,
                    },
                }
            }
        };
        let attempt = match told {
            Some(WaiterEvent::LeaseFree(over)) => match ticket.of(&claim).try_acquire(over).await {
                // Another process was faster. The watch reports it.
                AcquireOutcome::Contended if !ticket.is_spent() => continue,
                AcquireOutcome::Failed(error) if claim.waits_out(&error) && !ticket.is_spent() => continue,
                attempt => attempt,
            },
            Some(WaiterEvent::Granted(attempt)) => attempt,
            Some(WaiterEvent::Failed(error)) => AcquireOutcome::Failed(error),
            Some(WaiterEvent::Subscribed) => continue,
            Some(WaiterEvent::Unsubscribed) => {
                line.ensure_watching(&claim);
                continue;
            }
            // The ticket is lost.
            None => AcquireOutcome::Contended,
        };
        match attempt {
            AcquireOutcome::Acquired(lease) if lease.is_held() => return Ok(lease),
            AcquireOutcome::Failed(error) if !claim.waits_out(&error) => return Err(error),
            // The lease was handed over so long ago that it has ended.
            AcquireOutcome::Acquired(_) | AcquireOutcome::Failed(_) | AcquireOutcome::Contended => {
                ticket = Ticket::recreate(&line, &claim).await?
            }
        }
    }
}

impl Ticket {
    /// Creates another ticket, without a time limit. The user's time limit bounds the wait.
    async fn recreate(line: &Arc<WaitQueue>, claim: &AcquireRequest) -> Result<Self> {
        loop {
            match Self::create(line, claim).await {
                Err(error) if claim.waits_out(&error) => {
                    claim.progress.fails(&error);
                    sleep(RETRY_DELAY + crate::chance::uniform_duration(RETRY_DELAY)).await;
                }
                drawn => return drawn,
            }
        }
    }

    /// Creates a ticket once the watch has started. Without a watch, this process would miss a lease that is handed
    /// over to the ticket.
    async fn create(line: &Arc<WaitQueue>, claim: &AcquireRequest) -> Result<Self> {
        let (id, told, mut listens) = line.register(claim);
        let mut place = QueueEntry { id, line: Arc::clone(line), told };
        while !listens {
            match place.told.recv().await {
                Some(WaiterEvent::Subscribed) => listens = true,
                Some(WaiterEvent::Failed(error)) => return Err(error),
                Some(WaiterEvent::Unsubscribed) => line.ensure_watching(claim),
                _ => return Err(Error::new(ErrorKind::Closed)),
            }
        }
        if let Some(error) = line.unreadable() {
            return Err(error);
        }
        let holding = LeaseRecord {
            requested_ttl_ms: Some(claim.times.ttl.as_millis().try_into().unwrap_or(u64::MAX)),
            ..LeaseRecord::new(claim.holding.owner.clone(), claim.holding.note.clone(), None)
        };
        let key = claim.key.sibling(ticket_part(&place.id));
        // The ticket has separate progress, because its attempts are not attempts at the lock.
        let times = claim.times.of_ticket();
        let ticket = AcquireRequest::new(claim.bucket.clone(), key, claim.name.clone(), holding, times);
        let ticket = AcquireRequest { marker: TICKET_TOMBSTONE_TTL, ..ticket };
        match ticket.try_acquire(ExpectedTombstone::Unknown).await {
            AcquireOutcome::Acquired(lease) => {
                // A task holds the ticket, and proceeds whether its caller polls or not.
                lease.start_renewal();
                line.ticket_created(&place.id, lease.state());
                Ok(Self { place, lease })
            }
            AcquireOutcome::Failed(error) => Err(error),
            // The key contains a unique id.
            AcquireOutcome::Contended => Err(Error::new(ErrorKind::AlreadyExists)),
        }
    }

    /// Returns the claim with the id of this ticket, which other processes recognize.
    fn of(&self, claim: &AcquireRequest) -> AcquireRequest {
        AcquireRequest { ticket: Some(self.place.id.clone()), ..claim.clone() }
    }

    /// Returns whether the lease was taken with this ticket without a local holder, for example by an attempt with an
    /// unknown outcome.
    fn is_spent(&self) -> bool {
        self.place.line.is_already_served(&self.place.id)
    }
}

/// Reads the lease. Returns how to take it, if it is free and this waiter may take it.
async fn check_lease(
    claim: &AcquireRequest,
    id: &str,
    line: &Arc<WaitQueue>,
    fair: bool,
) -> Result<Option<ExpectedTombstone>> {
    match claim.bucket.get(&claim.key).read(Read::Leader).await {
        Ok(Some(entry)) => {
            // If the lease was handed over to this waiter, the message follows.
            line.on_lease_seen(claim, &entry);
            Ok(None)
        }
        Ok(None) => Ok((!fair || line.is_first(id)).then_some(ExpectedTombstone::Unknown)),
        Err(error) if is_unreadable(&error) => Err(unreadable(error, claim)),
        Err(error) if claim.gives_up_on(&error) => Err(error),
        // The holder is unknown until the next check.
        Err(_) => Ok(None),
    }
}
