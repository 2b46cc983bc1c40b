//! The backend decorator: the simulated connection between one client and the shared server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::forward::forward;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use kvtyped::backend::memory::MemoryBackend;
use kvtyped::backend::{
    Backend, Batch, BucketStatus, Capabilities, Deadline, KeySpace, ListKeysRequest, RawBucket, RawCounters, RawEntry,
    ReadAt, ScanItem, ScanRequest, WatchRequest, WatchSignal, Write,
};
use kvtyped::config::BucketConfig;
use kvtyped::{Error, ErrorKind, Key, Read, Revision, Store};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::world::{Applied, World};

type Result<T> = std::result::Result<T, Error>;

/// Polls an operation of the memory backend, which completes at once.
pub(super) fn at_once<F: Future>(operation: F) -> F::Output {
    tokio::task::coop::unconstrained(operation).now_or_never().expect("memory answers at once")
}

/// Returns a deadline that is later than any other.
pub(super) fn never() -> Deadline {
    Deadline::after(Duration::from_secs(1 << 20))
}

/// A simulated process.
#[derive(Debug, Clone)]
pub(super) struct Client(Arc<Process>);

#[derive(Debug)]
struct Process {
    number: u64,
    world: World,
    memory: MemoryBackend,
    paused_until: std::sync::Mutex<Instant>,
    dead: AtomicBool,
}

impl Client {
    pub(super) fn new(world: &World, number: u64) -> Self {
        Self(Arc::new(Process {
            number,
            world: world.clone(),
            memory: world.memory(),
            paused_until: std::sync::Mutex::new(Instant::now()),
            dead: AtomicBool::new(false),
        }))
    }

    pub(super) fn number(&self) -> u64 {
        self.0.number
    }

    pub(super) fn store(&self) -> Store {
        Store::from_backend(Arc::new(self.clone()))
    }

    /// Suspends the client for the given time.
    pub(super) fn pause(&self, long: Duration) {
        let mut paused = self.0.paused_until.lock().expect("one thread");
        *paused = (*paused).max(Instant::now() + long);
        self.0.world.note(self.number(), "pause", long.as_millis() as u64, 0);
    }

    /// Suspends the client forever.
    pub(super) fn kill(&self) {
        self.0.dead.store(true, Ordering::Relaxed);
        self.0.world.note(self.number(), "die", 0, 0);
    }

