//! Several clients compete for one lock: it has at most one holder, its fencing tokens reject stale writes, and every
//! client acquires it.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures::{FutureExt, TryFutureExt};
use kvtyped::ErrorKind;
use kvtyped::prelude::*;
use kvtyped::recipes::LockGuard;
use tokio::time::{Instant, sleep, timeout};

use super::network::Client;
use super::world::{Faults, Held, World};
use super::wrong::{self, Belief, Claimed, WrongGuard};
use super::{Ledger, LedgerKey, caught, every_seed, run};

const SECOND: Duration = Duration::from_secs(1);

/// The time limit after the end of all faults until every client has held the lock. The slowest watch is blind for 35
/// s, the latest write arrives after 30 s, and each of them may cost one TTL.
const HANDED_ON: Duration = Duration::from_secs(240);

/// The parameters of a simulation.
#[derive(Debug, Clone, Copy)]
struct Setup {
    /// The incorrect lock to test; `None` for the lock of the library.
    belief: Option<Belief>,
    /// Whether clients are paused between the check of the lock and the write.
    thinks: bool,
    /// Whether clients are paused at other times and killed.
    pauses: bool,
    /// Whether the protected resource checks the fencing token.
    fenced: bool,
    /// The duration of the faults.
    wild: Duration,
}

/// The lock of the library under all faults.
const ALL: Setup = Setup { belief: None, thinks: true, pauses: true, fenced: true, wild: Duration::from_secs(60) };

/// A held lock of either implementation.
enum Guard {
    Right(LockGuard),
    Wrong(WrongGuard),
}

impl Held for Guard {
    fn is_held(&self) -> bool {
        match self {
            Self::Right(guard) => guard.is_held(),
            Self::Wrong(guard) => guard.is_held(),
        }
    }
}

impl Guard {
    fn fence(&self) -> u64 {
        match self {
            Self::Right(guard) => guard.fence().get(),
            Self::Wrong(guard) => guard.fence,
        }
    }
}

/// An external resource, which can remember the highest fencing token that it received.
#[derive(Debug, Default)]
struct Register {
    highest: Mutex<u64>,
}

impl Register {
    fn write(&self, world: &World, client: u64, fence: u64, fenced: bool) {
        let mut highest = self.highest.lock().expect("one thread");
        if fenced && fence < *highest {
            world.count("refused outside");
            return;
        }
        if fence < *highest {
            world.broken("P11", format!("c{client} of fence {fence} wrote after {highest}"));
        }
        world.count("accepted outside");
        *highest = fence.max(*highest);
    }
}

/// A client that acquires the lock repeatedly.
struct Worker {
    world: World,
    setup: Setup,
    client: Client,
    bucket: Bucket<Ledger>,
    ttl: Duration,
    fair: bool,
    register: Arc<Register>,
}

async fn contend(world: World, setup: Setup) {
    let (ttl, fair, clients) = world.chance(|chance| {
        let ttl = chance.one_of(&[2, 3, 4, 6, 6, 6, 10, 15, 30]);
        (ttl * SECOND, chance.happens(250), chance.between(2, 4))
    });
    let (ttl, fair) = if setup.belief.is_some() { (6 * SECOND, false) } else { (ttl, fair) };
    let register = Arc::new(Register::default());
    let mut workers = Vec::new();
    for number in 1..=clients {
        let client = Client::new(&world, number);
        let bucket = open(&client).await;
        // Two workers in the first process: they queue locally before they compete with other processes.
        for _ in 0..if number == 1 { 2 } else { 1 } {
            let (world, bucket, register) = (world.clone(), bucket.clone(), Arc::clone(&register));
            workers.push(Worker { world, setup, client: client.clone(), bucket, ttl, fair, register });
        }
    }
    world.set_faults(Faults::ALL);
    let wild = Instant::now() + setup.wild;
    let weather = tokio::spawn(elections(world.clone()));
    let workers: Vec<_> = workers.into_iter().map(|worker| tokio::spawn(worker.work(wild))).collect();
    sleep(setup.wild).await;
    weather.abort();
    world.set_faults(Faults::NONE);
    world.note(0, "calm", 0, 0);
    for worker in workers {
        match timeout(HANDED_ON.saturating_sub(wild.elapsed()), worker).await {
            Ok(worker) => worker.expect("a worker ends well"),
            Err(_) => world.broken("liveness", "a waiter does not acquire the lock in time"),
        }
    }
    stale_writes(&world);
}

