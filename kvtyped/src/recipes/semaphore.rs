//! Semaphores: so many at a time, whatever the process.

use std::fmt;
use std::future::IntoFuture;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep_until};

use super::holding::Holding;
use super::home::Home;
use super::lease::Lease;
use super::place::place_options;
use super::progress::Progress;
use super::slot::Slot;
use super::task::{self, MayHold};
use super::tenure::{Attempt, Claim, Over};
use super::terms::lease_options;
use super::wait::{self, Longest, passes, patience, within};
use crate::backend::Read;
use crate::bucket::Bucket;
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;
use crate::store::Store;
use crate::watch::Event;

/// The recipe's part of a key; the parts of one are its slots, by their numbers.
const RECIPE: &str = "semaphore";

/// How many permits a semaphore may have: each is a record that those who wait know of.
const MOST: u32 = 4_096;

impl Store {
    /// A semaphore of this name with so many permits, in the bucket of this name, which is made if it is missing when it is
    /// first used.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let store = Store::memory();
    /// let gpus = store.semaphore("gpu", 2);
    /// let permit = gpus.acquire().wait(Duration::from_secs(60)).await?;
    /// assert_eq!(gpus.available().await?, 1);
    /// permit.run(async { /* use one */ }).await?;
    /// permit.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn semaphore(&self, name: impl Into<String>, permits: u32) -> Semaphore {
        Semaphore { place: Home::new(self, RECIPE, name), permits }
    }
}

/// A semaphore; see [`Store::semaphore`]. Cheap to clone.
///
/// Its permits are as many numbered slots, each a [`Lease`] of its own: a slot has one holder at a time, so there are never
/// more holders than permits. The permit of a holder that dies is free again after its time to live.
///
/// # What this does not guarantee
///
/// That all agree on how many permits there are: each process uses the first so many slots that *it* was told of. Where the
/// numbers differ there are as many holders at once as the largest says, at most; one who was told of fewer does not see
/// the slots above. So a number can be changed while it is in use, and holds once the last process has the new one. That
/// those who wait are served in the order in which they came. That a holder whose permit is lost *does nothing* any more;
/// see [`Lease`]. And that a permit survives what its bucket does not; see [`Locks`](super::Locks).
#[derive(Clone)]
pub struct Semaphore {
    place: Home,
    permits: u32,
}

place_options!(Semaphore);
lease_options!(Semaphore: place.terms, Acquire: semaphore.place.terms, TryAcquire: semaphore.place.terms);

impl Semaphore {
    /// Takes a permit; waits, if all are taken.
    ///
    /// # Errors
    ///
    /// Returns `Timeout` if [`wait`](Acquire::wait) is given and passes. Without it, the call waits for as long as all
    /// permits are taken. The outcome is `Unknown` if an attempt was in progress: a permit that lands later is
    /// released. With a `wait`, the call also waits for an unreachable server. Without it, the first attempt fails. A
    /// denial of the first attempt is returned at once. With a `wait`, the attempt continues after a later denial,
    /// which becomes the cause of the `Timeout`. Returns `InvalidConfig` if there are no permits or more than 4,096, if
    /// the times contradict each other, or if the bucket name is invalid. Returns `Unsupported` if the bucket or the
    /// server does not support the TTL of single records. Returns `BucketNotFound` if the bucket is deleted.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing behind. A permit that is taken at that very moment is given back; if that cannot be sent,
    /// it is free after its time to live.
    pub fn acquire(&self) -> Acquire {
        Acquire { semaphore: self.clone(), wait: None }
    }

    /// Takes a permit, if one is free.
    ///
    /// # Errors
    ///
    /// As of [`acquire`](Self::acquire), but for the `Timeout`.
    ///
    /// # Cancel safety
    ///
    /// As of [`acquire`](Self::acquire).
    pub fn try_acquire(&self) -> TryAcquire {
        TryAcquire { semaphore: self.clone() }
    }

    /// How many permits are free now. The answer may be old when it is read.
    ///
    /// # Errors
    ///
    /// Those of a read; `InvalidConfig` as of [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing behind.
    pub async fn available(&self) -> Result<u32> {
        let count = async {
            let free = self.checked()?.free(&self.place.bucket().await?).await?;
            Ok(u32::try_from(free.len()).unwrap_or(u32::MAX))
        };
        self.place.within("available", None, count).await
    }

    /// How many permits there are, as far as this handle was told.
    pub fn permits(&self) -> u32 {
        self.permits
    }