    /// Waits until the client is not suspended.
    pub(super) async fn awake(&self) {
        loop {
            if self.0.dead.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            let until = *self.0.paused_until.lock().expect("one thread");
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    fn line(&self, raw: Arc<dyn RawBucket>) -> Arc<dyn RawBucket> {
        Arc::new(Line { client: self.clone(), raw })
    }

    /// Simulates a read-only request: it waits, fails or is answered.
    async fn ask<R>(&self, deadline: Deadline, answer: impl FnOnce() -> Result<R>) -> Result<R> {
        self.awake().await;
        if deadline.is_expired() {
            return Err(deadline.error());
        }
        let world = &self.0.world;
        let faults = world.faults();
        let (there, lost, slow) = world.chance(|chance| {
            let slow = if chance.happens(faults.slow) { chance.ms(1_000, 4_900) } else { Duration::ZERO };
            (chance.ms(1, 15) + slow, chance.happens(faults.lost), chance.happens(500))
        });
        if timeout_at(deadline.at(), sleep(there)).await.is_err() || lost {
            sleep_until(deadline.at()).await;
            self.awake().await;
            return Err(deadline.error());
        }
        if world.is_electing() && !world.is_deposed_leader_there() {
            if slow {
                sleep_until(deadline.at()).await;
                self.awake().await;
                return Err(deadline.error());
            }
            self.awake().await;
            return Err(unavailable("no leader"));
        }
        let answer = answer();
        let back = world.chance(|chance| chance.ms(1, 15));
        if timeout_at(deadline.at(), sleep(back)).await.is_err() {
            return Err(deadline.error());
        }
        self.awake().await;
        answer
    }
}

impl Backend for Client {
    fn capabilities(&self, deadline: Deadline) -> BoxFuture<'_, Result<Capabilities>> {
        self.0.memory.capabilities(deadline)
    }

    fn create(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        Box::pin(async move { self.0.memory.create(config, deadline).await.map(|raw| self.line(raw)) })
    }

    fn open<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<Option<Arc<dyn RawBucket>>>> {
        Box::pin(async move { Ok(self.0.memory.open(name, deadline).await?.map(|raw| self.line(raw))) })
    }

    fn update(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        Box::pin(async move { self.0.memory.update(config, deadline).await.map(|raw| self.line(raw)) })
    }

    fn delete<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<bool>> {
        self.0.memory.delete(name, deadline)
    }

    fn counters(
        &self,
        config: BucketConfig,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<Arc<dyn RawCounters>>>> {
        // Counters have no simulated faults.
        self.0.memory.counters(config, deadline)
    }

    fn names(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<String>>> {
        self.0.memory.names(deadline)
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.0.memory.close()
    }
}

fn unavailable(reason: &str) -> Error {
    Error::new(ErrorKind::Unavailable { reason: reason.to_owned() })
}

/// The simulated connection of a client to one bucket.
#[derive(Debug)]
struct Line {
    client: Client,
    raw: Arc<dyn RawBucket>,
}

/// The fate of a write in transit.
#[derive(Debug, Clone, Copy)]
struct WriteFate {
    /// The delay until the write is applied; `None` if it is lost.
    there: Option<Duration>,
    /// The further delay until the sender receives the acknowledgement; `None` if it is lost.
    back: Option<Duration>,
    /// Whether the write is refused at once with an error.
    refused: bool,
}

impl Line {
    fn write_fate(&self, deadline: Deadline) -> WriteFate {
        let world = &self.client.0.world;
        let (faults, election) = (world.faults(), world.election_ends());
        world.chance(|chance| {
            let (there, back) = (chance.ms(1, 15), chance.ms(1, 15));
            let well = WriteFate { there: Some(there), back: Some(back), refused: false };
            if let Some(ends) = election {
                return match chance.between(0, 4) {
                    0 | 1 => WriteFate { refused: true, ..well },
                    2 | 3 => WriteFate { there: None, ..well },
                    _ => WriteFate { there: Some(there + ends), ..well },
                };
            }
            let mut draw = chance.between(0, 999);
            let mut fell = |permille: u64| {
                let fell = draw < permille;
                draw = draw.wrapping_sub(permille);
                fell
            };
            if fell(faults.lost) {
                WriteFate { there: None, ..well }
            } else if fell(faults.lost_answer) {
                WriteFate { back: None, ..well }
            } else if fell(faults.late) {
                WriteFate { there: Some(deadline.remaining() + chance.ms(5_000, 20_000)), ..well }
            } else if fell(faults.slow) {
                WriteFate { there: Some(chance.ms(1_000, 4_900)), ..well }
            } else if fell(faults.slow_answer) {
                WriteFate { back: Some(chance.ms(1_000, 4_900)), ..well }
            } else {
                well
            }
        })
    }

    /// Sends a write or a batch and simulates its fate.
    async fn send(&self, batch: Batch, single: bool, deadline: Deadline) -> Result<Vec<Revision>> {
        self.client.awake().await;
        if deadline.is_expired() {
            return Err(deadline.error());
        }
        let (world, client) = (self.client.0.world.clone(), self.client.number());
        let keys: Vec<_> = batch.writes.iter().map(|write| write.key.clone()).collect();
        batch.writes.iter().for_each(|write| world.sent(client, write));
        let WriteFate { there, back, refused } = self.write_fate(deadline);
        if refused {
            sleep(back.unwrap_or_default()).await;
            self.client.awake().await;
            return Err(unavailable("no stream found"));
        }
        // The write continues in transit even if its sender no longer waits.
        let (answer, answered) = tokio::sync::oneshot::channel();
        if let Some(there) = there {
            let (raw, world) = (Arc::clone(&self.raw), world.clone());
            tokio::spawn(async move {
                sleep(there).await;
                let result = world.apply(Applied { client, raw: &*raw, batch, single });
                if let Some(back) = back {
                    sleep(back).await;
                    let _ = answer.send(result);
                }
            });
        }
        let answer = match timeout_at(deadline.at(), answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => {
                sleep_until(deadline.at()).await;
                Err(deadline.error().unknown_outcome())
            }
            Err(_) => Err(deadline.error().unknown_outcome()),
        };
        self.client.awake().await;
        if let Err(error) = &answer {
            keys.iter().for_each(|key| world.received(client, key, error));
        }
        let revision = answer.as_ref().map_or(0, |revisions| revisions[0].get());
        world.note(client, "answer", revision, u64::from(answer.is_ok()));
        answer
    }
}

impl RawBucket for Line {
    forward! { raw: config identity }

    fn status(&self, deadline: Deadline) -> BoxFuture<'_, Result<BucketStatus>> {
        Box::pin(self.client.ask(deadline, || at_once(self.raw.status(never()))))
    }

    fn write(&self, write: Write, deadline: Deadline) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(async move {
            let revisions = self.send(Batch { writes: vec![write], preconditions: Vec::new() }, true, deadline).await?;
            Ok(revisions[0])
        })
    }

    fn commit(&self, batch: Batch, deadline: Deadline) -> BoxFuture<'_, Result<Vec<Revision>>> {
        Box::pin(self.send(batch, false, deadline))
    }

