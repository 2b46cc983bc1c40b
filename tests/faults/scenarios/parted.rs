//! Network partitions: a leader is isolated with some of its clients, and the majority elects another leader.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use harness::history::lock::{self, TermLog};
use harness::history::{Action, Expected, Freshness, Outcome as Recorded, Seen};
use harness::netns::{Net, Place as Spot};
use harness::{Cluster, Mode, Proxy, wait};
use kvtyped::bucket::Put;
use kvtyped::prelude::*;
use kvtyped::{Error, Filter, Read};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::{Effort, RECORDS, SECOND, leader as leader_of};
use crate::model::{Record, RecordKey};
use crate::report::Row;
use crate::run::Run;
use crate::worker_context::{Common, Place};

/// The TTL of the isolated guard, and the safety margin before its end.
const TTL: Duration = Duration::from_secs(6);
const MARGIN: Duration = Duration::from_secs(1);
/// The tolerance for the detection of a lost guard on a loaded machine.
const LATE: Duration = Duration::from_millis(500);
/// The time limit until a cache is up to date after its server is.
const CONVERGENCE: Duration = Duration::from_secs(10);
/// The time limit until a server has caught up. Up to 40 s were observed.
const CATCHING_UP: Duration = Duration::from_secs(90);
/// The timeout of one read of an isolated client.
const HASTY: Duration = Duration::from_secs(2);

/// Isolates the leader of the records from the other nodes, together with the clients that have only its address.
/// Without network namespaces, isolates only the clients and prints a notice.
pub(crate) async fn leader(name: &'static str, effort: Effort) -> Row {
    let net = match Net::lay(3, 4) {
        Ok(net) => Arc::new(net),
        Err(why) => {
            println!("{name}: SERVERS ARE NOT PARTED HERE, their clients alone are cut off: {why}");
            return clients("parted (clients alone)", effort).await;
        }
    };
    let cluster = Cluster::start_on(&net).await;
    let mut run = Run::start_at(Place::on(Arc::clone(&net))).await;
    for round in 0..effort.of(1, 3) {
        let old = leader_of(&cluster, RECORDS).await;
        let mut parted = Parted::new(&run, old, round).await;
        run.fault();
        net.part(&[Spot::Node(old), Spot::Side(old + 1)]);
        parted.look_up(effort.of(12, 20) * SECOND, true).await;
        net.heal_all();
        let newest = parted.newest.load(Ordering::SeqCst);
        let caught_up = wait::until("the server that was cut off is up to date", CATCHING_UP, async || {
            cluster.is_current(old, RECORDS, newest).await.then_some(())
        });
        tokio::join!(cluster.ready(), parted.converges(caught_up));
        run.recover().await;
        parted.tell(&mut run).await;
    }
    run.finish(name).await
}

/// Isolates the leader's clients from the leader. The bytes that they sent arrive when the network is healed.
pub(crate) async fn clients(name: &'static str, effort: Effort) -> Row {
    let cluster = Cluster::start(3).await;
    let mut proxies = Vec::new();
    for node in cluster.nodes() {
        proxies.push(Proxy::start(node.addr()).await);
    }
    let mut run = Run::start(proxies.iter().map(Proxy::url).collect(), 3).await;
    for round in 0..effort.of(1, 2) {
        let old = leader_of(&cluster, RECORDS).await;
        let mut parted = Parted::new(&run, old, round).await;
        run.fault();
        proxies[old].set(Mode::Stall);
        parted.look_up(effort.of(8, 12) * SECOND, false).await;
        proxies[old].set(Mode::Pass);
        parted.converges(std::future::ready(())).await;
        run.recover().await;
        parted.tell(&mut run).await;
    }
    run.finish(name).await
}