    fn checked(&self) -> Result<&Self> {
        match self.permits {
            1..=MOST => Ok(self),
            permits => Err(Error::invalid_config(format!(
                "a semaphore of {permits} permits: it has 1 at least and {MOST} at most"
            ))),
        }
    }

    /// The slots that nobody has, as the leader of the bucket says. Whatever stands in a slot takes it.
    async fn free(&self, bucket: &Bucket<Slot<Holding>>) -> Result<Vec<u32>> {
        let keys = (0..self.permits).map(|slot| self.place.key(slot.to_string()));
        let taken = bucket.get_many(keys).read(Read::Leader).each().await?;
        Ok((0..self.permits).zip(taken).filter(|(_, taken)| matches!(taken, Ok(None))).map(|(slot, _)| slot).collect())
    }

    /// Tries to take the slot of this number.
    async fn attempt(&self, claim: &Claim, slot: u32, over: Over) -> Result<Option<Permit>> {
        let key = claim.key.beside(slot.to_string());
        match (Claim { key, ..claim.clone() }).attempt(over).await {
            Attempt::Taken(lease) => Ok(Some(Permit { lease, slot })),
            Attempt::Refused => Ok(None),
            Attempt::Failed(error) => Err(error),
        }
    }

    /// Tries to take any slot: one by chance, so that many who come at once do not all want the same; and if that is taken,
    /// those that are free, from one by chance on.
    async fn try_any(&self, claim: &Claim) -> Result<Option<Permit>> {
        if let Some(permit) = self.attempt(claim, any(self.permits), Over::Nothing).await? {
            return Ok(Some(permit));
        }
        if self.permits == 1 {
            return Ok(None);
        }
        let mut free = self.free(&claim.bucket).await?;
        while !free.is_empty() {
            let slot = free.swap_remove(crate::chance::below(free.len()));
            if let Some(permit) = self.attempt(claim, slot, Over::Nothing).await? {
                return Ok(Some(permit));
            }
        }
        Ok(None)
    }

    async fn try_now(&self) -> Result<Option<Permit>> {
        let claim = self.checked()?.place.claim("", None).await?;
        self.try_any(&claim).await
    }

    /// Waits for any slot by one watch over all.
    async fn wait(&self, progress: &Arc<Progress>, patient: bool) -> Result<Permit> {
        let claim = self.checked()?.place.claim("", None).await?;
        let claim = Claim { progress: Arc::clone(progress), patient, ..claim };
        match self.try_any(&claim).await {
            Ok(Some(permit)) => return Ok(permit),
            Err(error) if !(patient && passes(&error)) => return Err(error),
            Ok(None) | Err(_) => {}
        }
        let ttl = claim.times.ttl;
        let mut events = wait::watch(&claim.bucket, self.place.all(), &claim).await?;
        let mut slots = Slots::new(self.permits);
        let mut look = Instant::now() + patience(ttl);
        loop {
            let event = tokio::select! {
                biased;
                event = events.next() => Some(event),
                () = sleep_until(look) => None,
            };
            let taken = match event {
                Some(Some(Ok(event))) => {
                    slots.learn(event);
                    self.try_known(&claim, &mut slots).await
                }
                Some(Some(Err(error))) if claim.gives_up_on(&error) => return Err(error),
                Some(Some(Err(_))) => continue,
                Some(None) => return Err(Error::new(ErrorKind::Closed)),
                // Something may have been missed.
                None => self.try_any(&claim).await,
            };
            match taken {
                Ok(Some(permit)) => return Ok(permit),
                Ok(None) => {}
                Err(error) if claim.waits_out(&error) => {}
                Err(error) => return Err(error),
            }
            look = Instant::now() + patience(ttl);
        }
    }

    /// Tries to take what is known to be free.
    async fn try_known(&self, claim: &Claim, slots: &mut Slots) -> Result<Option<Permit>> {
        while let Some((slot, over)) = slots.free() {
            // If somebody is faster, the watch tells of it, or has.
            slots.see(&slot.to_string(), Seen::Taken);
            if let Some(permit) = self.attempt(claim, slot, over).await? {
                return Ok(Some(permit));
            }
        }
        Ok(None)
    }
}

/// Any slot of so many.
fn any(permits: u32) -> u32 {
    u32::try_from(crate::chance::below(permits as usize)).unwrap_or_default()
}

/// What one who waits knows of the slots.
struct Slots {
    ready: bool,
    slots: Vec<Seen>,
}