    fn purge_through<'a>(
        &'a self,
        space: KeySpace,
        key: &'a Key,
        through: Revision,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let erased =
                self.client.ask(deadline, || at_once(self.raw.purge_through(space, key, through, never()))).await;
            erased.map_err(Error::unknown_outcome)
        })
    }

    fn read<'a>(
        &'a self,
        space: KeySpace,
        key: &'a Key,
        at: ReadAt,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<RawEntry>>> {
        Box::pin(async move {
            let world = &self.client.0.world;
            let read = self.client.ask(deadline, || {
                let fresh = || at_once(self.raw.read(space, key, at, never()));
                match at {
                    _ if space == KeySpace::Index => fresh(),
                    ReadAt::Newest(Read::Any) => world.stale(key).map_or_else(fresh, Ok),
                    ReadAt::Newest(Read::Leader) => world.deposed(key).map_or_else(fresh, Ok),
                    _ => fresh(),
                }
            });
            let read = read.await;
            let revision = read.as_ref().ok().and_then(|entry| entry.as_ref().map(|entry| entry.revision.get()));
            world.note(self.client.number(), "read", revision.unwrap_or_default(), u64::from(read.is_ok()));
            read
        })
    }

    fn read_many<'a>(
        &'a self,
        space: KeySpace,
        keys: &'a [Key],
        read: Read,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Vec<Option<RawEntry>>>> {
        Box::pin(self.client.ask(deadline, move || at_once(self.raw.read_many(space, keys, read, never()))))
    }

    fn list_keys(&self, list: ListKeysRequest) -> BoxStream<'static, Result<Vec<Key>>> {
        let (client, raw) = (self.client.clone(), Arc::clone(&self.raw));
        let listed = async move {
            let deadline = Deadline::after(list.idle_timeout);
            let listed = client.ask(deadline, || Ok(at_once(raw.list_keys(list).collect::<Vec<_>>()))).await;
            stream::iter(listed.unwrap_or_else(|error| vec![Err(error)]))
        };
        stream::once(listed).flatten().boxed()
    }

    fn scan(&self, scan: ScanRequest) -> BoxStream<'static, Result<ScanItem>> {
        let (client, raw) = (self.client.clone(), Arc::clone(&self.raw));
        let listed = async move {
            let deadline = Deadline::after(scan.idle_timeout);
            let listed = client.ask(deadline, || Ok(at_once(raw.scan(scan).collect::<Vec<_>>()))).await;
            stream::iter(listed.unwrap_or_else(|error| vec![Err(error)]))
        };
        stream::once(listed).flatten().boxed()
    }

    fn watch(&self, watch: WatchRequest) -> BoxStream<'static, Result<WatchSignal>> {
        let idle_limit = watch.idle_timeout;
        let watching =
            Watching { client: self.client.clone(), idle_limit, inner: Some(self.raw.watch(watch)), ends: None };
        stream::unfold(watching, |mut watching| async move {
            let signal = watching.next().await?;
            Some((signal, watching))
        })
        .boxed()
    }
}

/// A watch session. It delivers events with delay, and may go blind or end.
struct Watching {
    client: Client,
    idle_limit: Duration,
    inner: Option<BoxStream<'static, Result<WatchSignal>>>,
    /// The time when the session goes blind, and the delay until this is detected.
    ends: Option<(Instant, Duration)>,
}

impl Watching {
    async fn next(&mut self) -> Option<Result<WatchSignal>> {
        let world = self.client.0.world.clone();
        self.client.awake().await;
        let inner = self.inner.as_mut()?;
        let (goes, blind) = match self.ends {
            Some(ends) => ends,
            None => {
                let faults = world.faults();
                let (late, well, blind, abrupt) = world.chance(|chance| {
                    let blind = chance.happens(faults.blind);
                    let well = if blind { chance.ms(0, faults.blind_within) } else { Duration::from_secs(1 << 20) };
                    (chance.ms(2, 30), well, chance.ms(5_000, 35_000), chance.happens(300))
                });
                sleep(late).await;
                if world.is_electing() {
                    self.inner = None;
                    sleep(self.idle_limit.min(Duration::from_secs(2))).await;
                    return Some(Err(unavailable("no leader")));
                }
                *self.ends.insert((Instant::now() + well, if abrupt { Duration::ZERO } else { blind }))
            }
        };
        let Ok(signal) = timeout_at(goes, inner.next()).await else {
            world.note(self.client.number(), "blind", blind.as_millis() as u64, 0);
            sleep(blind).await;
            self.inner = None;
            return Some(Err(unavailable("the watch received no message")));
        };
        sleep(world.chance(|chance| chance.ms(1, 15)) + world.election_ends().unwrap_or_default()).await;
        self.client.awake().await;
        signal
    }
}
