//! The life of a lease: it is taken, renewed, and given back or lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::fence::{self, FENCE, Fence, Fencing};
use super::holding::Holding;
use super::lease::{Lease, Shown};
use super::line::{Held, Line, Next};
use super::place::check_room;
use super::progress::Progress;
use super::slot::{Slot, SlotKey};
use super::times::Times;
use super::wait::passes;
use crate::backend::{Backoff, Deadline, Read};
use crate::bucket::{Bucket, Entry};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::key::ModelKey;
use crate::revision::Revision;

/// Where a lease is.
#[derive(Debug, Clone, Copy)]
pub(super) enum State {
    /// It is valid until then, unless it is renewed, by the write of this revision.
    Held { until: Instant, revision: Revision },
    /// Another has it, or nobody, or the time has passed.
    Lost,
    /// It was given back.
    Released,
}

/// What its holder wants of it. That nobody can want anything any more is a release, too.
pub(super) enum Order {
    Renew(oneshot::Sender<Result<()>>),
    Say(Option<Value>, oneshot::Sender<Result<()>>),
    /// End it by leaving this value in its place, for so long or for ever.
    Finish(Value, Option<Duration>, oneshot::Sender<Result<()>>),
    Release(oneshot::Sender<Result<()>>),
}

/// What its holder wants, as it comes; closed, when the holder let go of it.
type Orders = mpsc::UnboundedReceiver<Order>;

/// What is wanted of a lease before it is there.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) bucket: Bucket<Slot<Holding>>,
    pub(super) key: SlotKey,
    pub(super) name: String,
    pub(super) holding: Holding,
    pub(super) times: Times,
    /// Whether a fence is written with it, on which writes of this bucket can stand.
    pub(super) fenced: bool,
    /// How long the marker stays by which others hear that it was given back.
    pub(super) marker: Duration,
    /// The line of those to whom it is handed on.
    pub(super) line: Option<Arc<Line>>,
    /// The ticket by which one stood there.
    pub(super) ticket: Option<String>,
    /// What came of the attempts so far.
    pub(super) progress: Arc<Progress>,
    /// Whether the user bounds the wait. If so, the wait continues after errors that an administrator may undo.
    pub(super) patient: bool,
}

/// Over what a lease is taken.
#[derive(Debug, Clone, Copy)]
pub(super) enum Over {
    /// Whatever there is: that is found out.
    Nothing,
    /// The marker of this revision, if it is still there: one write.
    Remembered(Revision),
    /// The marker of this revision, of which a watch has just told: who is too late hears of that soon enough.
    Told(Revision),
}

/// What came of an attempt to take a lease.
#[derive(Debug)]
pub(super) enum Attempt {
    Taken(Lease),
    /// Another has it.
    Refused,
    Failed(Error),
}

impl Claim {
    /// One that nobody fences and for which nobody stands in line.
    pub(super) fn new(
        bucket: Bucket<Slot<Holding>>,
        key: SlotKey,
        name: String,
        holding: Holding,
        times: Times,
    ) -> Self {
        let (marker, progress) = (times.ttl, Arc::default());
        Self {
            bucket,
            key,
            name,
            holding,
            times,
            fenced: false,
            marker,
            line: None,
            ticket: None,
            progress,
            patient: false,
        }
    }

    /// Tries once to take the lease, within the time of an operation.
    ///
    /// # Cancel safety
    ///
    /// A lease that is taken while nobody waits for it any more is given back; also one of which nobody could say whether it
    /// was taken.
    pub(super) async fn attempt(mut self, over: Over) -> Attempt {
        // Lest it takes for its own what an earlier attempt has left, or what that still gives back takes its own.
        self.holding = self.holding.anew();
        if let Some(ticket) = &self.ticket {
            self.holding.id = format!("{ticket}.{}", self.holding.id);
        }
        let (witness, taken) = oneshot::channel();
        let progress = Arc::clone(&self.progress);
        progress.begins();
        tokio::spawn(async move {
            let deadline = self.deadline();
            let attempt = match self.take(over, deadline).await {
                Ok(Some(taken)) => self.keep(taken, deadline).await,
                Ok(None) => Attempt::Refused,
                Err(error) if error.outcome() == Outcome::Unknown => {
                    let _ = witness.send(Attempt::Failed(error));
                    return self.take_back(true).await;
                }
                Err(error) => Attempt::Failed(error),
            };
            // If nobody waits any more, what was taken is dropped here, and so given back.
            let _ = witness.send(attempt);
        });
        let attempt = taken.await.unwrap_or_else(|_| Attempt::Failed(Error::new(ErrorKind::Closed)));
        progress.ends(&attempt);
        attempt
    }

