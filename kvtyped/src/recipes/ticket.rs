//! A place in the line for a lock, and the wait there.

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

/// How long the marker of a ticket stays: as short as it can be, so that who begins to watch is told of few.
const MARKER: Duration = Duration::from_secs(1);

/// How long one rests who could not draw a ticket.
const REST: Duration = Duration::from_millis(200);

/// A place in the line: a lease itself, so that who dies while waiting does not hold up the others for ever.
struct Ticket {
    place: Place,
    lease: Lease,
}

/// Where one hears what concerns a ticket, from before it is drawn.
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

/// Whether anybody waits for a lock.
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

/// Waits until the lease is handed on to it, or is free and it is the first, and takes it. One that does not insist on its
/// order takes a lease that has been free for long, whoever comes first.
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
                // Only what is heard of the lease puts off the look: those who wait with us are heard of all the time.
                let (now, later) = (Instant::now(), line.heard().map(|heard| heard + longest()));
                if let Some(later) = later.filter(|later| *later > now) {
                    look = later;
                    continue;
                }
                look = now + longest();
                let Ticket { place: Place { id, line, told }, .. } = &mut ticket;
                tokio::select! {
                    biased;
                    // What is handed on meanwhile does not wait for the answer.
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
                // Somebody was faster: the watch tells of it, or has.
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
            // The place is lost.
            None => Attempt::Refused,
        };
        match attempt {
            Attempt::Taken(lease) if lease.is_held() => return Ok(lease),
            Attempt::Failed(error) if !claim.waits_out(&error) => return Err(error),
            // It was handed on so long ago that it is lost by now.
            Attempt::Taken(_) | Attempt::Failed(_) | Attempt::Refused => {
                ticket = Ticket::draw_again(&line, &claim).await?
            }
        }
    }
}

impl Ticket {
    /// Draws another ticket, however long that takes: the time that its user gave bounds it.
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

    /// Draws a ticket, once somebody listens: nobody is to hand the lease on to one who does not hear of it.
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
        // With a progress of its own: its attempts are none at the lock.
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
            // Its key has a name that nothing else has.
            Attempt::Refused => Err(Error::new(ErrorKind::AlreadyExists)),
        }
    }

    /// The claim that others know to be of this ticket.
    fn of(&self, claim: &Claim) -> Claim {
        Claim { ticket: Some(self.place.id.clone()), ..claim.clone() }
    }

    /// Whether the lease was taken by it, without anybody here who knows: by an attempt whose outcome was unknown, say.
    fn is_spent(&self) -> bool {
        self.place.line.is_spent(&self.place.id)
    }
}

/// Looks whose the lease is; tells how to take it, if it is nobody's and this one may.
async fn look_for(claim: &Claim, id: &str, line: &Arc<Line>, fair: bool) -> Result<Option<Over>> {
    match claim.bucket.get(&claim.key).read(Read::Leader).await {
        Ok(Some(entry)) => {
            // If it was handed on to this one, that is told in a moment.
            line.saw(claim, &entry);
            Ok(None)
        }
        Ok(None) => Ok((!fair || line.is_first(id)).then_some(Over::Nothing)),
        Err(error) if is_unreadable(&error) => Err(unreadable(error, claim)),
        Err(error) if claim.gives_up_on(&error) => Err(error),
        // Nobody knows: the next look may.
        Err(_) => Ok(None),
    }
}
