//! One run: workers of every kind start, a scenario injects faults, and finally all recorded results are checked.

use std::time::{Duration, Instant};

use harness::history::election::Turns;
use harness::history::lock::TermLog;
use harness::history::watch::Log;
use harness::wait;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::final_state::Evidence;
use crate::model::Transfer;
use crate::op_stats::{Counts, Gauge, Work};
use crate::report::{Row, Times};
use crate::worker_context::{Common, Place, WorkerContext};
use crate::workers::{self, Added, Cached, Changed, Moved, Touched};

/// The time limit after the last fault until every worker has made progress.
const RECOVERY: Duration = Duration::from_secs(90);
/// The time limit for the operations that are in flight at the end of a run.
const ENDING: Duration = Duration::from_secs(60);

/// A run in progress.
pub(crate) struct Run {
    place: Place,
    common: Common,
    gauges: Vec<Gauge>,
    /// The workers that stop at the end of the run.
    workers: JoinSet<()>,
    /// The workers that only observe and run until they are aborted.
    onlookers: JoinSet<()>,
    evidence: Evidence,
    faults: usize,
    violations: Vec<String>,
    notes: Vec<String>,
    began: Instant,
    recovered: Duration,
}

impl Run {
    /// Opens the buckets at these servers, starts the workers, and waits until each worker has made progress. There
    /// must be one server, or at least `replicas` servers.
    pub(crate) async fn start(urls: Vec<String>, replicas: u8) -> Self {
        Self::start_at(Place { urls, replicas, net: None }).await
    }

    /// Like [`start`](Self::start), for servers that may be in network namespaces.
    pub(crate) async fn start_at(place: Place) -> Self {
        let mut run = Self::open(place).await;
        run.hire().await;
        run.begin().await;
        run
    }

    /// Like [`start`](Self::start), with other workers: clients that write and read a few keys at a high rate, and
    /// observers.
    pub(crate) async fn start_clients(urls: Vec<String>, replicas: u8) -> Self {
        let mut run = Self::open(Place { urls, replicas, net: None }).await;
        for _ in 0..9 {
            let context = run.context(Work::Write).await;
            run.workers.spawn(workers::client(context));
        }
        run.hire_onlookers(1).await;
        run.begin().await;
        run
    }

    async fn begin(&mut self) {
        self.all_go_on(RECOVERY).await;
        for gauge in &self.gauges {
            gauge.begin();
        }
    }

    async fn open(place: Place) -> Self {
        let replicas = place.replicas;
        let common = Common::default();
        let began = Instant::now();
        // The buckets are created first, so that all workers find them.
        let context = WorkerContext::new(1, Work::Read, &place, &common).await;
        let evidence = Evidence {
            records: context.bucket().await,
            tallies: context.bucket().await,
            bank: workers::open_bank(context.open()).await,
            transfers: context.open::<Transfer>().await.expect("nothing fails yet"),
            hits: context.store.counters("hits").replicas(replicas).await.expect("nothing fails yet"),
            logs: Vec::new(),
            caches: Vec::new(),
            lives: Vec::new(),
            term_log: TermLog::of(&common.recorder),
            turns: Turns::default(),
            changed: Changed::default(),
            touched: Vec::new(),
            moved: Moved::default(),
            added: Added::default(),
            _store: context.store,
        };
        Self {
            place,
            common,
            gauges: Vec::new(),
            workers: JoinSet::new(),
            onlookers: JoinSet::new(),
            evidence,
            faults: 0,
            violations: Vec::new(),
            notes: Vec::new(),
            began,
            recovered: Duration::ZERO,
        }
    }

    /// Counts a fault.
    pub(crate) fn fault(&mut self) {
        self.faults += 1;
    }

    /// Returns the location of the servers.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Returns the state that all workers share, including the recorder.
    pub(crate) fn common(&self) -> &Common {
        &self.common
    }