    /// Until when an attempt may go on: an answer that comes after the lease has ended is none.
    pub(super) fn deadline(&self) -> Deadline {
        Deadline::after(self.bucket.timeout().min(self.times.valid()))
    }

    /// Until when one look at it may go on.
    fn look_until(&self) -> Deadline {
        Deadline::after(self.times.attempt())
    }

    /// Looks for a lease that nobody holds, and that would keep the others out for as long as it lives, and removes it: one
    /// of which nobody knows whether it was taken, or will be (`may_come`), or given back.
    async fn take_back(self, may_come: bool) {
        let Self { bucket, key, times, marker, .. } = &self;
        let deadline = Deadline::after(times.ttl);
        let mut backoff = Backoff::outage();
        while backoff.pause(deadline).await {
            let revision = match self.look(key, deadline).await {
                Ok(Some(revision)) => revision,
                Ok(None) if !may_come => return,
                // The store was closed, say.
                Err(error) if !passes(&error) => return,
                Ok(None) | Err(_) => continue,
            };
            match bucket.purge(key).if_revision(revision).ttl(*marker).await {
                // The next look says whether that was a renewal that came late.
                Err(_) => {}
                Ok(_) => return,
            }
        }
    }

    /// Begins the tenure of a lease that has its name, with its fence.
    pub(super) async fn keep(self, taken: Taken, deadline: Deadline) -> Attempt {
        match self.fence(&taken, deadline).await {
            Ok(fencing) => Attempt::Taken(self.begin(taken, fencing)),
            Err(error) => {
                // Dropped at once, so it is given back.
                drop(self.begin(taken, None));
                match error.kind() {
                    // Lost again before its fence was written.
                    ErrorKind::Fenced => Attempt::Refused,
                    _ => Attempt::Failed(error),
                }
            }
        }
    }

    async fn take(&self, mut over: Over, deadline: Deadline) -> Result<Option<Taken>> {
        let Self { bucket, key, holding, times, .. } = self;
        check_room(bucket).await?;
        let slot = Slot { key: key.clone(), value: holding.clone() };
        loop {
            let sent = Instant::now();
            let timeout = self.before_a_look(deadline);
            let written = match over {
                Over::Nothing => bucket.create(&slot).ttl(times.ttl).timeout(timeout).await,
                Over::Remembered(marker) | Over::Told(marker) => {
                    bucket.update(&slot, marker).ttl(times.ttl).timeout(timeout).await
                }
            };
            let revision = match written {
                Ok(revision) => revision,
                Err(error) if error.is_conflict() => match (over, error.kind()) {
                    (Over::Remembered(_), _)
                    | (Over::Told(_), ErrorKind::Conflict { actual: Some(Revision::ZERO), .. }) => {
                        over = Over::Nothing;
                        continue;
                    }
                    _ => return Ok(None),
                },
                Err(error) if error.outcome() == Outcome::Unknown => match self.look(key, deadline).await {
                    Ok(Some(revision)) => revision,
                    _ => return Err(error),
                },
                Err(error) => return Err(error),
            };
            return Ok(Some(Taken { revision, sent }));
        }
    }

    /// Writes the fence of the tenure. The server takes it from the holder of the lease only.
    async fn fence(&self, taken: &Taken, deadline: Deadline) -> Result<Option<Fencing>> {
        let Self { bucket, key, holding, times, fenced, .. } = self;
        let in_time = || match taken.sent + times.valid() > Instant::now() {
            true => Ok(()),
            false => Err(Error::timeout(times.valid())),
        };
        in_time()?;
        if !fenced {
            return Ok(None);
        }
        let at = key.beside(FENCE);
        let slot = Slot { key: at.clone(), value: holding.clone() };
        let lease = bucket.standing(key.encode()?, taken.revision);
        let (life, sent) = (fence::life(times.ttl, bucket.config().ttl), Instant::now());
        let put = bucket.put(&slot).ttl(life).standing_on(Some(Ok(lease))).timeout(self.before_a_look(deadline));
        let revision = match put.await {
            Ok(revision) => revision,
            Err(error) if error.outcome() == Outcome::Unknown => self.look(&at, deadline).await?.ok_or(error)?,
            Err(error) => return Err(error),
        };
        // A guard that is lost when it is given is none.
        in_time()?;
        let standing = bucket.standing(at.encode()?, revision);
        Ok(Some(Fencing { at, revision, standing, until: fence::until(sent, life) }))
    }

