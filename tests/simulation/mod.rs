//! Simulation of locks and retries on a simulated network with simulated time, for thousands of seeds.
//!
//! Each client has a backend decorator ([`network`]) in front of a shared server, the memory backend. The decorator
//! loses and delays requests and acknowledgements, applies writes after their senders gave up, and elects leaders. It
//! answers reads with older versions, makes watches blind, lets entries expire late, and pauses and kills clients. All
//! events follow from a seed, so every failure is reproducible: two runs of a seed have the same trace.
//!
//! A failing seed is reported with its trace. To run one seed: `KVTYPED_SIM_SEED=17 cargo test -p kvtyped-tests --test
//! suite simulation::`, followed by the name of the test. `KVTYPED_SIM_SEEDS=10000` runs more seeds. Seeds that once
//! failed are kept in a table ([`FOUND`]) and run every time.
//!
//! Incorrect implementations are tested, too ([`negative_controls`]): a simulation that never breaks them proves nothing.

mod aborted;
pub(crate) mod seed;
mod contention;
mod increments;
mod lost_acks;
mod bulk;
mod network;
mod wait_queue;
mod world;
mod negative_controls;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use kvtyped::prelude::*;

use self::world::{Seen, World};

/// Seeds that once failed: the test, the seed, and the defect.
const FOUND: &[(&str, u64, &str)] = &[
    (
        "simulation::contention::lock_has_single_holder_and_fences_stale_writes",
        238,
        "the release of an attempt that had failed took the lease of the next attempt for its own, and removed it",
    ),
    (
        "simulation::contention::lock_has_single_holder_and_fences_stale_writes",
        24,
        "a lock that was lost before its fence was written was an error, not a reason to wait",
    ),
    (
        "simulation::contention::lock_has_single_holder_and_fences_stale_writes",
        187,
        "a paused client missed that its old ticket had expired, and waited behind that ticket forever",
    ),
    (
        "simulation::contention::lock_has_single_holder_and_fences_stale_writes",
        51,
        "the guard of a lock whose time had passed while its fence was written was given all the same",
    ),
    (
        "simulation::contention::lock_has_single_holder_and_fences_stale_writes",
        97,
        "two fair waiters heard of each other's tickets all the time, and so never looked for the lock that was free",
    ),
    (
        "simulation::contention::lock_has_single_holder_and_fences_stale_writes",
        60,
        "a waiter whose attempt had an unknown outcome was skipped forever",
    ),
    (
        "simulation::contention::lock_has_single_holder_and_fences_stale_writes",
        93,
        "a lock that was handed on while its waiter looked was given when it was lost already",
    ),
    (
        "simulation::aborted::lock_dropped_under_faults_is_released",
        356,
        "after its guard was dropped, a renewal with an unknown outcome was sent again before the lease was removed",
    ),
];

/// The number of trailing trace events in a report.
const TAIL: usize = 60;

/// The record that a lock protects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "ledger", key = "{name}", history = 1)]
struct Ledger {
    name: String,
    /// The fencing token of the write.
    fence: u64,
    number: u64,
}

impl Ledger {
    fn new(fence: u64) -> Self {
        Self { name: "main".into(), fence, number: 0 }
    }
}

/// Runs one seed.
fn run(seed: u64, scenario: impl AsyncFnOnce(World)) -> Seen {
    kvtyped::conformance::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let world = World::new(seed);
        let longest = Duration::from_secs(4 * 60 * 60);
        if tokio::time::timeout(longest, scenario(world.clone())).await.is_err() {
            world.broken("liveness", "it does not end");
        }
        world.seen()
    })
}

/// Returns the seeds to run: a single requested seed, or the seeds that once failed followed by the requested or usual
/// number.
fn seeds(test: &str, usual: u64) -> Vec<u64> {
    let wanted = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = wanted("KVTYPED_SIM_SEED") {
        return vec![seed];
    }
    let found = FOUND.iter().filter(|(of, _, _)| *of == test).map(|(_, seed, _)| *seed);
    found.chain(0..wanted("KVTYPED_SIM_SEEDS").unwrap_or(usual)).collect()
}

/// Runs every seed and panics if a promise is broken.
fn every_seed(test: &str, usual: u64, scenario: impl AsyncFn(World)) {
    let (started, seeds) = (std::time::Instant::now(), seeds(test, usual));
    let mut counts = std::collections::BTreeMap::<_, u64>::new();
    for seed in &seeds {
        let seen = catch_unwind(AssertUnwindSafe(|| run(*seed, &scenario))).unwrap_or_else(|panic| {
            eprintln!(
                "seed {seed} of {test} panics: KVTYPED_SIM_SEED={seed} cargo test -p kvtyped-tests --test suite {test}"
            );
            resume_unwind(panic)
        });
        if !seen.broken.is_empty() {
            let tail = &seen.trace[seen.trace.len().saturating_sub(TAIL)..];
            let tail = if std::env::var_os("KVTYPED_SIM_SEED").is_some() { &seen.trace[..] } else { tail };
            let trace: String = tail.iter().map(|event| format!("{event:?}\n")).collect();
            panic!(
                "{trace}seed {seed} breaks {} promises, first {:?}\n\
                 again: KVTYPED_SIM_SEED={seed} cargo test -p kvtyped-tests --test suite {test}",
                seen.broken.len(),
                seen.broken[0],
            );
        }
        for (what, count) in seen.counts {
            *counts.entry(what).or_default() += count;
        }
    }
    println!("{test}: {} seeds in {:?}: {counts:?}", seeds.len(), started.elapsed());
}

/// Runs seeds of an incorrect implementation. Returns the number of seeds that break the promise.
fn caught(test: &str, promise: &str, seeds: u64, scenario: impl AsyncFn(World)) -> u64 {
    let caught = (0..seeds).filter(|seed| {
        let seen = run(*seed, &scenario);
        seen.broken.iter().any(|(broken, _)| *broken == promise)
    });
    let caught = caught.count() as u64;
    println!("{test}: breaks {promise} in {caught} of {seeds} seeds");
    caught
}
