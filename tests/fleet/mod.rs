//! A mixed fleet: programs of two versions run random verbs through a rolling deploy and back.
//!
//! Each program has its own store with a [`recorder`] in front of a shared backend, which delays every request and
//! records every stored write. [`checker`] then replays the writes. All delays and verbs follow from a seed. On the
//! memory backend with paused time, two runs of a seed are the same. A failing seed is reported:
//! `KVTYPED_SIM_SEED=17 cargo test -p kvtyped-tests --test suite fleet::` runs one seed, and `KVTYPED_SIM_SEEDS=1000`
//! runs more seeds.
//!
//! Incorrect deploys are tested too. The same checker must find what they lose.

mod checker;
mod programs;
mod recorder;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kvtyped::backend::memory::MemoryBackend;
use kvtyped::backend::nats::{NatsBackend, NatsOptions};
use kvtyped::backend::{Backend, Deadline};
use kvtyped::config::{BucketConfig, WriteEpochs};
use kvtyped::model::ModelCard;
use kvtyped::prelude::*;

use self::checker::{Rule, Targets, check};
use self::programs::{Notes, Program, Shape, new, old, unversioned};
use self::recorder::{Recorder, Shared};
use crate::needs::needs;
use crate::support::unique;

/// How the fleet changes to the new version.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Switch {
    /// By `switch_version`.
    Verb,
    /// By two updates of the bucket: first the card, later the epoch.
    CardThenEpoch,
    /// Not at all: the new program has no new version.
    None,
}

/// A deploy.
#[derive(Debug, Clone, Copy)]
struct Deploy {
    epochs: Option<WriteEpochs>,
    switch: Switch,
    /// Whether the fleet goes back to the old version in the end.
    goes_back: bool,
}

const CORRECT: Deploy = Deploy { epochs: Some(WriteEpochs::Open), switch: Switch::Verb, goes_back: false };

/// A backend, and what its programs share.
struct Fleet {
    backend: Arc<dyn Backend>,
    shared: Arc<Shared>,
    notes: Arc<Notes>,
    name: String,
    /// The duration of a step of the deploy.
    step: Duration,
}

/// The result of one run.
struct Outcomes {
    broken: Vec<(Rule, String)>,
    counts: BTreeMap<&'static str, u64>,
}

impl Fleet {
    fn new(backend: Arc<dyn Backend>, seed: u64, delay: Duration) -> Self {
        let shared = Shared::new(seed, delay);
        Self { backend, shared, notes: Arc::default(), name: unique("profiles"), step: 40 * delay }
    }

    fn store(&self, is_new: bool) -> Store {
        let (inner, shared) = (Arc::clone(&self.backend), Arc::clone(&self.shared));
        Store::from_backend(Arc::new(Recorder { inner, shared, is_new }))
    }

    async fn open<T: KvModel>(&self, is_new: bool) -> Bucket<T> {
        self.store(is_new).bucket().name(&self.name).await.expect("the program opens the bucket")
    }

    /// Starts a program.
    async fn start<T: Shape>(&self, name: &str, is_new: bool) -> tokio::task::JoinHandle<()> {
        let store = self.store(is_new);
        let bucket = store.bucket().name(&self.name).await.expect("the program opens the bucket");
        let (name, shared, notes) = (name.to_owned(), Arc::clone(&self.shared), Arc::clone(&self.notes));
        tokio::spawn(Program::<T> { store, bucket, name, shared, notes }.run())
    }

    /// Waits for a step of the deploy.
    async fn work(&self) {
        let percent = self.shared.chance().between(50, 150) as u32;
        tokio::time::sleep(self.step * percent / 100).await;
    }