    /// How long a write may take, so that there is time for a look if no answer comes.
    fn before_a_look(&self, deadline: Deadline) -> Duration {
        let left = deadline.remaining();
        left - self.times.attempt().min(left / 4)
    }

    /// The revision of the lease, or its fence, if it is this holder's.
    async fn look(&self, key: &SlotKey, deadline: Deadline) -> Result<Option<Revision>> {
        Ok(self.find(key, deadline).await?.map(|entry| entry.revision()))
    }

    /// The lease, or its fence, as it is stored, if it is this holder's.
    async fn find(&self, key: &SlotKey, deadline: Deadline) -> Result<Option<Entry<Slot<Holding>>>> {
        let timeout = self.times.attempt().min(deadline.remaining());
        let entry = self.bucket.get(key).read(Read::Leader).timeout(timeout).await?;
        Ok(entry.filter(|entry| entry.value.id == self.holding.id))
    }

    pub(super) fn begin(mut self, taken: Taken, fencing: Option<Fencing>) -> Lease {
        let Taken { revision, sent } = taken;
        let until = within_fence(sent + self.times.valid(), fencing.as_ref());
        let shown = Shown {
            name: self.name.clone(),
            bucket: self.bucket.name().to_owned(),
            key: self.key.to_string(),
            fence: Fence::new(revision.get()),
            fencing: fencing.clone(),
            times: self.times,
            timeout: self.bucket.timeout(),
        };
        self.holding.term = Some(revision.get());
        let (state, seen) = watch::channel(State::Held { until, revision });
        let (orders, received) = mpsc::unbounded_channel();
        let held = self.line.as_ref().map(|line| line.hold(revision));
        let in_hand = Arc::<AtomicBool>::default();
        let tenure = Tenure {
            claim: self,
            fencing,
            term: revision,
            revision,
            doubted: false,
            sent,
            until,
            state,
            held,
            in_hand: Arc::clone(&in_hand),
        };
        tokio::spawn(tenure.keep(received));
        Lease::new(shown, seen, orders, in_hand)
    }
}

/// A lease that was just taken, or handed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) revision: Revision,
    /// No later than the server began to count.
    pub(super) sent: Instant,
}

/// A lease while it lasts.
struct Tenure {
    claim: Claim,
    fencing: Option<Fencing>,
    /// Of its first write.
    term: Revision,
    /// Of the last write of the lease that is known.
    revision: Revision,
    /// A write of the lease may have been applied, or not.
    doubted: bool,
    /// When the last renewal that counts was sent.
    sent: Instant,
    until: Instant,
    state: watch::Sender<State>,
    /// Tells this process that it is held here.
    held: Option<Held>,
    /// Whether the caller has the guard, so that the keeper renews the lease.
    in_hand: Arc<AtomicBool>,
}

impl Tenure {
    async fn keep(mut self, mut orders: Orders) {
        let mut due = self.sent + self.claim.times.renewal();
        let end = loop {
            tokio::select! {
                biased;
                order = orders.recv() => {
                    let (renewed, reply) = match order {
                        None => {
                            let released = self.release().await;
                            self.make_sure_of(&released);
                            break State::Released;
                        }
                        Some(Order::Release(reply)) => {
                            let released = self.release().await;
                            self.make_sure_of(&released);
                            let _ = reply.send(released);
                            break State::Released;
                        }
                        Some(Order::Renew(reply)) => (self.renew(&orders).await, reply),
                        Some(Order::Finish(value, keep, reply)) => {
                            let finished = self.finish(value, keep).await;
                            let end = match &finished {
                                Ok(()) => State::Released,
                                Err(error) if error.outcome() == Outcome::Unknown || is_lost(&finished) => State::Lost,
                                // Nothing of the value is there, and nothing will be.
                                Err(_) => {
                                    let _ = self.release().await;
                                    State::Released
                                }
                            };
                            let _ = reply.send(finished);
                            break end;
                        }
                        Some(Order::Say(value, reply)) => (self.say(value, &orders).await, reply),
                    };
                    due = self.after(&renewed);
                    let lost = is_lost(&renewed);
                    let _ = reply.send(renewed);
                    if lost {
                        break State::Lost;
                    }
                }
                () = sleep_until(due.min(self.until)) => {
                    if self.until <= Instant::now() {
                        break State::Lost;
                    }
                    // A future that is not polled never receives its lease, so the lease must expire.
                    if !self.in_hand.load(Ordering::Relaxed) {
                        due = Instant::now() + self.claim.times.retry();
                        continue;
                    }
                    let renewed = self.renew(&orders).await;
                    due = self.after(&renewed);
                    if is_lost(&renewed) {
                        break State::Lost;
                    }
                }
            }
        };
        self.state.send_replace(end);
    }