async fn open(client: &Client) -> Bucket<Ledger> {
    client.store().bucket().await.expect("the network is well yet")
}

/// Checks that no record was written with an older fencing token after one with a newer token.
fn stale_writes(world: &World) {
    let fences = world.ledger();
    for pair in fences.windows(2) {
        if pair[1] < pair[0] {
            world.broken("P11", format!("the record of fence {} was written over that of {}", pair[1], pair[0]));
        }
    }
}

async fn elections(world: World) {
    loop {
        sleep(world.chance(|chance| chance.ms(5_000, 50_000))).await;
        let long = world.chance(|chance| chance.ms(4_000, 9_000));
        world.elect(long);
        sleep(long).await;
    }
}

impl Worker {
    async fn work(mut self, wild: Instant) {
        loop {
            let calm = Instant::now() >= wild;
            let Some(guard) = self.take().await else {
                sleep(self.world.chance(|chance| chance.ms(50, 500))).await;
                continue;
            };
            self.client.awake().await;
            let held = self.hold(&guard, wild).await;
            let ends = self.world.chance(|chance| chance.between(0, 9));
            let crashes = ends == 0 && self.setup.pauses && self.setup.belief.is_none() && self.client.number() > 1;
            if crashes && !calm {
                self.client.kill();
                drop(guard);
                self.client = Client::new(&self.world, self.client.number());
                self.bucket = open(&self.client).await;
            } else {
                self.give_back(guard, ends < 7).await;
            }
            if calm && held {
                return;
            }
            sleep(self.world.chance(|chance| chance.ms(0, 2_000))).await;
        }
    }

    async fn take(&self) -> Option<Arc<Guard>> {
        let Self { world, client, bucket, ttl, .. } = self;
        let guard = match self.setup.belief {
            Some(belief) => {
                let bucket = client.store().bucket::<Claimed>().name("ledger").on_drift(Drift::Adopt).await.ok()?;
                Guard::Wrong(wrong::lock(&bucket, client.number(), *ttl, belief).await)
            }
            None => {
                let key = LedgerKey::new("main");
                let lock = bucket.lock(&key).ttl(*ttl).owner(format!("c{}", client.number()));
                let lock = if self.fair { lock.fair() } else { lock };
                match lock.await {
                    Ok(guard) => Guard::Right(guard),
                    Err(error) => {
                        world.note(client.number(), "not taken", 0, 0);
                        world.count("attempts that failed");
                        if !matches!(error.kind(), ErrorKind::Timeout { .. } | ErrorKind::Unavailable { .. }) {
                            world.broken("liveness", format!("an error that does not pass: {error}"));
                        }
                        return None;
                    }
                }
            }
        };
        let guard = Arc::new(guard);
        let weak: Weak<dyn Held> = Arc::downgrade(&guard) as Weak<dyn Held>;
        world.took(client.number(), guard.fence(), weak);
        Some(guard)
    }

    /// Works under the lock for a while. Returns whether the lock was held to the end.
    async fn hold(&self, guard: &Guard, wild: Instant) -> bool {
        let Self { world, client, .. } = self;
        let ttl = self.ttl.as_millis() as u64;
        // After the faults, each worker holds the lock for a short time only. Every waiter then acquires it soon, in
        // any order.
        let (steps, longest) = if Instant::now() >= wild { (1, 1_000) } else { (4, ttl / 2) };
        for _ in 0..world.chance(|chance| chance.between(1, steps)) {
            let calm = Instant::now() >= wild;
            if self.setup.pauses && !calm && world.chance(|chance| chance.happens(60)) {
                client.pause(world.chance(|chance| chance.ms(ttl / 4, 2 * ttl)));
            }
            sleep(world.chance(|chance| chance.ms(1, longest))).await;
            client.awake().await;
            if let Guard::Right(lease) = guard
                && world.chance(|chance| chance.happens(200))
            {
                let _ = lease.ensure_remaining(self.ttl / 2).await;
            }
            world.note(client.number(), "look", guard.fence(), u64::from(guard.is_held()));
            if !guard.is_held() {
                world.count("tenures lost");
                return false;
            }
            self.act(guard, self.setup.thinks && !calm).await;
        }
        guard.is_held()
    }

