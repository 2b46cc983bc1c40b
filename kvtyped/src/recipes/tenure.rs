//! The lifecycle of a lease: it is taken, renewed, and released or lost.

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

/// The state of a lease.
#[derive(Debug, Clone, Copy)]
pub(super) enum State {
    /// The lease is valid until this instant, unless it is renewed. `revision` is the revision of its last write.
    Held { until: Instant, revision: Revision },
    /// Another holder has the lease, or no holder has it, or its time has passed.
    Lost,
    /// The lease was released.
    Released,
}

/// A command of the holder to the lease keeper. A closed channel is a release, too.
pub(super) enum Order {
    Renew(oneshot::Sender<Result<()>>),
    Say(Option<Value>, oneshot::Sender<Result<()>>),
    /// Ends the lease by replacing its record with this value, for a limited time or without a limit.
    Finish(Value, Option<Duration>, oneshot::Sender<Result<()>>),
    Release(oneshot::Sender<Result<()>>),
}

/// The commands of the holder. The channel is closed when the holder drops the lease.
type Orders = mpsc::UnboundedReceiver<Order>;

/// A request for a lease.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) bucket: Bucket<Slot<Holding>>,
    pub(super) key: SlotKey,
    pub(super) name: String,
    pub(super) holding: Holding,
    pub(super) times: Times,
    /// Whether a fence is written with the lease, for fenced writes of this bucket.
    pub(super) fenced: bool,
    /// The TTL of the delete marker that notifies waiters of the release.
    pub(super) marker: Duration,
    /// The wait queue that the lease is handed over to.
    pub(super) line: Option<Arc<Line>>,
    /// The id of the ticket of this request in the wait queue.
    pub(super) ticket: Option<String>,
    /// The status of the attempts so far.
    pub(super) progress: Arc<Progress>,
    /// Whether the user bounds the wait. If so, the wait continues after errors that an administrator may undo.
    pub(super) patient: bool,
}

/// The expected state of the record that a lease replaces.
#[derive(Debug, Clone, Copy)]
pub(super) enum Over {
    /// The state is unknown: a live record refuses the attempt, and a delete marker does not.
    Nothing,
    /// The delete marker with this revision, if it still exists. Costs one write.
    Remembered(Revision),
    /// The delete marker with this revision, which a watch has just delivered. If another process is faster, the watch
    /// reports it soon enough.
    Told(Revision),
}

/// The outcome of an attempt to take a lease.
#[derive(Debug)]
pub(super) enum Attempt {
    Taken(Lease),
    /// Another holder has the lease.
    Refused,
    Failed(Error),
}

impl Claim {
    /// Creates a request without a fence and without a wait queue.
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