    /// Adds a note that is specific to this scenario.
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Adds a violation.
    pub(crate) fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    /// Waits while the workers continue, regardless of their results.
    pub(crate) async fn work_for(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Waits after the last fault until every worker has made progress. Reports a violation for each worker that has
    /// not.
    pub(crate) async fn recover(&mut self) {
        let healed = Instant::now();
        self.all_go_on(RECOVERY).await;
        self.recovered = self.recovered.max(healed.elapsed());
    }

    async fn all_go_on(&mut self, limit: Duration) {
        let before: Vec<_> = self.gauges.iter().map(|gauge| gauge.counts().ok).collect();
        let idle = || {
            let pairs = self.gauges.iter().zip(&before).enumerate();
            pairs.filter(|(_, (gauge, before))| gauge.counts().ok <= **before).map(|(at, _)| at).collect::<Vec<_>>()
        };
        if wait::within(limit, async || idle().is_empty().then_some(())).await.is_none() {
            for at in idle() {
                let Gauge { work, roams, .. } = &self.gauges[at];
                self.violations.push(format!("worker {at} ({work:?}, roams: {roams}) did nothing for {limit:?}"));
            }
        }
    }

    /// Stops the workers and checks all evidence.
    pub(crate) async fn finish(mut self, name: &'static str) -> Row {
        let outage = |works: &[Work], roams: bool| {
            let of_these = self.gauges.iter().filter(|gauge| works.contains(&gauge.work) && gauge.roams == roams);
            of_these.map(Gauge::outage).max()
        };
        let outages = [
            outage(&[Work::Write, Work::Modify], true),
            outage(&[Work::Write, Work::Modify], false),
            outage(&[Work::Watch], true).max(outage(&[Work::Watch], false)),
        ];
        self.common.end();
        self.end_workers().await;
        let checked = self.evidence.check(&self.common.recorder).await;
        self.onlookers.shutdown().await;
        self.violations.extend(checked.violations);
        self.notes.extend(checked.notes);
        for gauge in &self.gauges {
            self.violations.extend(gauge.odd());
        }
        let counts = self.gauges.iter().map(Gauge::counts).fold(Counts::default(), Counts::and);
        Row {
            name,
            counts,
            faults: self.faults,
            times: Some(Times { outages, recovered: self.recovered, converged: checked.converged }),
            figures: checked.figures,
            violations: self.violations,
            notes: self.notes,
            took: self.began.elapsed(),
        }
    }

    async fn end_workers(&mut self) {
        let workers = &mut self.workers;
        let mut violations = Vec::new();
        let all = async {
            while let Some(ended) = workers.join_next().await {
                if let Err(error) = ended {
                    violations.push(format!("a worker failed: {error}"));
                }
            }
        };
        if timeout(ENDING, all).await.is_err() {
            violations.push(format!("{} workers did not end within {ENDING:?}", self.workers.len()));
            self.workers.shutdown().await;
        }
        // An observer stops early only if it fails.
        while let Some(ended) = self.onlookers.try_join_next() {
            violations.push(format!("an onlooker ended: {ended:?}"));
        }
        self.violations.extend(violations);
    }

    async fn context(&mut self, work: Work) -> WorkerContext {
        let context = WorkerContext::new(self.gauges.len(), work, &self.place, &self.common).await;
        self.gauges.push(context.gauge.clone());
        context
    }

    async fn hire(&mut self) {
        for _ in 0..4 {
            let context = self.context(Work::Write).await;
            self.workers.spawn(workers::writer(context));
        }
        for _ in 0..2 {
            let context = self.context(Work::Modify).await;
            self.workers.spawn(workers::changer(context, self.evidence.changed.clone()));
            let context = self.context(Work::Touch).await;
            let touched = Touched::default();
            self.evidence.touched.push(touched.clone());
            self.workers.spawn(workers::toucher(context, touched));
        }
        for _ in 0..3 {
            let context = self.context(Work::Read).await;
            self.workers.spawn(workers::reader(context));
        }
        for _ in 0..3 {
            let context = self.context(Work::Lock).await;
            self.workers.spawn(workers::locker(context, self.evidence.term_log.clone()));
            let context = self.context(Work::Lock).await;
            self.workers.spawn(workers::named_locker(context, self.evidence.term_log.clone()));
            let context = self.context(Work::Elect).await;
            self.workers.spawn(workers::candidate(context, self.evidence.turns.clone()));
            let context = self.context(Work::Count).await;
            self.workers.spawn(workers::adder(context, self.evidence.added.clone()));
        }
        for _ in 0..2 {
            let context = self.context(Work::Transact).await;
            self.workers.spawn(workers::teller(context, self.evidence.moved.clone()));
        }
        let context = self.context(Work::Transact).await;
        self.workers.spawn(workers::auditor(context, self.evidence.moved.clone()));
        self.hire_onlookers(3).await;
        let context = self.context(Work::Watch).await;
        let cached = Cached::default();
        self.evidence.lives.push(cached.clone());
        self.onlookers.spawn(workers::liver(context, cached));
    }

    /// Starts `each` watches and `each` caches.
    async fn hire_onlookers(&mut self, each: usize) {
        for _ in 0..each {
            let context = self.context(Work::Watch).await;
            let log = Log::of(&self.common.recorder);
            self.evidence.logs.push(log.clone());
            self.onlookers.spawn(workers::watcher(context, log));
            let context = self.context(Work::Watch).await;
            let cached = Cached::default();
            self.evidence.caches.push(cached.clone());
            self.onlookers.spawn(workers::cacher(context, cached));
        }
    }
}
