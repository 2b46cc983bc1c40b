//! A ticket in the wait queue of a lock, and the wait for the lock.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::holding::Holding;
use super::lease::Lease;
use super::line::{Line, Told};
use super::queue::{Waits, part_of};
use super::slot::SlotKey;
use super::tenure::{Attempt, Claim, Over};
use super::wait::{is_unreadable, passes, patience, unreadable};
use crate::backend::Read;
use crate::error::{Error, ErrorKind, Result};

/// The TTL of a ticket's delete marker. It is as short as possible, so that a new watch receives few of them.
const MARKER: Duration = Duration::from_secs(1);

/// The shortest delay after a failed attempt to create a ticket.
const REST: Duration = Duration::from_millis(200);

/// A ticket in the wait queue. It is a lease, so a dead waiter does not block the queue without a limit.
struct Ticket {
    place: Place,
    lease: Lease,
}

/// The registration of a waiter in the local queue. It precedes the ticket, so that no message is missed.
struct Place {
    id: String,
    line: Arc<Line>,
    told: mpsc::UnboundedReceiver<Told>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.line.leave(&self.id);
    }
}

/// Returns whether a lock has waiters.
pub(super) async fn anybody_waits(claim: &Claim) -> Result<bool> {
    let mut records = claim.bucket.list(SlotKey::parts(claim.key.recipe(), claim.key.name())).await?;
    while let Some(record) = records.next().await {
        match record {
            Ok(record) if Waits::of(&record, Instant::now()).is_some() => return Ok(true),
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
pub(super) async fn wait(claim: Claim, line: Arc<Line>, fair: bool) -> Result<Lease> {
    let longest = || patience(claim.times.ttl);
    let mut ticket = match Ticket::draw(&line, &claim).await {
        // A fair lock makes its first attempt here. Other locks have made it already.
        Err(error) if claim.patient && (passes(&error) || (!fair && claim.waits_out(&error))) => {
            Ticket::draw_again(&line, &claim).await?
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
                let (now, later) = (Instant::now(), line.heard().map(|heard| heard + longest()));
                if let Some(later) = later.filter(|later| *later > now) {
                    look = later;
                    continue;
                }
                look = now + longest();
                let Ticket { place: Place { id, line, told }, .. } = &mut ticket;
                tokio::select! {
                    biased;
                    // A lease that is handed over during the check does not wait for the reply.
                    told = told.recv() => told,
                    free = look_for(&claim, id, line, fair) => match free? {
                        Some(over) => Some(Told::Free(over)),
                        None if ticket.is_spent() => None,
                        None => continue,
                    },
                }
            }
        };
        let attempt = match told {
            Some(Told::Free(over)) => match ticket.of(&claim).attempt(over).await {
                // Another process was faster. The watch reports it.
                Attempt::Refused if !ticket.is_spent() => continue,
                Attempt::Failed(error) if claim.waits_out(&error) && !ticket.is_spent() => continue,
                attempt => attempt,
            },
            Some(Told::Tried(attempt)) => attempt,
            Some(Told::Failed(error)) => Attempt::Failed(error),
            Some(Told::Listens) => continue,
            Some(Told::Deaf) => {
                line.listen_again(&claim);
                continue;
            }
            // The ticket is lost.
            None => Attempt::Refused,
        };
        match attempt {
            Attempt::Taken(lease) if lease.is_held() => return Ok(lease),
            Attempt::Failed(error) if !claim.waits_out(&error) => return Err(error),
            // The lease was handed over so long ago that it has ended.
            Attempt::Taken(_) | Attempt::Failed(_) | Attempt::Refused => {
                ticket = Ticket::draw_again(&line, &claim).await?
            }
        }
    }
}

impl Ticket {
    /// Creates another ticket, without a time limit. The user's time limit bounds the wait.
    async fn draw_again(line: &Arc<Line>, claim: &Claim) -> Result<Self> {
        loop {
            match Self::draw(line, claim).await {
                Err(error) if claim.waits_out(&error) => {
                    claim.progress.fails(&error);
                    sleep(REST + crate::chance::up_to(REST)).await;
                }
                drawn => return drawn,
            }
        }
    }

    /// Creates a ticket once the watch has started. Without a watch, this process would miss a lease that is handed
    /// over to the ticket.
    async fn draw(line: &Arc<Line>, claim: &Claim) -> Result<Self> {
        let (id, told, mut listens) = line.enter(claim);
        let mut place = Place { id, line: Arc::clone(line), told };
        while !listens {
            match place.told.recv().await {
                Some(Told::Listens) => listens = true,
                Some(Told::Failed(error)) => return Err(error),
                Some(Told::Deaf) => line.listen_again(claim),
                _ => return Err(Error::new(ErrorKind::Closed)),
            }
        }
        if let Some(error) = line.unreadable() {
            return Err(error);
        }
        let holding = Holding {
            wants: Some(claim.times.ttl.as_millis().try_into().unwrap_or(u64::MAX)),
            ..Holding::new(claim.holding.owner.clone(), claim.holding.note.clone(), None)
        };
        let key = claim.key.beside(part_of(&place.id));
        // The ticket has separate progress, because its attempts are not attempts at the lock.
        let times = claim.times.of_ticket();
        let ticket = Claim::new(claim.bucket.clone(), key, claim.name.clone(), holding, times);
        let ticket = Claim { marker: MARKER, ..ticket };
        match ticket.attempt(Over::Nothing).await {
            Attempt::Taken(lease) => {
                // A task holds the ticket, and proceeds whether its caller polls or not.
                lease.start_renewal();
                line.drew(&place.id, lease.state());
                Ok(Self { place, lease })
            }
            Attempt::Failed(error) => Err(error),
            // The key contains a unique id.
            Attempt::Refused => Err(Error::new(ErrorKind::AlreadyExists)),
        }
    }

    /// Returns the claim with the id of this ticket, which other processes recognize.
    fn of(&self, claim: &Claim) -> Claim {
        Claim { ticket: Some(self.place.id.clone()), ..claim.clone() }
    }

    /// Returns whether the lease was taken with this ticket without a local holder, for example by an attempt with an
    /// unknown outcome.
    fn is_spent(&self) -> bool {
        self.place.line.is_spent(&self.place.id)
    }
}

/// Reads the lease. Returns how to take it, if it is free and this waiter may take it.
async fn look_for(claim: &Claim, id: &str, line: &Arc<Line>, fair: bool) -> Result<Option<Over>> {
    match claim.bucket.get(&claim.key).read(Read::Leader).await {
        Ok(Some(entry)) => {
            // If the lease was handed over to this waiter, the message follows.
            line.saw(claim, &entry);
            Ok(None)
        }
        Ok(None) => Ok((!fair || line.is_first(id)).then_some(Over::Nothing)),
        Err(error) if is_unreadable(&error) => Err(unreadable(error, claim)),
        Err(error) if claim.gives_up_on(&error) => Err(error),
        // The holder is unknown until the next check.
        Err(_) => Ok(None),
    }
}