/// Two clients on the two sides of a partition. They write and read the same record, and compete for the same lock.
struct Parted {
    /// On the side of the isolated leader.
    inside: Bucket<Record>,
    /// On the side of the majority.
    outside: Bucket<Record>,
    key: RecordKey,
    /// A cache of the record on the isolated side.
    cache: Cache<Record>,
    guard: Arc<LockGuard>,
    term_log: TermLog,
    /// The acquisition id of the guard.
    cut_off: usize,
    common: Common,
    /// The first client id of this pair. No worker uses it or the ids after it.
    client: usize,
    /// The highest revision of the record that the outside client received.
    newest: AtomicU64,
    /// A write with the guard's fencing token. It starts when the other client has the lock, and ends after the
    /// partition is healed.
    late: JoinHandle<()>,
    /// Starts the late write with this timeout.
    send_late: Option<oneshot::Sender<Duration>>,
    violations: Vec<String>,
    notes: Vec<String>,
}

/// The results of inside reads of one kind.
#[derive(Default)]
struct Answers {
    answered: usize,
    stale: usize,
    /// The time from the cut to the start of the last stale read.
    last: Duration,
}

impl Parted {
    async fn new(run: &Run, old: usize, round: usize) -> Self {
        let place = run.place();
        let (near, far) = (place.connect_to(old).await, place.connect_to_all().await);
        let inside: Bucket<Record> = near.bucket().replicas(place.replicas).await.expect("nothing fails now");
        let outside: Bucket<Record> = far.bucket().replicas(place.replicas).await.expect("nothing fails now");
        let key = RecordKey::new("parted", round);
        let cache = inside.cache(Filter::key(&key)).await.expect("nothing fails now");
        let guard = Arc::new(inside.lock(&key).ttl(TTL).await.expect("nothing fails now"));
        let term_log = TermLog::of(&run.common().recorder);
        let client = 1_000 + 10 * round;
        let cut_off = term_log.taken(client, "parted", guard.fence().get());
        let common = run.common().clone();
        let (send_late, sent) = oneshot::channel();
        let late = {
            let (common, inside, guard, term_log) =
                (common.clone(), inside.clone(), Arc::clone(&guard), term_log.clone());
            let record = Record::new("parted", round, common.fresh());
            tokio::spawn(async move {
                // The write is prepared now: a guard that is already lost would reject it.
                let write = inside.put(&record).fenced_by(&guard);
                if let Ok(time) = sent.await {
                    Self::fenced(&common, (&term_log, cut_off), (client + 3, &record), write.timeout(time)).await;
                }
            })
        };
        let parted = Self {
            inside,
            outside,
            key,
            cache,
            guard,
            term_log,
            cut_off,
            common,
            client,
            newest: AtomicU64::default(),
            late,
            send_late: Some(send_late),
            violations: Vec::new(),
            notes: Vec::new(),
        };
        assert!(parted.write_outside().await, "nothing fails now");
        parted
    }

    /// Runs both clients for the duration of the partition. `answered` says whether the inside client can still reach
    /// its server.
    async fn look_up(&mut self, time: Duration, answered: bool) {
        let cut = Instant::now();
        let end = cut + time;
        let send_late = self.send_late.take();
        let (answers, written, lost, taken) = tokio::join!(
            self.reads(cut, end),
            self.writes(cut, end),
            self.loses(cut, end),
            self.takes_over(cut, end, send_late)
        );
        // P13: the last renewal came before the cut, so the limit counts from the cut.
        let valid = TTL - MARGIN;
        match lost {
            Some(lost) if lost <= valid + LATE => {}
            lost => {
                self.violations.push(format!("P13: the guard that was cut off was lost after {lost:?} of {valid:?}"))
            }
        }
        let taken = match taken {
            Ok(taken) => Some(taken),
            Err(error) => {
                if time > 3 * TTL {
                    self.violations.push(format!("no client took over a lock of {TTL:?} within {time:?}: {error:?}"));
                }
                None
            }
        };
        // P30: the documented staleness of plain reads occurs.
        let [any, at_least, leader] = answers;
        if answered && any.stale == 0 {
            self.violations.push(format!("P30: none of {} plain reads that were cut off was stale", any.answered));
        }
        let reported = |what: &str, Answers { answered, stale, last }| {
            let last = if stale > 0 { format!(", the last of them {last:.1?} after the cut") } else { String::new() };
            format!("{what}: {stale} of {answered} stale{last}")
        };
        let after = |time: Option<Duration>| time.map_or("never".to_owned(), |time| format!("after {time:.1?}"));
        self.notes.push(format!(
            "cut off for {time:?}: {}; {}; {}; first write of the others {}, the guard lost {}, its lock taken over {}",
            reported("plain reads", any),
            reported("of at least a revision", at_least),
            reported("of the leader", leader),
            after(written),
            after(lost),
            after(taken),
        ));
    }

