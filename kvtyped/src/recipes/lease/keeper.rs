//! The lifecycle of a lease: it is taken, renewed, and released or lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::fence;
use super::fence::{FENCE, Fence, FenceRecord};
use super::handle::{Lease, LeaseInfo};
use super::outcome::AcquireStatus;
use super::record::LeaseRecord;
use super::timing::LeaseTiming;
use super::wait::passes;
use crate::backend::{Backoff, Deadline, Read};
use crate::bucket::{Bucket, Entry};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::key::ModelKey;
use crate::recipes::location::check_room;
use crate::recipes::lock::wait_queue::{LocalHold, NextHolder, WaitQueue};
use crate::recipes::record::{RecipeKey, RecipeRecord};
use crate::revision::Revision;

/// The state of a lease.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LeaseState {
    /// The lease is valid until this instant, unless it is renewed. `revision` is the revision of its last write.
    Valid { until: Instant, revision: Revision },
    /// Another holder has the lease, or no holder has it, or its time has passed.
    Lost,
    /// The lease was released.
    Released,
}

/// A command of the holder to the lease keeper. A closed channel is a release, too.
pub(crate) enum LeaseCommand {
    Renew(oneshot::Sender<Result<()>>),
    SetValue(Option<Value>, oneshot::Sender<Result<()>>),
    /// Ends the lease by replacing its record with this value, for a limited time or without a limit.
    Complete(Value, Option<Duration>, oneshot::Sender<Result<()>>),
    Release(oneshot::Sender<Result<()>>),
}

/// The commands of the holder. The channel is closed when the holder drops the lease.
type CommandReceiver = mpsc::UnboundedReceiver<LeaseCommand>;

/// A request for a lease.
#[derive(Debug, Clone)]
pub(crate) struct AcquireRequest {
    pub(crate) bucket: Bucket<RecipeRecord<LeaseRecord>>,
    pub(crate) key: RecipeKey,
    pub(crate) name: String,
    pub(crate) holding: LeaseRecord,
    pub(crate) times: LeaseTiming,
    /// Whether a fence is written with the lease, for fenced writes of this bucket.
    pub(crate) fenced: bool,
    /// The TTL of the delete marker that notifies waiters of the release.
    pub(crate) marker: Duration,
    /// The wait queue that the lease is handed over to.
    pub(crate) handover: Option<Arc<WaitQueue>>,
    /// The id of the ticket of this request in the wait queue.
    pub(crate) ticket: Option<String>,
    /// The status of the attempts so far.
    pub(crate) progress: Arc<AcquireStatus>,
    /// Whether the user bounds the wait. If so, the wait continues after errors that an administrator may undo.
    pub(crate) retry_transient: bool,
}

/// The expected state of the record that a lease replaces.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ExpectedTombstone {
    /// The state is unknown: a live record refuses the attempt, and a delete marker does not.
    Unknown,
    /// The delete marker with this revision, if it still exists. Costs one write.
    Cached(Revision),
    /// The delete marker with this revision, which a watch has just delivered. If another process is faster, the watch
    /// reports it soon enough.
    Observed(Revision),
}

/// The outcome of an attempt to take a lease.
#[derive(Debug)]
pub(crate) enum AcquireOutcome {
    Acquired(Lease),
    /// Another holder has the lease.
    Contended,
    Failed(Error),
}

