//! The evidence that a run collects, and its checks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use harness::history::election::{self, Turn, Turns};
use harness::history::lock::{self, TermLog};
use harness::history::watch::{self, Log, Watched};
use harness::history::{Action, Op, Outcome as Recorded, Recorder, Seen, Stored, VersionOrder, Violation, Wgl};
use kvtyped::prelude::*;
use kvtyped::recipes::Counters;
use kvtyped::{Error, Read};

use crate::figures::{Figure, Figures};
use crate::model::{Account, Record, RecordKey, Tally, TallyKey, Transfer};
use crate::worker_context::PATIENT;
use crate::workers::{Added, Cached, Changed, HOT, Moved, Touched};

/// The time limit after the last write until watches, caches and live values agree with the bucket.
const CONVERGENCE: Duration = Duration::from_secs(30);

/// The number of attempts to read from the leader.
const READS: usize = 10;

/// Everything that the workers recorded, and handles that read the final state.
pub(crate) struct Evidence {
    pub(crate) records: Bucket<Record>,
    pub(crate) tallies: Bucket<Tally>,
    pub(crate) bank: Bucket<Account>,
    pub(crate) transfers: Bucket<Transfer>,
    pub(crate) hits: Counters,
    pub(crate) logs: Vec<Log>,
    pub(crate) caches: Vec<Cached>,
    pub(crate) lives: Vec<Cached>,
    pub(crate) term_log: TermLog,
    pub(crate) turns: Turns,
    pub(crate) changed: Changed,
    pub(crate) touched: Vec<Touched>,
    pub(crate) moved: Moved,
    pub(crate) added: Added,
    /// Keeps the connection open.
    pub(crate) _store: Store,
}

/// The result of the checks.
pub(crate) struct Checked {
    pub(crate) violations: Vec<String>,
    pub(crate) figures: Figures,
    pub(crate) notes: Vec<String>,
    /// The time until all watches, caches and live values agreed with the leader.
    pub(crate) converged: Duration,
}

impl Evidence {
    pub(crate) async fn check(&self, recorder: &Recorder) -> Checked {
        let mut checked = Checked {
            violations: Vec::new(),
            figures: Figures::default(),
            notes: Vec::new(),
            converged: Duration::ZERO,
        };
        match self.converge(recorder, &mut checked).await {
            Ok(last) => self.histories(recorder, &last, &mut checked),
            Err(error) => checked.violations.push(format!("the stored records cannot be read: {error}")),
        }
        self.leases(recorder, &mut checked);
        if let Err(error) = self.sums(&mut checked).await {
            checked.violations.push(format!("the stored records cannot be read: {error}"));
        }
        for touched in &self.touched {
            checked.violations.extend(touched.check(&self.records).await);
        }
        checked
    }