#[derive(Debug, Clone, Copy)]
enum Seen {
    Taken,
    /// Nobody has had it, as far as is known.
    Empty,
    /// It was left with this marker.
    Left(Revision),
}

impl Slots {
    fn new(permits: u32) -> Self {
        Self { ready: false, slots: vec![Seen::Empty; permits as usize] }
    }

    fn learn(&mut self, event: Event<Slot<Holding>>) {
        match event {
            Event::Put(entry) => self.see(entry.key().part(), Seen::Taken),
            Event::Removed { key, revision, .. } => self.see(key.part(), Seen::Left(revision)),
            Event::Undecodable { key, error, .. } => {
                tracing::warn!(%error, "a permit cannot be taken until the record in its place is removed");
                // Whatever it is: nobody can take its place.
                let part = key.rsplit_once('.').map(|(_, part)| part.to_owned());
                self.see(&part.unwrap_or_default(), Seen::Taken);
            }
            Event::Ready => self.ready = true,
            Event::Resync => {
                self.ready = false;
                self.slots.fill(Seen::Empty);
            }
            _ => {}
        }
    }

    fn see(&mut self, part: &str, seen: Seen) {
        // A slot above the last is one of those who were told of more permits.
        if let Some(slot) = part.parse().ok().and_then(|slot: usize| self.slots.get_mut(slot)) {
            *slot = seen;
        }
    }

    /// One of those that are free, by chance, and over what it is taken.
    fn free(&self) -> Option<(u32, Over)> {
        if !self.ready {
            return None;
        }
        let free = self.slots.iter().zip(0..).filter_map(|(seen, slot)| match seen {
            Seen::Taken => None,
            Seen::Empty => Some((slot, Over::Nothing)),
            Seen::Left(marker) => Some((slot, Over::Told(*marker))),
        });
        let free: Vec<_> = free.collect();
        free.get(crate::chance::below(free.len())).copied()
    }
}

/// A permit that somebody waits for; see [`Semaphore::acquire`].
#[must_use = "nothing is taken until it is awaited"]
#[derive(Debug)]
pub struct Acquire {
    semaphore: Semaphore,
    wait: Option<Duration>,
}

impl Acquire {
    /// How long to wait; for ever by default.
    pub fn wait(mut self, longest: Duration) -> Self {
        self.wait = Some(longest);
        self
    }
}

impl IntoFuture for Acquire {
    type Output = Result<Permit>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { semaphore, wait } = self;
        Box::pin(async move {
            let longest = Longest::begins(wait);
            let acquire = || {
                let semaphore = semaphore.clone();
                async move {
                    let progress = Arc::default();
                    within(longest, &progress, semaphore.wait(&progress, longest.is_given())).await
                }
            };
            let acquired = task::acquire(acquire);
            semaphore.place.within("acquire", None, acquired).await
        })
    }
}

/// A permit that somebody takes if one is free; see [`Semaphore::try_acquire`].
#[must_use = "nothing is taken until it is awaited"]
#[derive(Debug)]
pub struct TryAcquire {
    semaphore: Semaphore,
}

impl IntoFuture for TryAcquire {
    type Output = Result<Option<Permit>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { semaphore } = self;
        Box::pin(async move {
            let acquire = || {
                let semaphore = semaphore.clone();
                async move { semaphore.try_now().await }
            };
            let acquired = task::acquire(acquire);
            semaphore.place.within("try_acquire", None, acquired).await
        })
    }
}

/// A permit that is held. Dereferences to its [`Lease`]: `lost`, `run`, `ensure`, `remaining`, `fence`.
///
/// Dropping it gives it back without waiting; [`release`](Self::release) waits until that is sure.
///
/// # What this does not guarantee
///
/// See [`Semaphore`].
#[must_use = "a permit that is dropped is given back"]
#[derive(Debug)]
pub struct Permit {
    lease: Lease,
    slot: u32,
}

impl Permit {
    /// Which of the permits it is, counted from zero: no two who agree on how many there are hold the same at once.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Gives it back, and waits until that is sure; see [`Lease::release`].
    ///
    /// # Errors
    ///
    /// `Lost`, if it was lost before: another may have had it too.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the release to go on without a witness.
    pub async fn release(self) -> Result<()> {
        self.lease.release().await
    }
}

impl MayHold for Permit {
    fn lease(&self) -> Option<&Lease> {
        Some(&self.lease)
    }
}

impl Deref for Permit {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.lease
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").field("name", &self.place.name()).field("permits", &self.permits).finish()
    }
}