    /// Performs the protected work: writes the record and the external register. The client may be paused between the
    /// check of the lock and the writes.
    async fn act(&self, guard: &Guard, thinks: bool) {
        let Self { world, client, bucket, .. } = self;
        let record = Ledger::new(guard.fence());
        let key = record.key();
        let change = |ledger: &mut Ledger| (ledger.fence, ledger.number) = (record.fence, ledger.number + 1);
        let write = match guard {
            Guard::Right(guard) if self.setup.fenced && world.chance(|chance| chance.happens(300)) => {
                let modify = bucket.modify(&key, change).or_insert_with(|| record.clone()).fenced_by(guard);
                modify.into_future().map_ok(|entry| entry.revision()).boxed()
            }
            Guard::Right(guard) if self.setup.fenced => bucket.put(&record).fenced_by(guard).into_future(),
            _ => bucket.put(&record).into_future(),
        };
        if thinks && world.chance(|chance| chance.happens(200)) {
            let ttl = self.ttl.as_millis() as u64;
            client.pause(world.chance(|chance| chance.ms(ttl / 2, 3 * ttl)));
            client.awake().await;
        }
        self.register.write(world, client.number(), guard.fence(), self.setup.fenced);
        match write.await {
            Ok(_) => world.count("fenced writes"),
            Err(error) if matches!(error.kind(), ErrorKind::Fenced) => world.count("fenced off"),
            Err(_) => world.count("fenced writes that failed"),
        }
    }

    async fn give_back(&self, guard: Arc<Guard>, wait: bool) {
        let number = self.client.number();
        self.world.note(number, "release", guard.fence(), u64::from(wait));
        match Arc::into_inner(guard) {
            Some(Guard::Right(guard)) if wait => {
                let released = guard.release().await;
                self.world.note(number, "released", u64::from(released.is_ok()), 0);
            }
            _ => {}
        }
    }
}

#[test]
fn a_seed_has_one_trace() {
    for seed in 0..10 {
        let once = run(seed, |world| contend(world, ALL)).trace;
        let again = run(seed, |world| contend(world, ALL)).trace;
        let differs = once.iter().zip(&again).position(|(one, other)| one != other);
        assert_eq!(differs.map(|at| (seed, at, once[at], again[at])), None);
        assert_eq!(once.len(), again.len());
    }
}

/// P10, P11, P12, P16, P19, and liveness: every waiter acquires the lock.
#[test]
fn a_lock_has_one_holder_at_a_time_and_nothing_stale_gets_past_its_fence() {
    let test = "simulation::contention::a_lock_has_one_holder_at_a_time_and_nothing_stale_gets_past_its_fence";
    every_seed(test, 100, |world| contend(world, ALL));
}

/// Long enough for nearly every seed to break an incorrect lock.
const LONG: Duration = Duration::from_secs(900);

const CONTROL: Setup =
    Setup { belief: None, thinks: false, pauses: false, fenced: true, wild: Duration::from_secs(300) };

#[test]
fn naive_lock_that_holds_until_a_renewal_fails_is_caught() {
    let setup = Setup { belief: Some(Belief::UntilAFailure), wild: LONG, ..CONTROL };
    let caught = caught("valid until a renewal fails", "P10", 6, |world| contend(world, setup));
    assert!(caught >= 5, "{caught}");
}

#[test]
fn naive_lock_that_counts_from_the_answer_is_caught() {
    let setup = Setup { belief: Some(Belief::FromTheAnswer), wild: LONG, ..CONTROL };
    let caught = caught("counted from the answer", "P10", 12, |world| contend(world, setup));
    assert!(caught >= 1, "{caught}");
}

#[test]
fn the_same_lock_that_counts_from_the_sending_is_not_caught() {
    let setup = Setup { belief: Some(Belief::FromTheSending), wild: LONG, ..CONTROL };
    assert_eq!(caught("counted from the sending", "P10", 12, |world| contend(world, setup)), 0);
}

#[test]
fn naive_writes_that_no_fence_guards_are_caught() {
    let setup = Setup { thinks: true, pauses: true, fenced: false, wild: LONG, ..CONTROL };
    let caught = caught("no fence", "P11", 6, |world| contend(world, setup));
    assert!(caught >= 5, "{caught}");
}