    /// P25: waits until all watches, caches and live values agree with the leader. Returns the leader's records.
    async fn converge(&self, recorder: &Recorder, checked: &mut Checked) -> Result<Vec<Stored>, Error> {
        let start = Instant::now();
        let keys: BTreeSet<String> = recorder.history().into_iter().map(|op| op.key).collect();
        loop {
            let last = self.listing(&keys, recorder).await?;
            let differing = self.differing(&last);
            checked.converged = start.elapsed();
            if differing.is_empty() {
                return Ok(last);
            }
            if checked.converged > CONVERGENCE {
                checked.violations.extend(differing);
                return Ok(last);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns the live records, read from the leader.
    async fn listing(&self, recorded: &BTreeSet<String>, recorder: &Recorder) -> Result<Vec<Stored>, Error> {
        let mut keys: BTreeSet<RecordKey> = recorded.iter().filter_map(|key| key.parse().ok()).collect();
        // Includes listed keys that no worker recorded.
        let mut listed = self.records.keys(..).await?;
        while let Some(key) = listed.try_next().await? {
            keys.insert(key);
        }
        let keys: Vec<_> = keys.into_iter().collect();
        let found = patiently(|| self.records.get_many(&keys).read(Read::Leader).timeout(PATIENT)).await?;
        let at = recorder.now();
        let entries = found.into_iter().flatten();
        Ok(entries
            .map(|entry| Stored {
                key: entry.key().to_string(),
                revision: entry.revision().get(),
                value: Some(entry.value),
                at,
            })
            .collect())
    }

    fn differing(&self, last: &[Stored]) -> Vec<String> {
        let mut differing = Vec::new();
        for (number, log) in self.logs.iter().enumerate() {
            let found = Watched::of(&log.reported()).in_order().last(last).check();
            differing.extend(reported(&format!("watch {number}"), &found));
        }
        let there = |stored: &Stored| {
            let value = stored.value?;
            Some((stored.key.clone(), Seen { revision: stored.revision, value }))
        };
        let there: BTreeMap<String, Seen> = last.iter().filter_map(there).collect();
        for (number, cached) in self.caches.iter().enumerate() {
            let newest = cached.newest();
            if newest != there {
                differing.push(format!("cache {number} has {newest:?}, and there is {there:?}"));
            }
        }
        let followed = RecordKey::new(HOT, 0_usize).to_string();
        for cached in &self.lives {
            let (newest, there) = (cached.newest().remove(&followed), there.get(&followed).copied());
            if newest != there {
                differing.push(format!("the live value is {newest:?}, and there is {there:?}"));
            }
        }
        differing
    }

    /// P4, P29, P43.
    fn histories(&self, recorder: &Recorder, last: &[Stored], checked: &mut Checked) {
        let ops = recorder.history();
        let keys: BTreeSet<&str> = ops.iter().map(|op| op.key.as_str()).collect();
        let evidence = self.logs.iter().flat_map(Log::stored).filter(|stored| keys.contains(stored.key.as_str()));
        let evidence: Vec<Stored> = evidence.collect();
        let last: Vec<Stored> = last.iter().filter(|stored| keys.contains(stored.key.as_str())).cloned().collect();
        let order = VersionOrder::of(&ops).reported(&evidence).last(&last).check();
        checked.violations.extend(reported("history", &order.violations));
        let searched = Wgl::of(&ops).check();
        let figures = &mut checked.figures;
        let is_a_write = |op: &&Op| matches!(op.action, Action::Write { .. });
        let not_applied = |op: &&Op| matches!(op.outcome, Recorded::Refused | Recorded::Failed);
        figures.add(Figure::NotApplied, ops.iter().filter(is_a_write).filter(not_applied).count());
        figures.add(Figure::WritesApplied, order.applied);
        figures.add(Figure::WritesSettled, order.settled);
        figures.add(Figure::WritesUnknown, order.unknown);
        figures.add(Figure::Searched, searched.operations);
        figures.add(Figure::KeysGivenUp, searched.given_up.len());
        figures.add(Figure::PlainReads, order.any.reads);
        figures.add(Figure::PlainReadsStale, order.any.stale);
        figures.longest(Figure::PlainReadsLongest, order.any.longest);
        figures.add(Figure::LeaderReads, order.leader.reads);
        figures.add(Figure::LeaderReadsStale, order.leader.stale);
        figures.longest(Figure::LeaderReadsLongest, order.leader.longest);
        figures.add(Figure::AtLeastReads, order.at_least.reads);
        figures.add(Figure::Watches, self.logs.len() + self.caches.len() + self.lives.len());
        figures.add(Figure::Events, self.logs.iter().map(|log| log.reported().len()).sum());
        figures.longest(Figure::LongestConvergence, checked.converged);
        checked.violations.extend(reported("linearizability", &searched.violations));
        checked.notes.push(format!("{order}"));
        checked.notes.push(format!(
            "WGL: {} operations on {} keys in {:.1?}, {} keys given up",
            searched.operations,
            searched.keys,
            searched.took,
            searched.given_up.len()
        ));
        let lookups = self.caches.iter().chain(&self.lives).enumerate();
        for (number, cached) in lookups {
            checked.violations.extend(reported(&format!("looks {number}"), &watch::cached(&cached.lookups())));
        }
    }

    /// P10, P11, P12, P23.
    fn leases(&self, recorder: &Recorder, checked: &mut Checked) {
        let (term_log, fenced) = self.term_log.noted();
        checked.violations.extend(reported("locks", &lock::term_log(&term_log)));
        let ops = recorder.history();
        checked.violations.extend(reported("fences", &lock::fenced(&ops, &term_log, &fenced)));
        let turns = self.turns.noted();
        checked.violations.extend(reported("election", &election::turns(&turns)));
        let refused = fenced.iter().filter(|write| ops[write.op].outcome == Recorded::Failed).count();
        let terms = turns.iter().filter(|(_, turn)| matches!(turn, Turn::Started(_))).count();
        checked.figures.add(Figure::TermLog, term_log.len());
        checked.figures.add(Figure::FencedWrites, fenced.len());
        checked.figures.add(Figure::FencedNotApplied, refused);
        checked.figures.add(Figure::Terms, terms);
        checked.notes.push(format!(
            "{} tenures, {} fenced writes, {refused} of them not applied, {terms} terms",
            term_log.len(),
            fenced.len()
        ));
    }

    /// P2, P24, and the money.
    async fn sums(&self, checked: &mut Checked) -> Result<(), Error> {
        let tally = patiently(|| self.tallies.get(&TallyKey).read(Read::Leader).timeout(PATIENT)).await?;
        let tally = tally.map(Entry::into_value).unwrap_or_default();
        checked.violations.extend(self.changed.check(&tally));
        let (acknowledged, unknown) = self.changed.counts();
        checked.figures.add(Figure::Increments, acknowledged);
        checked.figures.add(Figure::IncrementsUnknown, unknown);
        let (made, unknown, audits) = self.moved.counts();
        checked.figures.add(Figure::Transfers, made);
        checked.figures.add(Figure::TransfersUnknown, unknown);
        checked.figures.add(Figure::Audits, audits);
        let (acknowledged, unknown) = self.added.counts();
        checked.figures.add(Figure::Additions, acknowledged);
        checked.figures.add(Figure::AdditionsUnknown, unknown);
        checked.violations.extend(self.moved.check(&self.bank, &self.transfers).await?);
        let hits = patiently(|| self.hits.get("home")).await?;
        checked.violations.extend(reported("counter", &self.added.tally().check(hits)));
        checked.notes.push(format!("tally {}, counter {hits} of {:?}", tally.value, self.added.tally()));
        Ok(())
    }
}

fn reported(what: &str, violations: &[Violation]) -> Vec<String> {
    violations.iter().map(|violation| format!("{what}: {violation}")).collect()
}

/// Retries a read until it succeeds. The faults are over, but a connection may still have to recover.
async fn patiently<O, R>(mut operation: impl FnMut() -> O) -> Result<R, Error>
where
    O: IntoFuture<Output = Result<R, Error>>,
{
    let mut result = operation().await;
    for _ in 1..READS {
        if result.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        result = operation().await;
    }
    result
}