    /// Runs a deploy, and checks what was stored.
    async fn deploy<New: Shape>(&self, deploy: Deploy) -> Outcomes {
        let first = self.store(false).bucket::<old::Profile>().name(&self.name);
        let first = match deploy.epochs {
            Some(epochs) => first.write_epochs(epochs),
            None => first,
        };
        first.await.expect("the bucket is new");
        let mut programs = Vec::new();
        for name in ["old-1", "old-2"] {
            programs.push(self.start::<old::Profile>(name, false).await);
        }
        self.work().await;
        for name in ["new-1", "new-2"] {
            programs.push(self.start::<New>(name, true).await);
        }
        self.work().await;
        let mut targets = Targets::from([(0, 1)]);
        match deploy.switch {
            Switch::Verb => {
                let switch =
                    self.open::<new::Profile>(true).await.switch_version(2).await.expect("the switch succeeds");
                targets.insert(switch.epoch.unwrap_or(u64::MAX), 2);
            }
            Switch::CardThenEpoch => self.switch_in_two_updates(&mut targets).await,
            Switch::None => {}
        }
        self.work().await;
        self.work().await;
        if deploy.goes_back {
            self.go_back(&mut targets).await;
            self.work().await;
        }
        self.notes.is_over.store(true, Ordering::Relaxed);
        for program in programs {
            program.await.expect("the program does not panic");
        }
        self.outcomes(&targets)
    }

    /// The wrong switch: programs that start between the updates write the new version in the epoch of the old one.
    async fn switch_in_two_updates(&self, targets: &mut Targets) {
        let deadline = || Deadline::after(Duration::from_secs(10));
        let bucket = self.open::<new::Profile>(true).await;
        let mut card = bucket.card().await.expect("the bucket answers").expect("the old program wrote a card");
        let mut update = BucketConfig::new(&self.name);
        (card.version, card.writes) = (2, 2);
        update.metadata.insert(ModelCard::metadata_key("profile"), card.to_text());
        self.backend.update(update, deadline()).await.expect("the card is updated");
        self.work().await;
        let mut update = BucketConfig::new(&self.name);
        update.write_epoch = Some(2);
        self.backend.update(update, deadline()).await.expect("the epoch is updated");
        targets.insert(2, 2);
    }

    /// Switches to the old version and rewrites the records, while all programs run.
    async fn go_back(&self, targets: &mut Targets) {
        let bucket = self.open::<new::Profile>(true).await;
        let switch = bucket.switch_version(1).force().await.expect("the switch succeeds");
        targets.insert(switch.epoch.expect("the bucket has write epochs"), 1);
        self.work().await;
        let migrated = bucket.migrate().to(1).await.expect("the migration succeeds");
        assert!(migrated.complete && migrated.refused.is_empty(), "{migrated:?}");
        let versions = bucket.schema_versions().await.expect("the bucket answers");
        assert_eq!((versions.get(2), versions.invalid()), (0, 0), "after {migrated:?}");
        // An old program starts again, and reads every record.
        let mut records = self.open::<old::Profile>(false).await.list(..).await.expect("the bucket answers");
        while let Some(record) = records.next().await {
            record.expect("the old program reads the record");
        }
    }

    fn outcomes(&self, targets: &Targets) -> Outcomes {
        let stored = self.shared.stored();
        let whole = self.notes.whole.lock().expect("no holder panics");
        let mut broken = check(&stored, targets, &whole);
        let unexpected = self.notes.unexpected.lock().expect("no holder panics");
        broken.extend(unexpected.iter().map(|text| (Rule::OnlyKnownErrors, text.clone())));
        let of_version = |version: u32| {
            let records = stored.iter().filter_map(|stored| stored.record.as_ref());
            records.filter(|record| record.version == version).count() as u64
        };
        let counts = BTreeMap::from([
            ("done", self.notes.done.load(Ordering::Relaxed)),
            ("refused", self.notes.refused.load(Ordering::Relaxed)),
            ("stored as version 1", of_version(1)),
            ("stored as version 2", of_version(2)),
        ]);
        Outcomes { broken, counts }
    }
}