    /// Reads on the inside, at each freshness level.
    async fn reads(&self, cut: Instant, end: Instant) -> [Answers; 3] {
        let newest = || self.newest.load(Ordering::SeqCst);
        let (any, at_least, leader) = tokio::join!(
            self.reads_as(4, || (Freshness::Any, Read::Any), cut, end),
            self.reads_as(5, || (Freshness::AtLeast(newest()), Read::AtLeast(Revision::new(newest()))), cut, end),
            self.reads_as(6, || (Freshness::Leader, Read::Leader), cut, end),
        );
        [any, at_least, leader]
    }

    async fn reads_as(
        &self,
        client: usize,
        how: impl Fn() -> (Freshness, Read),
        cut: Instant,
        end: Instant,
    ) -> Answers {
        let mut answers = Answers::default();
        while Instant::now() < end {
            let (newest, asked) = (self.newest.load(Ordering::SeqCst), cut.elapsed());
            let (freshness, read) = how();
            let pending =
                self.common.recorder.begin(self.client + client, self.key.to_string(), Action::Read(freshness));
            let outcome = match self.inside.get(&self.key).read(read).timeout(HASTY).await {
                Ok(found) => {
                    let seen = found.map(|entry| Seen { revision: entry.revision().get(), value: entry.value });
                    answers.answered += 1;
                    if seen.is_none_or(|seen| seen.revision < newest) {
                        answers.stale += 1;
                        answers.last = asked;
                    }
                    Recorded::Seen(seen)
                }
                Err(_) => Recorded::Failed,
            };
            pending.done(outcome);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        answers
    }

    /// Writes on the outside. Returns the time of the first acknowledgement.
    async fn writes(&self, cut: Instant, end: Instant) -> Option<Duration> {
        let mut first = None;
        while Instant::now() < end {
            if self.write_outside().await {
                first = first.or(Some(cut.elapsed()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        first
    }

    async fn write_outside(&self) -> bool {
        let record = Record::new("parted", self.key.id, self.common.fresh());
        let action = Action::Write { value: Some(record.value), expected: Expected::Anything };
        let pending = self.common.recorder.begin(self.client + 1, self.key.to_string(), action);
        let written = self.outside.put(&record).timeout(HASTY).await;
        if let Ok(revision) = written {
            self.newest.store(revision.get(), Ordering::SeqCst);
        }
        pending.done(recorded(&written));
        written.is_ok()
    }

    /// Polls the inside guard until it is lost. Returns the time of the loss.
    async fn loses(&self, cut: Instant, end: Instant) -> Option<Duration> {
        while Instant::now() < end {
            if !self.term_log.look_up(self.cut_off, || self.guard.is_held()) {
                return Some(cut.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        None
    }

    /// Acquires the lock on the outside, writes with its fencing token, and then starts the late write. Returns the
    /// time of the acquisition.
    async fn takes_over(
        &self,
        cut: Instant,
        end: Instant,
        send_late: Option<oneshot::Sender<Duration>>,
    ) -> Result<Duration, Error> {
        let guard = loop {
            let wait = end.saturating_duration_since(Instant::now());
            // The wait ends with an error if the first attempt meets the cut, so it is repeated.
            match self.outside.lock(&self.key).ttl(TTL).wait(wait).await {
                Err(error) if Instant::now() < end => drop(error),
                taken => break taken?,
            }
        };
        let (taken, client) = (cut.elapsed(), self.client + 2);
        let term_record = self.term_log.taken(client, "parted", guard.fence().get());
        self.term_log.look_up(term_record, || guard.is_held());
        let record = Record::new("parted", self.key.id, self.common.fresh());
        let write = self.outside.put(&record).fenced_by(&guard).timeout(HASTY);
        Self::fenced(&self.common, (&self.term_log, term_record), (client, &record), write).await;
        if let Some(send_late) = send_late {
            // Long enough for the write to reach the healed network.
            let _ = send_late.send(end.saturating_duration_since(Instant::now()) + 5 * SECOND);
        }
        self.term_log.look_up(term_record, || guard.is_held());
        // The check decides about the consequences of a failed release.
        let _ = guard.release().await;
        Ok(taken)
    }

    /// Returns a recorded write with the fencing token of a guard. It is prepared now and sent when it is polled.
    fn fenced<'a>(
        common: &Common,
        (term_log, term_record): (&TermLog, usize),
        (client, record): (usize, &Record),
        write: Put<'a, Record>,
    ) -> impl Future<Output = ()> + Send + use<'a> {
        let (common, term_log, key, value) = (common.clone(), term_log.clone(), record.key().to_string(), record.value);
        async move {
            let action = Action::Write { value: Some(value), expected: Expected::Anything };
            let pending = common.recorder.begin(client, key, action);
            term_log.fenced(term_record, pending.id());
            pending.done(recorded(&write.await));
        }
    }

    /// P25: waits until the inside cache has the newest outside write. The cache may receive it from the isolated
    /// server.
    async fn converges(&mut self, caught_up: impl Future<Output = ()>) {
        let healed = Instant::now();
        let newest = Revision::new(self.newest.load(Ordering::SeqCst));
        let cached = async { (self.cache.wait_for_revision(newest).await, healed.elapsed()) };
        let server = async {
            caught_up.await;
            healed.elapsed()
        };
        tokio::pin!(cached);
        let (cached, server) = tokio::select! {
            cached = &mut cached => (Ok(cached), None),
            server = server => (timeout(CONVERGENCE, cached).await, Some(server)),
        };
        let server =
            server.map_or("before its server was".to_owned(), |server| format!("its server after {server:.1?}"));
        match cached {
            Ok((Ok(()), cached)) => {
                self.notes.push(format!("the cache that was cut off was up to date after {cached:.1?}, {server}"));
            }
            failed => self
                .violations
                .push(format!("P25: a cache has not {newest} {CONVERGENCE:?} after {server}: {failed:?}")),
        }
    }

    /// Reports the results after the partition is healed.
    async fn tell(mut self, run: &mut Run) {
        // Without a takeover, the late write is not sent.
        drop(self.send_late.take());
        self.late.await.expect("it does not panic");
        let (term_log, fenced) = self.term_log.noted();
        let found = lock::term_log(&term_log).into_iter().chain(lock::fenced(
            &self.common.recorder.history(),
            &term_log,
            &fenced,
        ));
        self.violations.extend(found.map(|violation| format!("parted: {violation}")));
        self.violations.into_iter().for_each(|violation| run.violation(violation));
        self.notes.into_iter().for_each(|note| run.note(note));
    }
}

/// Returns the outcome of a write for the history.
fn recorded(result: &Result<Revision, Error>) -> Recorded {
    match result {
        Ok(revision) => Recorded::Written(revision.get()),
        Err(error) if error.outcome() == Outcome::Unknown => Recorded::Unknown,
        Err(error) if error.is_conflict() => Recorded::Refused,
        Err(_) => Recorded::Failed,
    }
}
