//! The task that renews a lease, and releases it or hands it over.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::fence::{Fence, FenceRecord};
use super::handle::{Lease, LeaseInfo};
use super::request::{AcquireRequest, LeaseWrite, NextHolder};
use super::state::{CommandReceiver, LeaseCommand, LeaseState};
use super::timing::LeaseTiming;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::observe::StoreEvent;
use crate::recipes::record::RecipeRecord;
use crate::revision::Revision;
use crate::shutdown::LeaseToken;

impl AcquireRequest {
    pub(crate) fn start_keeper(mut self, write: LeaseWrite, fence_record: Option<FenceRecord>) -> Lease {
        let LeaseWrite { revision, sent_at } = write;
        let until = within_fence(sent_at + self.timing.validity(), fence_record.as_ref());
        let info = LeaseInfo {
            name: self.name.clone(),
            bucket: self.bucket.name().to_owned(),
            key: self.key.to_string(),
            hides_key: self.bucket.hides_keys(),
            fence: Fence::new(revision.get()),
            fence_record: fence_record.clone(),
            timing: self.timing,
            timeout: self.bucket.timeout(),
            context: Arc::clone(self.bucket.context()),
        };
        self.record.term = Some(revision.get());
        let token = self.bucket.context().shutdown().lease_token();
        let (state, observed) = watch::channel(LeaseState::Valid { until, revision });
        let (commands, receiver) = mpsc::unbounded_channel();
        if let Some(handover) = &self.handover {
            handover.acquired(revision);
        }
        let renewal_started = Arc::<AtomicBool>::default();
        let keeper = LeaseKeeper {
            request: self,
            fence_record,
            fence_revision: revision,
            revision,
            uncertain: false,
            sent_at,
            until,
            state,
            renewal_started: Arc::clone(&renewal_started),
            token,
            started: Instant::now(),
        };
        tokio::spawn(keeper.run(receiver));
        Lease::new(info, observed, commands, renewal_started)
    }
}

/// The recipe of locks.
const LOCK: &str = "lock";

/// The keeper of a lease.
struct LeaseKeeper {
    request: AcquireRequest,
    fence_record: Option<FenceRecord>,
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
    /// Whether the caller has the handle, so that the keeper renews the lease.
    renewal_started: Arc<AtomicBool>,
    /// Counts the lease until it is released.
    token: LeaseToken,
    started: Instant,
}

impl LeaseKeeper {
    async fn run(mut self, mut commands: CommandReceiver) {
        let (recipe, bucket, name) = self.set_of_leases();
        self.report(&StoreEvent::LeaseAcquired { recipe, bucket, name });
        let mut due = self.sent_at + self.request.timing.renewal_delay();
        let mut draining = pin!(Arc::clone(self.request.bucket.context().shutdown()).draining());
        let end = loop {
            tokio::select! {
                biased;
                command = commands.recv() => {
                    let (renewed, reply) = match command {
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
                        Some(LeaseCommand::Renew(reply)) => (self.renew(&commands).await, reply),
                        Some(LeaseCommand::Complete(value, retention, reply)) => {
                            let finished = self.complete(value, retention).await;
                            let end = match &finished {
                                Ok(()) => LeaseState::Released,
                                Err(error) if error.outcome() == Outcome::Unknown || is_lost(&finished) => {
                                    LeaseState::Lost
                                }
                                // The value is not stored, and will not be.
                                Err(_) => {
                                    let _ = self.release().await;
                                    LeaseState::Released
                                }
                            };
                            let _ = reply.send(finished);
                            break end;
                        }
                        Some(LeaseCommand::SetValue(value, reply)) => (self.set_value(value, &commands).await, reply),
                    };
                    due = self.next_renewal(&renewed);
                    let lost = is_lost(&renewed);
                    let _ = reply.send(renewed);
                    if lost {
                        break LeaseState::Lost;
                    }
                }
                () = &mut draining => {
                    let released = self.release().await;
                    self.ensure_released(&released);
                    break LeaseState::Lost;
                }
                () = sleep_until(due.min(self.until)) => {
                    if self.until <= Instant::now() {
                        break LeaseState::Lost;
                    }
                    // A future that is not polled never receives its lease, so the lease must expire.
                    if !self.renewal_started.load(Ordering::Relaxed) {
                        due = Instant::now() + self.request.timing.retry_delay();
                        continue;
                    }
                    let renewed = self.renew(&commands).await;
                    due = self.next_renewal(&renewed);
                    if is_lost(&renewed) {
                        break LeaseState::Lost;
                    }
                }
            }
        };
        self.state.send_replace(end);
        let (recipe, bucket, name) = self.set_of_leases();
        self.report(&StoreEvent::LeaseEnded {
            recipe,
            bucket,
            name,
            held: self.started.elapsed(),
            lost: matches!(end, LeaseState::Lost) && !self.request.bucket.context().shutdown().is_draining(),
        });
    }