impl AcquireRequest {
    /// Creates a request without a fence and without a wait queue.
    pub(crate) fn new(
        bucket: Bucket<RecipeRecord<LeaseRecord>>,
        key: RecipeKey,
        name: String,
        holding: LeaseRecord,
        times: LeaseTiming,
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
            handover: None,
            ticket: None,
            progress,
            retry_transient: false,
        }
    }

    /// Tries once to take the lease, within the timeout of an operation.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, a lease that is taken later is released. So is the lease of an attempt with an unknown
    /// outcome.
    pub(crate) async fn try_acquire(mut self, over: ExpectedTombstone) -> AcquireOutcome {
        // A fresh id distinguishes this attempt from earlier ones. Otherwise this attempt could mistake the record of
        // an earlier one for its own, or the pending release of an earlier one could remove this lease.
        self.holding = self.holding.with_fresh_id();
        if let Some(ticket) = &self.ticket {
            self.holding.id = format!("{ticket}.{}", self.holding.id);
        }
        let (witness, taken) = oneshot::channel();
        let progress = Arc::clone(&self.progress);
        progress.started();
        tokio::spawn(async move {
            let deadline = self.deadline();
            let attempt = match self.write_lease(over, deadline).await {
                Ok(Some(taken)) => self.finish_acquire(taken, deadline).await,
                Ok(None) => AcquireOutcome::Contended,
                Err(error) if error.outcome() == Outcome::Unknown => {
                    let _ = witness.send(AcquireOutcome::Failed(error));
                    return self.remove_orphan(true).await;
                }
                Err(error) => AcquireOutcome::Failed(error),
            };
            // If the caller has left, the lease is dropped here, and so released.
            let _ = witness.send(attempt);
        });
        let attempt = taken.await.unwrap_or_else(|_| AcquireOutcome::Failed(Error::new(ErrorKind::Closed)));
        progress.finished(&attempt);
        attempt
    }

    /// Returns the deadline of an attempt. A reply is useless after the lease has ended.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(self.bucket.timeout().min(self.times.validity()))
    }

    /// Returns the deadline of one lookup.
    fn lookup_deadline(&self) -> Deadline {
        Deadline::after(self.times.attempt_timeout())
    }

    /// Finds and removes a lease that has no holder and that would block others for as long as it lives. Its write
    /// (`may_come` if that may still arrive) or its release had an unknown outcome, or its release failed.
    async fn remove_orphan(self, may_come: bool) {
        let Self { bucket, key, times, marker, .. } = &self;
        let deadline = Deadline::after(times.ttl);
        let mut backoff = Backoff::outage();
        while backoff.pause(deadline).await {
            let revision = match self.find_revision(key, deadline).await {
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
    pub(crate) async fn finish_acquire(self, taken: LeaseWrite, deadline: Deadline) -> AcquireOutcome {
        match self.write_fence(&taken, deadline).await {
            Ok(fencing) => AcquireOutcome::Acquired(self.start_keeper(taken, fencing)),
            Err(error) => {
                // Dropped at once, and so released.
                drop(self.start_keeper(taken, None));
                match error.kind() {
                    // The lease was lost before its fence was written.
                    ErrorKind::Fenced => AcquireOutcome::Contended,
                    _ => AcquireOutcome::Failed(error),
                }
            }
        }
    }

    async fn write_lease(&self, mut over: ExpectedTombstone, deadline: Deadline) -> Result<Option<LeaseWrite>> {
        let Self { bucket, key, holding, times, .. } = self;
        check_room(bucket).await?;
        let slot = RecipeRecord { key: key.clone(), value: holding.clone() };
        loop {
            let sent = Instant::now();
            let timeout = self.write_timeout(deadline);
            let written = match over {
                ExpectedTombstone::Unknown => bucket.create(&slot).ttl(times.ttl).timeout(timeout).await,
                ExpectedTombstone::Cached(marker) | ExpectedTombstone::Observed(marker) => {
                    bucket.update(&slot, marker).ttl(times.ttl).timeout(timeout).await
                }
            };
            let revision = match written {
                Ok(revision) => revision,
                Err(error) if error.is_conflict() => match (over, error.kind()) {
                    (ExpectedTombstone::Cached(_), _)
                    | (ExpectedTombstone::Observed(_), ErrorKind::Conflict { actual: Some(Revision::ZERO), .. }) => {
                        over = ExpectedTombstone::Unknown;
                        continue;
                    }
                    _ => return Ok(None),
                },
                Err(error) if error.outcome() == Outcome::Unknown => match self.find_revision(key, deadline).await {
                    Ok(Some(revision)) => revision,
                    _ => return Err(error),
                },
                Err(error) => return Err(error),
            };
            return Ok(Some(LeaseWrite { revision, sent_at: sent }));
        }
    }

    /// Writes the fence of the term. The server accepts the fence only while the lease has the revision of `taken`.
    async fn write_fence(&self, taken: &LeaseWrite, deadline: Deadline) -> Result<Option<FenceRecord>> {
        let Self { bucket, key, holding, times, fenced, .. } = self;
        let in_time = || match taken.sent_at + times.validity() > Instant::now() {
            true => Ok(()),
            false => Err(Error::timeout(times.validity())),
        };
        in_time()?;
        if !fenced {
            return Ok(None);
        }
        let at = key.sibling(FENCE);
        let slot = RecipeRecord { key: at.clone(), value: holding.clone() };
        let lease = bucket.fence_precondition(key.encode()?, taken.revision);
        let (life, sent) = (fence::life(times.ttl, bucket.config().ttl), Instant::now());
        let put = bucket.put(&slot).ttl(life).with_fence(Some(Ok(lease))).timeout(self.write_timeout(deadline));
        let revision = match put.await {
            Ok(revision) => revision,
            Err(error) if error.outcome() == Outcome::Unknown => {
                self.find_revision(&at, deadline).await?.ok_or(error)?
            }
            Err(error) => return Err(error),
        };
        // A guard that is already lost must not be returned.
        in_time()?;
        let standing = bucket.fence_precondition(at.encode()?, revision);
        Ok(Some(FenceRecord { key: at, revision, standing, until: fence::until(sent, life) }))
    }

    /// Returns the timeout of a write. It leaves time for a lookup in case no reply arrives.
    fn write_timeout(&self, deadline: Deadline) -> Duration {
        let left = deadline.remaining();
        left - self.times.attempt_timeout().min(left / 4)
    }

    /// Returns the revision of the lease, or of its fence, if it belongs to this holder.
    async fn find_revision(&self, key: &RecipeKey, deadline: Deadline) -> Result<Option<Revision>> {
        Ok(self.find_entry(key, deadline).await?.map(|entry| entry.revision()))
    }

    /// Returns the stored lease, or its fence, if it belongs to this holder.
    async fn find_entry(
        &self,
        key: &RecipeKey,
        deadline: Deadline,
    ) -> Result<Option<Entry<RecipeRecord<LeaseRecord>>>> {
        let timeout = self.times.attempt_timeout().min(deadline.remaining());
        let entry = self.bucket.get(key).read(Read::Leader).timeout(timeout).await?;
        Ok(entry.filter(|entry| entry.value.id == self.holding.id))
    }

    pub(crate) fn start_keeper(mut self, taken: LeaseWrite, fencing: Option<FenceRecord>) -> Lease {
        let LeaseWrite { revision, sent_at: sent } = taken;
        let until = within_fence(sent + self.times.validity(), fencing.as_ref());
        let shown = LeaseInfo {
            name: self.name.clone(),
            bucket: self.bucket.name().to_owned(),
            key: self.key.to_string(),
            fence: Fence::new(revision.get()),
            fencing: fencing.clone(),
            times: self.times,
            timeout: self.bucket.timeout(),
        };
        self.holding.term = Some(revision.get());
        let (state, seen) = watch::channel(LeaseState::Valid { until, revision });
        let (orders, received) = mpsc::unbounded_channel();
        let held = self.handover.as_ref().map(|line| line.acquired(revision));
        let in_hand = Arc::<AtomicBool>::default();
        let tenure = LeaseKeeper {
            claim: self,
            fencing,
            fence_revision: revision,
            revision,
            uncertain: false,
            sent_at: sent,
            until,
            state,
            held,
            in_hand: Arc::clone(&in_hand),
        };
        tokio::spawn(tenure.run(received));
        Lease::new(shown, seen, orders, in_hand)
    }
}

/// A lease that was just written, or handed over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeaseWrite {
    pub(crate) revision: Revision,
    /// No later than the start of the TTL on the server.
    pub(crate) sent_at: Instant,
}

/// The keeper of a lease.
struct LeaseKeeper {
    claim: AcquireRequest,
    fencing: Option<FenceRecord>,
    /// The revision of the first write of the term.
    fence_revision: Revision,
    /// The revision of the last write of the lease that was observed.
    revision: Revision,
    /// Whether a write of the lease has an unknown outcome.
    uncertain: bool,
    /// When the last acknowledged renewal was sent.
    sent_at: Instant,
    until: Instant,
    state: watch::Sender<LeaseState>,
    /// Records in this process that the lease is held here.
    held: Option<LocalHold>,
    /// Whether the caller has the guard, so that the keeper renews the lease.
    in_hand: Arc<AtomicBool>,
}

impl LeaseKeeper {
    async fn run(mut self, mut orders: CommandReceiver) {
        let mut due = self.sent_at + self.claim.times.renewal_delay();
        let end = loop {
            tokio::select! {
                biased;
                order = orders.recv() => {
                    let (renewed, reply) = match order {
                        None => {
                            let released = self.release().await;
                            self.ensure_released(&released);
                            break LeaseState::Released;
                        }
                        Some(LeaseCommand::Release(reply)) => {
                            let released = self.release().await;
                            self.ensure_released(&released);
                            let _ = reply.send(released);
                            break LeaseState::Released;
                        }
                        Some(LeaseCommand::Renew(reply)) => (self.renew(&orders).await, reply),
                        Some(LeaseCommand::Complete(value, keep, reply)) => {
                            let finished = self.complete(value, keep).await;
                            let end = match &finished {
                                Ok(()) => LeaseState::Released,
                                Err(error) if error.outcome() == Outcome::Unknown || is_lost(&finished) => LeaseState::Lost,
                                // The value is not stored, and will not be.
                                Err(_) => {
                                    let _ = self.release().await;
                                    LeaseState::Released
                                }
                            };
                            let _ = reply.send(finished);
                            break end;
                        }
                        Some(LeaseCommand::SetValue(value, reply)) => (self.set_value(value, &orders).await, reply),
                    };
                    due = self.next_renewal(&renewed);
                    let lost = is_lost(&renewed);
                    let _ = reply.send(renewed);
                    if lost {
                        break LeaseState::Lost;
                    }
                }
                () = sleep_until(due.min(self.until)) => {
                    if self.until <= Instant::now() {
                        break LeaseState::Lost;
                    }
                    // A future that is not polled never receives its lease, so the lease must expire.
                    if !self.in_hand.load(Ordering::Relaxed) {
                        due = Instant::now() + self.claim.times.retry_delay();
                        continue;
                    }
                    let renewed = self.renew(&orders).await;
                    due = self.next_renewal(&renewed);
                    if is_lost(&renewed) {
                        break LeaseState::Lost;
                    }
                }
            }
        };
        self.state.send_replace(end);
    }

    /// Returns when the next renewal is due.
    fn next_renewal(&self, renewed: &Result<()>) -> Instant {
        match renewed {
            Ok(()) => self.sent_at + self.claim.times.renewal_delay(),
            Err(_) => Instant::now() + self.claim.times.retry_delay(),
        }
    }

    /// Tries once to renew the lease.
    ///
    /// # Errors
    ///
    /// Returns `Lost` if another holder has the lease, or if the record is missing. After any other error the lease is
    /// unchanged.
    async fn renew(&mut self, orders: &CommandReceiver) -> Result<()> {
        let LeaseTiming { ttl, .. } = self.claim.times;
        loop {
            if self.uncertain {
                self.find_revision().await?;
                // The holder dropped the lease during the lookup. Only the release may be written now.
                if orders.is_closed() {
                    return Err(Error::new(ErrorKind::Closed));
                }
            }
            let sent = Instant::now();
            let timeout = self.claim.times.attempt_timeout().min(self.until.saturating_duration_since(sent));
            if timeout.is_zero() {
                return Err(Error::new(ErrorKind::Lost));
            }
            let slot = RecipeRecord { key: self.claim.key.clone(), value: self.claim.holding.clone() };
            match self.claim.bucket.update(&slot, self.revision).ttl(ttl).timeout(timeout).await {
                Ok(revision) => {
                    self.revision = revision;
                    self.sent_at = sent;
                    self.until = within_fence(sent + self.claim.times.validity(), self.fencing.as_ref());
                    self.state.send_replace(LeaseState::Valid { until: self.until, revision });
                    return Ok(());
                }
                // A write of this holder that arrived late also causes a conflict. `find_revision` finds out.
                Err(error) if error.is_conflict() => self.uncertain = true,
                Err(error) => {
                    self.uncertain |= error.outcome() == Outcome::Unknown;
                    return Err(terminal_loss(error));
                }
            }
        }
    }

    /// Renews the lease with another value. If that write is certainly not applied, later renewals keep the previous
    /// value.
    async fn set_value(&mut self, value: Option<Value>, orders: &CommandReceiver) -> Result<()> {
        let before = self.claim.holding.clone();
        self.claim.holding.value = value;
        self.claim.holding.value_version += 1;
        let renewed = self.renew(orders).await;
        if renewed.as_ref().is_err_and(|error| error.outcome() == Outcome::NotApplied) {
            self.claim.holding = before;
        }
        renewed
    }

    /// Replaces the lease with a value if this holder still has it. Retries for as long as the lease is valid.
    async fn complete(&mut self, value: Value, keep: Option<Duration>) -> Result<()> {
        let holding = &mut self.claim.holding;
        holding.value = Some(value);
        holding.value_version += 1;
        let said = holding.value_version;
        let AcquireRequest { bucket, key, holding, times, .. } = self.claim.clone();
        let mut slot = RecipeRecord { key, value: holding };
        // Whether a write of the value may have been applied.
        let mut sent = false;
        loop {
            let tried = async {
                if self.uncertain {
                    match self.claim.find_entry(&slot.key, self.claim.lookup_deadline()).await? {
                        Some(entry) if entry.value.value_version == said => return Ok(()),
                        Some(entry) => {
                            self.revision = entry.revision();
                            slot.value.unknown = entry.into_value().value.unknown;
                        }
                        None => return Err(Error::new(ErrorKind::Lost)),
                    }
                    self.uncertain = false;
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
            self.uncertain |= error.is_conflict() || error.outcome() == Outcome::Unknown;
            if !passes || self.until <= Instant::now() {
                let error = if error.is_conflict() { Error::new(ErrorKind::Lost).caused_by(error) } else { error };
                return Err(if sent { error.unknown_outcome() } else { error });
            }
            sleep_until(Instant::now() + times.retry_delay()).await;
        }
    }

    /// Resolves an unknown outcome: asks the leader who holds the lease.
    async fn find_revision(&mut self) -> Result<()> {
        match self.claim.find_entry(&self.claim.key, self.claim.lookup_deadline()).await {
            Ok(Some(entry)) => {
                self.revision = entry.revision();
                self.claim.holding.unknown = entry.into_value().value.unknown;
                self.uncertain = false;
                Ok(())
            }
            Ok(None) => Err(Error::new(ErrorKind::Lost)),
            Err(error) => Err(terminal_loss(error)),
        }
    }

    /// Hands over or removes the lease, and removes its fence, if their revisions are unchanged.
    async fn release(&mut self) -> Result<()> {
        let unfence = self.fencing.take().map(|FenceRecord { key: at, revision, .. }| {
            let (AcquireRequest { bucket, times, .. }, timeout) = (self.claim.clone(), self.release_timeout());
            async move { bucket.purge(&at).if_revision(revision).ttl(times.ttl).timeout(timeout).await.map(drop) }
        });
        match unfence {
            // A fence that remains, or that another holder has replaced, does no harm.
            Some(unfence) => futures::join!(self.release_or_hand_over(), unfence).0,
            None => self.release_or_hand_over().await,
        }
    }

    /// Repeats a failed release in the background.
    fn ensure_released(&self, released: &Result<()>) {
        if released.as_ref().is_err_and(passes) {
            tokio::spawn(self.claim.clone().remove_orphan(false));
        }
    }

    async fn release_or_hand_over(&mut self) -> Result<()> {
        // After an unknown outcome, the lease is looked up and the release is tried again, up to three times.
        let mut tries = 0..3;
        let mut handing = true;
        loop {
            if self.uncertain {
                self.find_revision().await?;
            }
            let next =
                self.claim.handover.as_ref().filter(|_| handing).and_then(|line| line.next_holder(self.fence_revision));
            let handed = next.is_some();
            let given_up = match next {
                Some(next) => self.hand_over(next).await,
                None => self.remove().await,
            };
            let Err(error) = given_up else { return Ok(()) };
            if tries.next().is_none() {
                return Err(error);
            }
            if error.is_conflict() {
                self.uncertain = true;
            } else if error.outcome() == Outcome::Unknown {
                match self.claim.find_revision(&self.claim.key, self.claim.lookup_deadline()).await {
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
    fn release_timeout(&self) -> Duration {
        self.claim.bucket.timeout() / 3
    }

    /// Hands the lease over by writing the next holder into its record.
    async fn hand_over(&self, next: NextHolder) -> Result<()> {
        let AcquireRequest { bucket, key, .. } = &self.claim;
        let slot = RecipeRecord { key: key.clone(), value: next.holding.clone() };
        let sent = Instant::now();
        let revision = bucket.update(&slot, self.revision).ttl(next.ttl).timeout(self.release_timeout()).await?;
        if let Some(line) = &self.claim.handover {
            line.handed_over(&self.claim, &next, LeaseWrite { revision, sent_at: sent });
        }
        Ok(())
    }

    async fn remove(&self) -> Result<()> {
        let AcquireRequest { bucket, key, marker, .. } = &self.claim;
        let purge = bucket.purge(key).if_revision(self.revision).ttl(*marker);
        let left = purge.timeout(self.release_timeout()).await?;
        if let Some(held) = &self.held {
            held.released(left);
        }
        Ok(())
    }
}

/// Returns the end of a lease. A guard does not outlive its fence.
fn within_fence(until: Instant, fencing: Option<&FenceRecord>) -> Instant {
    fencing.map_or(until, |fencing| until.min(fencing.until))
}

fn is_lost(renewed: &Result<()>) -> bool {
    matches!(renewed, Err(error) if matches!(error.kind(), ErrorKind::Lost))
}

/// Returns the error of a renewal. Returns `Lost` if no later renewal can succeed.
fn terminal_loss(error: Error) -> Error {
    match error.kind() {
        ErrorKind::BucketNotFound | ErrorKind::BucketReplaced | ErrorKind::Closed => {
            Error::new(ErrorKind::Lost).caused_by(error)
        }
        _ => error,
    }
}