    /// When the next renewal is due.
    fn after(&self, renewed: &Result<()>) -> Instant {
        match renewed {
            Ok(()) => self.sent + self.claim.times.renewal(),
            Err(_) => Instant::now() + self.claim.times.retry(),
        }
    }

    /// Tries once to renew it.
    ///
    /// # Errors
    ///
    /// `Lost` if it is another's by now, or gone; any other error leaves it as it was.
    async fn renew(&mut self, orders: &Orders) -> Result<()> {
        let Times { ttl, .. } = self.claim.times;
        loop {
            if self.doubted {
                self.look().await?;
                // Its holder let go of it meanwhile: nothing is written but its end.
                if orders.is_closed() {
                    return Err(Error::new(ErrorKind::Closed));
                }
            }
            let sent = Instant::now();
            let timeout = self.claim.times.attempt().min(self.until.saturating_duration_since(sent));
            if timeout.is_zero() {
                return Err(Error::new(ErrorKind::Lost));
            }
            let slot = Slot { key: self.claim.key.clone(), value: self.claim.holding.clone() };
            match self.claim.bucket.update(&slot, self.revision).ttl(ttl).timeout(timeout).await {
                Ok(revision) => {
                    self.revision = revision;
                    self.sent = sent;
                    self.until = within_fence(sent + self.claim.times.valid(), self.fencing.as_ref());
                    self.state.send_replace(State::Held { until: self.until, revision });
                    return Ok(());
                }
                // Ours all the same, if a write of ours came late; `look` says.
                Err(error) if error.is_conflict() => self.doubted = true,
                Err(error) => {
                    self.doubted |= error.outcome() == Outcome::Unknown;
                    return Err(lost_for_good(error));
                }
            }
        }
    }

    /// Renews it with another value. One that is surely not written is not said with a later renewal either.
    async fn say(&mut self, value: Option<Value>, orders: &Orders) -> Result<()> {
        let before = self.claim.holding.clone();
        self.claim.holding.value = value;
        self.claim.holding.said += 1;
        let renewed = self.renew(orders).await;
        if renewed.as_ref().is_err_and(|error| error.outcome() == Outcome::NotApplied) {
            self.claim.holding = before;
        }
        renewed
    }

    /// Leaves a value in the place of the lease, if it still has that: tries for as long as it is valid.
    async fn finish(&mut self, value: Value, keep: Option<Duration>) -> Result<()> {
        let holding = &mut self.claim.holding;
        holding.value = Some(value);
        holding.said += 1;
        let said = holding.said;
        let Claim { bucket, key, holding, times, .. } = self.claim.clone();
        let mut slot = Slot { key, value: holding };
        // Whether a write of the value may have been applied.
        let mut sent = false;
        loop {
            let tried = async {
                if self.doubted {
                    match self.claim.find(&slot.key, self.claim.look_until()).await? {
                        Some(entry) if entry.value.said == said => return Ok(()),
                        Some(entry) => {
                            self.revision = entry.revision();
                            slot.value.unknown = entry.into_value().value.unknown;
                        }
                        None => return Err(Error::new(ErrorKind::Lost)),
                    }
                    self.doubted = false;
                }
                let mut write = bucket.update(&slot, self.revision);
                if let Some(keep) = keep {
                    write = write.ttl(keep);
                }
                write.await.map(drop)
            };
            let Err(error) = tried.await else { return Ok(()) };
            sent |= error.outcome() == Outcome::Unknown;
            let passes = error.is_conflict() || error.is_retryable() || error.outcome() == Outcome::Unknown;
            self.doubted |= error.is_conflict() || error.outcome() == Outcome::Unknown;
            if !passes || self.until <= Instant::now() {
                let error = if error.is_conflict() { Error::new(ErrorKind::Lost).caused_by(error) } else { error };
                return Err(if sent { error.unknown_outcome() } else { error });
            }
            sleep_until(Instant::now() + times.retry()).await;
        }
    }