    /// Returns the recipe, the bucket and the name of the set of leases. The name of a lock is not included, because
    /// there may be many locks.
    fn set_of_leases(&self) -> (&str, &str, &str) {
        let (recipe, bucket) = (self.request.key.recipe(), self.request.bucket.name());
        (recipe, bucket, if recipe == LOCK { bucket } else { self.request.key.name() })
    }

    fn report(&self, event: &StoreEvent<'_>) {
        // The ticket of a waiter is also a lease, but not a held one.
        if self.request.handover.is_some() || self.request.key.recipe() != LOCK {
            self.request.bucket.context().instruments().event(event);
        }
    }

    /// Returns when the next renewal is due.
    fn next_renewal(&self, renewed: &Result<()>) -> Instant {
        match renewed {
            Ok(()) => self.sent_at + self.request.timing.renewal_delay(),
            Err(_) => Instant::now() + self.request.timing.retry_delay(),
        }
    }

    /// Tries once to renew the lease.
    ///
    /// # Errors
    ///
    /// Returns `Lost` if another holder has the lease, or if the record is missing. After any other error the lease is
    /// unchanged.
    async fn renew(&mut self, commands: &CommandReceiver) -> Result<()> {
        let LeaseTiming { ttl, .. } = self.request.timing;
        loop {
            if self.uncertain {
                self.find_revision().await?;
                // The holder dropped the lease during the lookup. Only the release may be written now.
                if commands.is_closed() {
                    return Err(Error::new(ErrorKind::Closed));
                }
            }
            let sent_at = Instant::now();
            let timeout = self.request.timing.attempt_timeout().min(self.until.saturating_duration_since(sent_at));
            if timeout.is_zero() {
                return Err(Error::new(ErrorKind::Lost));
            }
            let stored = RecipeRecord { key: self.request.key.clone(), value: self.request.record.clone() };
            match self.request.bucket.update(&stored, self.revision).ttl(ttl).timeout(timeout).await {
                Ok(revision) => {
                    self.revision = revision;
                    self.sent_at = sent_at;
                    self.until = within_fence(sent_at + self.request.timing.validity(), self.fence_record.as_ref());
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
    async fn set_value(&mut self, value: Option<Value>, commands: &CommandReceiver) -> Result<()> {
        let before = self.request.record.clone();
        self.request.record.value = value;
        self.request.record.value_version += 1;
        let renewed = self.renew(commands).await;
        if renewed.as_ref().is_err_and(|error| error.outcome() == Outcome::NotApplied) {
            self.request.record = before;
        }
        renewed
    }

    /// Replaces the lease with a value if this holder still has it. Retries for as long as the lease is valid.
    async fn complete(&mut self, value: Value, retention: Option<Duration>) -> Result<()> {
        let record = &mut self.request.record;
        record.value = Some(value);
        record.value_version += 1;
        let version = record.value_version;
        let AcquireRequest { bucket, key, record, timing, .. } = self.request.clone();
        let mut stored = RecipeRecord { key, value: record };
        let mut may_be_stored = false;
        loop {
            let written = async {
                if self.uncertain {
                    match self.request.find_entry(&stored.key, self.request.lookup_deadline()).await? {
                        Some(entry) if entry.value.value_version == version => return Ok(()),
                        Some(entry) => {
                            self.revision = entry.revision();
                            stored.value.unknown = entry.into_value().value.unknown;
                        }
                        None => return Err(Error::new(ErrorKind::Lost)),
                    }
                    self.uncertain = false;
                }
                let mut write = bucket.update(&stored, self.revision);
                if let Some(retention) = retention {
                    write = write.ttl(retention);
                }
                write.await.map(drop)
            };
            let Err(error) = written.await else { return Ok(()) };
            may_be_stored |= error.outcome() == Outcome::Unknown;
            let may_pass = error.is_conflict() || error.is_retryable() || error.outcome() == Outcome::Unknown;
            self.uncertain |= error.is_conflict() || error.outcome() == Outcome::Unknown;
            if !may_pass || self.until <= Instant::now() {
                let error = if error.is_conflict() { Error::new(ErrorKind::Lost).caused_by(error) } else { error };
                return Err(if may_be_stored { error.unknown_outcome() } else { error });
            }
            sleep_until(Instant::now() + timing.retry_delay()).await;
        }
    }

    /// Resolves an unknown outcome: asks the leader who holds the lease.
    async fn find_revision(&mut self) -> Result<()> {
        match self.request.find_entry(&self.request.key, self.request.lookup_deadline()).await {
            Ok(Some(entry)) => {
                self.revision = entry.revision();
                self.request.record.unknown = entry.into_value().value.unknown;
                self.uncertain = false;
                Ok(())
            }
            Ok(None) => Err(Error::new(ErrorKind::Lost)),
            Err(error) => Err(terminal_loss(error)),
        }
    }

    /// Hands over or removes the lease, and removes its fence, if their revisions are unchanged.
    async fn release(&mut self) -> Result<()> {
        let remove_fence = self.fence_record.take().map(|FenceRecord { key, revision, .. }| {
            let (AcquireRequest { bucket, timing, .. }, timeout) = (self.request.clone(), self.release_timeout());
            async move { bucket.purge(&key).if_revision(revision).ttl(timing.ttl).timeout(timeout).await.map(drop) }
        });
        match remove_fence {
            // A fence that remains, or that another holder has replaced, does no harm.
            Some(remove_fence) => futures::join!(self.release_or_hand_over(), remove_fence).0,
            None => self.release_or_hand_over().await,
        }
    }

    /// Repeats a failed release in the background.
    fn ensure_released(&self, released: &Result<()>) {
        if released.as_ref().is_err_and(Error::is_transient) {
            let (request, token) = (self.request.clone(), self.token.clone());
            tokio::spawn(async move {
                request.remove_orphan(false).await;
                drop(token);
            });
        }
    }

    async fn release_or_hand_over(&mut self) -> Result<()> {
        // After an unknown outcome, the lease is looked up and the release is tried again, up to three times.
        let mut retries = 0..3;
        let mut may_hand_over = true;
        loop {
            if self.uncertain {
                self.find_revision().await?;
            }
            let handover = self.request.handover.as_ref().filter(|_| may_hand_over);
            let next = handover.and_then(|handover| handover.next_holder(self.fence_revision));
            let has_next = next.is_some();
            let result = match next {
                Some(next) => self.hand_over(next).await,
                None => self.remove().await,
            };
            let Err(error) = result else { return Ok(()) };
            if retries.next().is_none() {
                return Err(error);
            }
            if error.is_conflict() {
                self.uncertain = true;
            } else if error.outcome() == Outcome::Unknown {
                match self.request.find_revision(&self.request.key, self.request.lookup_deadline()).await {
                    Ok(None) => return Ok(()),
                    Ok(Some(revision)) => self.revision = revision,
                    Err(_) => return Err(error),
                }
            } else if has_next {
                // For example, the note of the next holder is too large.
                may_hand_over = false;
            } else {
                return Err(error);
            }
        }
    }

    /// Returns the timeout of one attempt to release the lease. The timeout of an operation also covers a second
    /// attempt, and a lookup in between.
    fn release_timeout(&self) -> Duration {
        self.request.bucket.timeout() / 3
    }

    /// Hands the lease over by writing the next holder into its record.
    async fn hand_over(&self, next: NextHolder) -> Result<()> {
        let AcquireRequest { bucket, key, .. } = &self.request;
        let stored = RecipeRecord { key: key.clone(), value: next.record.clone() };
        let sent_at = Instant::now();
        let revision = bucket.update(&stored, self.revision).ttl(next.ttl).timeout(self.release_timeout()).await?;
        if let Some(handover) = &self.request.handover {
            Arc::clone(handover).handed_over(&self.request, &next, LeaseWrite { revision, sent_at });
        }
        Ok(())
    }

    async fn remove(&self) -> Result<()> {
        let AcquireRequest { bucket, key, tombstone_ttl, .. } = &self.request;
        let purge = bucket.purge(key).if_revision(self.revision).ttl(*tombstone_ttl);
        let tombstone = purge.timeout(self.release_timeout()).await?;
        if let Some(handover) = &self.request.handover {
            handover.ended(self.fence_revision, Some(tombstone));
        }
        Ok(())
    }
}

impl Drop for LeaseKeeper {
    /// Also runs if the runtime shuts down.
    fn drop(&mut self) {
        if let Some(handover) = &self.request.handover {
            handover.ended(self.fence_revision, None);
        }
    }
}

/// Returns the end of a lease. A guard does not outlive its fence.
fn within_fence(until: Instant, fence_record: Option<&FenceRecord>) -> Instant {
    fence_record.map_or(until, |fence| until.min(fence.valid_until))
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