    /// Tries once to take the lease, within the timeout of an operation.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, a lease that is taken later is released. So is the lease of an attempt with an unknown
    /// outcome.
    pub(super) async fn attempt(mut self, over: Over) -> Attempt {
        // A fresh id distinguishes this attempt from earlier ones. Otherwise this attempt could mistake the record of
        // an earlier one for its own, or the pending release of an earlier one could remove this lease.
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
            // If the caller has left, the lease is dropped here, and so released.
            let _ = witness.send(attempt);
        });
        let attempt = taken.await.unwrap_or_else(|_| Attempt::Failed(Error::new(ErrorKind::Closed)));
        progress.ends(&attempt);
        attempt
    }

    /// Returns the deadline of an attempt. A reply is useless after the lease has ended.
    pub(super) fn deadline(&self) -> Deadline {
        Deadline::after(self.bucket.timeout().min(self.times.valid()))
    }

    /// Returns the deadline of one lookup.
    fn look_until(&self) -> Deadline {
        Deadline::after(self.times.attempt())
    }

    /// Finds and removes a lease that has no holder and that would block others for as long as it lives. Its write
    /// (`may_come` if that may still arrive) or its release had an unknown outcome, or its release failed.
    async fn take_back(self, may_come: bool) {
        let Self { bucket, key, times, marker, .. } = &self;
        let deadline = Deadline::after(times.ttl);
        let mut backoff = Backoff::outage();
        while backoff.pause(deadline).await {
            let revision = match self.look(key, deadline).await {
                Ok(Some(revision)) => revision,
                Ok(None) if !may_come => return,
                // For example, the store was closed.
                Err(error) if !passes(&error) => return,
                Ok(None) | Err(_) => continue,
            };
            match bucket.purge(key).if_revision(revision).ttl(*marker).await {
                // The next lookup shows whether the conflict was a renewal that arrived late.
                Err(_) => {}
                Ok(_) => return,
            }
        }
    }

    /// Starts the term of a lease that was written under this holder's id, and writes its fence.
    pub(super) async fn keep(self, taken: Taken, deadline: Deadline) -> Attempt {
        match self.fence(&taken, deadline).await {
            Ok(fencing) => Attempt::Taken(self.begin(taken, fencing)),
            Err(error) => {
                // Dropped at once, and so released.
                drop(self.begin(taken, None));
                match error.kind() {
                    // The lease was lost before its fence was written.
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

    /// Writes the fence of the term. The server accepts the fence only while the lease has the revision of `taken`.
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
        // A guard that is already lost must not be returned.
        in_time()?;
        let standing = bucket.standing(at.encode()?, revision);
        Ok(Some(Fencing { at, revision, standing, until: fence::until(sent, life) }))
    }

    /// Returns the timeout of a write. It leaves time for a lookup in case no reply arrives.
    fn before_a_look(&self, deadline: Deadline) -> Duration {
        let left = deadline.remaining();
        left - self.times.attempt().min(left / 4)
    }

    /// Returns the revision of the lease, or of its fence, if it belongs to this holder.
    async fn look(&self, key: &SlotKey, deadline: Deadline) -> Result<Option<Revision>> {
        Ok(self.find(key, deadline).await?.map(|entry| entry.revision()))
    }

    /// Returns the stored lease, or its fence, if it belongs to this holder.
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

/// A lease that was just written, or handed over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) revision: Revision,
    /// No later than the start of the TTL on the server.
    pub(super) sent: Instant,
}

/// The keeper of a lease.
struct Tenure {
    claim: Claim,
    fencing: Option<Fencing>,
    /// The revision of the first write of the term.
    term: Revision,
    /// The revision of the last write of the lease that was observed.
    revision: Revision,
    /// Whether a write of the lease has an unknown outcome.
    doubted: bool,
    /// When the last acknowledged renewal was sent.
    sent: Instant,
    until: Instant,
    state: watch::Sender<State>,
    /// Records in this process that the lease is held here.
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
                                // The value is not stored, and will not be.
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

    /// Returns when the next renewal is due.
    fn after(&self, renewed: &Result<()>) -> Instant {
        match renewed {
            Ok(()) => self.sent + self.claim.times.renewal(),
            Err(_) => Instant::now() + self.claim.times.retry(),
        }
    }

    /// Tries once to renew the lease.
    ///
    /// # Errors
    ///
    /// Returns `Lost` if another holder has the lease, or if the record is missing. After any other error the lease is
    /// unchanged.
    async fn renew(&mut self, orders: &Orders) -> Result<()> {
        let Times { ttl, .. } = self.claim.times;
        loop {
            if self.doubted {
                self.look().await?;
                // The holder dropped the lease during the lookup. Only the release may be written now.
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
                // A write of this holder that arrived late also causes a conflict. `look` finds out.
                Err(error) if error.is_conflict() => self.doubted = true,
                Err(error) => {
                    self.doubted |= error.outcome() == Outcome::Unknown;
                    return Err(lost_for_good(error));
                }
            }
        }
    }

    /// Renews the lease with another value. If that write is certainly not applied, later renewals keep the previous
    /// value.
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

    /// Replaces the lease with a value if this holder still has it. Retries for as long as the lease is valid.
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

    /// Resolves an unknown outcome: asks the leader who holds the lease.
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

    /// Hands over or removes the lease, and removes its fence, if their revisions are unchanged.
    async fn release(&mut self) -> Result<()> {
        let unfence = self.fencing.take().map(|Fencing { at, revision, .. }| {
            let (Claim { bucket, times, .. }, timeout) = (self.claim.clone(), self.one_try());
            async move { bucket.purge(&at).if_revision(revision).ttl(times.ttl).timeout(timeout).await.map(drop) }
        });
        match unfence {
            // A fence that remains, or that another holder has replaced, does no harm.
            Some(unfence) => futures::join!(self.give_up(), unfence).0,
            None => self.give_up().await,
        }
    }

    /// Repeats a failed release in the background.
    fn make_sure_of(&self, released: &Result<()>) {
        if released.as_ref().is_err_and(passes) {
            tokio::spawn(self.claim.clone().take_back(false));
        }
    }

    async fn give_up(&mut self) -> Result<()> {
        // After an unknown outcome, the lease is looked up and the release is tried again, up to three times.
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
                // For example, the note of the next holder is too large.
                handing = false;
            } else {
                return Err(error);
            }
        }
    }

    /// Returns the timeout of one attempt to release the lease. The timeout of an operation also covers a second
    /// attempt, and a lookup in between.
    fn one_try(&self) -> Duration {
        self.claim.bucket.timeout() / 3
    }

    /// Hands the lease over by writing the next holder into its record.
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

/// Returns the end of a lease. A guard does not outlive its fence.
fn within_fence(until: Instant, fencing: Option<&Fencing>) -> Instant {
    fencing.map_or(until, |fencing| until.min(fencing.until))
}

fn is_lost(renewed: &Result<()>) -> bool {
    matches!(renewed, Err(error) if matches!(error.kind(), ErrorKind::Lost))
}

/// Returns the error of a renewal. Returns `Lost` if no later renewal can succeed.
fn lost_for_good(error: Error) -> Error {
    match error.kind() {
        ErrorKind::BucketNotFound | ErrorKind::HistoryRewound | ErrorKind::Closed => {
            Error::new(ErrorKind::Lost).caused_by(error)
        }
        _ => error,
    }
}