    /// Ends a doubt: asks the leader whose the lease is.
    async fn look(&mut self) -> Result<()> {
        match self.claim.find(&self.claim.key, self.claim.look_until()).await {
            Ok(Some(entry)) => {
                self.revision = entry.revision();
                self.claim.holding.unknown = entry.into_value().value.unknown;
                self.doubted = false;
                Ok(())
            }
            Ok(None) => Err(Error::new(ErrorKind::Lost)),
            Err(error) => Err(lost_for_good(error)),
        }
    }

    /// Hands it on, or removes it, and removes its fence, if they are still these.
    async fn release(&mut self) -> Result<()> {
        let unfence = self.fencing.take().map(|Fencing { at, revision, .. }| {
            let (Claim { bucket, times, .. }, timeout) = (self.claim.clone(), self.one_try());
            async move { bucket.purge(&at).if_revision(revision).ttl(times.ttl).timeout(timeout).await.map(drop) }
        });
        match unfence {
            // A fence that stays, or is another's by now, does no harm.
            Some(unfence) => futures::join!(self.give_up(), unfence).0,
            None => self.give_up().await,
        }
    }

    /// What could not be given back is, as soon as it can be.
    fn make_sure_of(&self, released: &Result<()>) {
        if released.as_ref().is_err_and(passes) {
            tokio::spawn(self.claim.clone().take_back(false));
        }
    }

    async fn give_up(&mut self) -> Result<()> {
        // A lease that was in doubt, and a release whose acknowledgement was lost, are looked at and tried once more.
        let mut tries = 0..3;
        let mut handing = true;
        loop {
            if self.doubted {
                self.look().await?;
            }
            let next = self.claim.line.as_ref().filter(|_| handing).and_then(|line| line.next(self.term));
            let handed = next.is_some();
            let given_up = match next {
                Some(next) => self.hand_on(next).await,
                None => self.remove().await,
            };
            let Err(error) = given_up else { return Ok(()) };
            if tries.next().is_none() {
                return Err(error);
            }
            if error.is_conflict() {
                self.doubted = true;
            } else if error.outcome() == Outcome::Unknown {
                match self.claim.look(&self.claim.key, self.claim.look_until()).await {
                    Ok(None) => return Ok(()),
                    Ok(Some(revision)) => self.revision = revision,
                    Err(_) => return Err(error),
                }
            } else if handed {
                // What the next one notes is too large, say.
                handing = false;
            } else {
                return Err(error);
            }
        }
    }

    /// How long one try to give it back may take: the time of an operation is for a second one, too, and a look in between.
    fn one_try(&self) -> Duration {
        self.claim.bucket.timeout() / 3
    }

    /// Writes another's name into it: that one has it from then on.
    async fn hand_on(&self, next: Next) -> Result<()> {
        let Claim { bucket, key, .. } = &self.claim;
        let slot = Slot { key: key.clone(), value: next.holding.clone() };
        let sent = Instant::now();
        let revision = bucket.update(&slot, self.revision).ttl(next.ttl).timeout(self.one_try()).await?;
        if let Some(line) = &self.claim.line {
            line.handed_on(&self.claim, &next, Taken { revision, sent });
        }
        Ok(())
    }

    async fn remove(&self) -> Result<()> {
        let Claim { bucket, key, marker, .. } = &self.claim;
        let purge = bucket.purge(key).if_revision(self.revision).ttl(*marker);
        let left = purge.timeout(self.one_try()).await?;
        if let Some(held) = &self.held {
            held.left(left);
        }
        Ok(())
    }
}

/// The end of a lease: its guard does not outlive its fence.
fn within_fence(until: Instant, fencing: Option<&Fencing>) -> Instant {
    fencing.map_or(until, |fencing| until.min(fencing.until))
}

fn is_lost(renewed: &Result<()>) -> bool {
    matches!(renewed, Err(error) if matches!(error.kind(), ErrorKind::Lost))
}

/// The error of a renewal; `Lost`, if no later one can do better.
fn lost_for_good(error: Error) -> Error {
    match error.kind() {
        ErrorKind::BucketNotFound | ErrorKind::HistoryRewound | ErrorKind::Closed => {
            Error::new(ErrorKind::Lost).caused_by(error)
        }
        _ => error,
    }
}