/// Runs a deploy on the memory backend with simulated time.
fn simulate<New: Shape>(seed: u64, deploy: Deploy) -> Outcomes {
    kvtyped::conformance::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let fleet = Fleet::new(Arc::new(MemoryBackend::new()), seed, Duration::from_millis(16));
        fleet.deploy::<New>(deploy).await
    })
}

/// Returns the seeds to run: the requested seed, or the requested or usual number of seeds.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let wanted = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match wanted("KVTYPED_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..wanted("KVTYPED_SIM_SEEDS").unwrap_or(usual),
    }
}

fn assert_correct(seed: u64, deploy: Deploy, outcomes: &Outcomes) {
    let Outcomes { broken, counts } = outcomes;
    assert!(broken.is_empty(), "KVTYPED_SIM_SEED={seed}: {deploy:?} breaks {} rules: {broken:#?}", broken.len());
    let is_used = counts.values().all(|count| *count > 0);
    assert!(is_used, "KVTYPED_SIM_SEED={seed}: {deploy:?} tests nothing: {counts:?}");
}

/// Runs correct deploys.
fn every_seed(usual: u64, deploy: Deploy) {
    let mut sums = BTreeMap::<_, u64>::new();
    let seeds = seeds(usual);
    for seed in seeds.clone() {
        let outcomes = simulate::<new::Profile>(seed, deploy);
        assert_correct(seed, deploy, &outcomes);
        outcomes.counts.iter().for_each(|(what, count)| *sums.entry(*what).or_default() += count);
    }
    println!("{deploy:?}: seeds {seeds:?}: {sums:?}");
}

/// Returns the number of seeds with a broken rule. The deploy is incorrect.
fn caught<New: Shape>(seeds: u64, rule: Rule, deploy: Deploy) -> usize {
    let breaks = |seed: &u64| simulate::<New>(*seed, deploy).broken.iter().any(|(broken, _)| *broken == rule);
    let caught = (0..seeds).filter(breaks).count();
    println!("{deploy:?}: breaks {rule:?} in {caught} of {seeds} seeds");
    caught
}

#[test]
fn rolling_deploy_loses_no_field() {
    every_seed(20, CORRECT);
    every_seed(10, Deploy { epochs: Some(WriteEpochs::Closed), ..CORRECT });
}

#[test]
fn fleet_goes_back_without_an_unreadable_record() {
    every_seed(20, Deploy { goes_back: true, ..CORRECT });
}

#[test]
fn records_without_versions_lose_fields() {
    let deploy = Deploy { switch: Switch::None, ..CORRECT };
    assert!(caught::<unversioned::Profile>(20, Rule::FieldsStay, deploy) > 10);
}

#[test]
fn blind_writes_without_epochs_lose_fields() {
    let deploy = Deploy { epochs: None, ..CORRECT };
    assert!(caught::<new::Profile>(20, Rule::FieldsStay, deploy) > 10);
}

#[test]
fn switch_in_two_updates_stores_old_writes_late() {
    let deploy = Deploy { switch: Switch::CardThenEpoch, ..CORRECT };
    assert!(caught::<new::Profile>(20, Rule::NoOlderVersion, deploy) > 10);
    assert!(caught::<new::Profile>(20, Rule::FieldsStay, deploy) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_deploy_on_a_server_loses_no_field() {
    needs!(Transactions);
    let url = harness::shared().await.url();
    for seed in seeds(2) {
        let backend = NatsBackend::connect(&url, NatsOptions::new()).await.expect("the server is there");
        let fleet = Fleet::new(Arc::new(backend), seed, Duration::from_millis(8));
        let deploy = Deploy { goes_back: seed % 2 == 1, ..CORRECT };
        let outcomes = fleet.deploy::<new::Profile>(deploy).await;
        assert_correct(seed, deploy, &outcomes);
        println!("seed {seed} on a server: {:?}", outcomes.counts);
    }
}
