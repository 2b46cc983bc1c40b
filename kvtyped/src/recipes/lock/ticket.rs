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
use crate::recipes::lease::outcome::AcquireOutcome;
use crate::recipes::lease::record::LeaseRecord;
use crate::recipes::lease::request::{AcquireRequest, ExpectedTombstone};
use crate::recipes::lease::wait::{is_unreadable, poll_interval, unreadable};
use crate::recipes::record::RecipeKey;

/// The TTL of a ticket's delete marker. It is as short as possible, so that a new watch receives few of them.
const TICKET_TOMBSTONE_TTL: Duration = Duration::from_secs(1);

/// The shortest delay after a failed attempt to create a ticket.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// A ticket in the wait queue. It is a lease, so a dead waiter does not block the queue without a limit.
struct Ticket {
    entry: QueueEntry,
    lease: Lease,
}

/// The registration of a waiter in the local queue. It precedes the ticket, so that no message is missed.
struct QueueEntry {
    id: String,
    queue: Arc<WaitQueue>,
    events: mpsc::UnboundedReceiver<WaiterEvent>,
}

impl Drop for QueueEntry {
    fn drop(&mut self) {
        self.queue.unregister(&self.id);
    }
}

/// Returns whether a lock has waiters.
pub(crate) async fn has_waiters(request: &AcquireRequest) -> Result<bool> {
    let mut records = request.bucket.list(RecipeKey::parts(request.key.recipe(), request.key.name())).await?;
    while let Some(record) = records.next().await {
        match record {
            Ok(record) if QueuedTicket::from_entry(&record, Instant::now()).is_some() => return Ok(true),
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
///
/// Three signals end the wait. The watch reports the lease, or a local holder hands it over, and a periodic read covers
/// a missed event. The read also serves a waiter behind a first ticket whose owner is dead.
pub(crate) async fn wait(request: AcquireRequest, queue: Arc<WaitQueue>, fair: bool) -> Result<Lease> {
    let poll_interval = || poll_interval(request.timing.ttl);
    let mut ticket = match Ticket::create(&queue, &request).await {
        // A fair lock makes its first attempt here. Other locks have made it already.
        Err(error) if request.retry_transient && (error.is_transient() || (!fair && request.waits_out(&error))) => {
            Ticket::recreate(&queue, &request).await?
        }
        created => created?,
    };
    let mut next_poll = Instant::now() + poll_interval();
    loop {
        let event = tokio::select! {
            biased;
            event = ticket.entry.events.recv() => event,
            () = ticket.lease.lost() => None,
            () = sleep_until(next_poll) => {
                // Only events of the lease defer the read. The tickets of other waiters cause events all the time.
                let (now, later) = (Instant::now(), queue.last_lease_event().map(|last| last + poll_interval()));
                if let Some(later) = later.filter(|later| *later > now) {
                    next_poll = later;
                    continue;
                }
                next_poll = now + poll_interval();
                let Ticket { entry: QueueEntry { id, queue, events }, .. } = &mut ticket;
                tokio::select! {
                    biased;
                    // A lease that is handed over during the read does not wait for the reply.
                    event = events.recv() => event,
                    free = check_lease(&request, id, queue, fair) => match free? {
                        Some(expected) => Some(WaiterEvent::LeaseFree(expected)),
                        None if ticket.is_spent() => None,
                        None => continue,
                    },
                }
            }
        };
        let outcome = match event {
            Some(WaiterEvent::LeaseFree(expected)) => match ticket.request(&request).try_acquire(expected).await {
                // Another process was faster. The watch reports it.
                AcquireOutcome::Contended if !ticket.is_spent() => continue,
                AcquireOutcome::Failed(error) if request.waits_out(&error) && !ticket.is_spent() => continue,
                outcome => outcome,
            },
            Some(WaiterEvent::Granted(outcome)) => outcome,
            Some(WaiterEvent::Failed(error)) => AcquireOutcome::Failed(error),
            Some(WaiterEvent::Subscribed) => continue,
            Some(WaiterEvent::Unsubscribed) => {
                queue.ensure_watching(&request);
                continue;
            }
            // The ticket is lost.
            None => AcquireOutcome::Contended,
        };
        match outcome {
            AcquireOutcome::Acquired(lease) if lease.is_held() => return Ok(lease),
            AcquireOutcome::Failed(error) if !request.waits_out(&error) => return Err(error),
            // The lease was handed over so long ago that it has ended.
            AcquireOutcome::Acquired(_) | AcquireOutcome::Failed(_) | AcquireOutcome::Contended => {
                ticket = Ticket::recreate(&queue, &request).await?
            }
        }
    }
}

impl Ticket {
    /// Creates another ticket, without a time limit. The user's time limit bounds the wait.
    async fn recreate(queue: &Arc<WaitQueue>, request: &AcquireRequest) -> Result<Self> {
        loop {
            match Self::create(queue, request).await {
                Err(error) if request.waits_out(&error) => {
                    request.status.failed(&error);
                    sleep(RETRY_DELAY + crate::jitter::uniform_duration(RETRY_DELAY)).await;
                }
                created => return created,
            }
        }
    }

    /// Creates a ticket once the watch has started. Without a watch, this process would miss a lease that is handed
    /// over to the ticket.
    async fn create(queue: &Arc<WaitQueue>, request: &AcquireRequest) -> Result<Self> {
        let (id, events, mut is_subscribed) = queue.register(request);
        let mut entry = QueueEntry { id, queue: Arc::clone(queue), events };
        while !is_subscribed {
            match entry.events.recv().await {
                Some(WaiterEvent::Subscribed) => is_subscribed = true,
                Some(WaiterEvent::Failed(error)) => return Err(error),
                Some(WaiterEvent::Unsubscribed) => queue.ensure_watching(request),
                _ => return Err(Error::new(ErrorKind::Closed)),
            }
        }
        if let Some(error) = queue.unreadable() {
            return Err(error);
        }
        let record = LeaseRecord {
            requested_ttl_ms: Some(request.timing.ttl.as_millis().try_into().unwrap_or(u64::MAX)),
            ..LeaseRecord::new(request.record.owner.clone(), request.record.note.clone(), None)
        };
        let key = request.key.sibling(ticket_part(&entry.id));
        // The ticket has a separate status, because its attempts are not attempts at the lock.
        let timing = request.timing.for_ticket();
        let ticket = AcquireRequest::new(request.bucket.clone(), key, request.name.clone(), record, timing);
        let ticket = AcquireRequest { tombstone_ttl: TICKET_TOMBSTONE_TTL, ..ticket };
        match ticket.try_acquire(ExpectedTombstone::Unknown).await {
            AcquireOutcome::Acquired(lease) => {
                // A task holds the ticket, and proceeds whether its caller polls or not.
                lease.start_renewal();
                queue.ticket_created(&entry.id, lease.state());
                Ok(Self { entry, lease })
            }
            AcquireOutcome::Failed(error) => Err(error),
            // The key contains a unique id.
            AcquireOutcome::Contended => Err(Error::new(ErrorKind::AlreadyExists)),
        }
    }

    /// Returns the request with the id of this ticket, which other processes recognize.
    fn request(&self, request: &AcquireRequest) -> AcquireRequest {
        AcquireRequest { ticket: Some(self.entry.id.clone()), ..request.clone() }
    }

    /// Returns whether the lease was taken with this ticket without a local holder, for example by an attempt with an
    /// unknown outcome.
    fn is_spent(&self) -> bool {
        self.entry.queue.is_already_served(&self.entry.id)
    }
}

/// Reads the lease. Returns how to take it, if it is free and this waiter may take it.
async fn check_lease(
    request: &AcquireRequest,
    id: &str,
    queue: &Arc<WaitQueue>,
    fair: bool,
) -> Result<Option<ExpectedTombstone>> {
    match request.bucket.get(&request.key).read(Read::Leader).await {
        Ok(Some(entry)) => {
            // If the lease was handed over to this waiter, the message follows.
            queue.on_lease_seen(request, &entry);
            Ok(None)
        }
        Ok(None) => Ok((!fair || queue.is_first(id)).then_some(ExpectedTombstone::Unknown)),
        Err(error) if is_unreadable(&error) => Err(unreadable(error, request)),
        Err(error) if request.gives_up_on(&error) => Err(error),
        // The holder is unknown until the next read.
        Err(_) => Ok(None),
    }
}
