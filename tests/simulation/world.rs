//! The shared state of a simulation: the server, the faults, the random numbers, and the trace.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use kvtyped::backend::memory::MemoryBackend;
use kvtyped::backend::{Batch, KeySpace, RawBucket, RawEntry, ReadAt, Write, WriteKind};
use kvtyped::{Error, ErrorKind, Key, Read, Revision, Ttl};
use tokio::time::Instant;

use super::network::{at_once, never};
use super::seed::Chance;

/// The probability of each fault, per thousand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Faults {
    /// A request is lost.
    pub(super) lost: u64,
    /// A write is applied, but its acknowledgement is lost.
    pub(super) lost_answer: u64,
    /// A write is applied 5 to 20 s after its sender's deadline.
    pub(super) late: u64,
    /// A request takes 1 to 4.9 s.
    pub(super) slow: u64,
    /// An acknowledgement takes 1 to 4.9 s.
    pub(super) slow_answer: u64,
    /// A read that permits any replica returns an older version.
    pub(super) stale: u64,
    /// A watch session goes blind or ends.
    pub(super) blind: u64,
    /// The maximum time in milliseconds until a session goes blind.
    pub(super) blind_within: u64,
    /// An entry expires a second late.
    pub(super) late_expiry: u64,
}

impl Faults {
    /// No faults.
    pub(super) const NONE: Self = Self {
        lost: 0,
        lost_answer: 0,
        late: 0,
        slow: 0,
        slow_answer: 0,
        stale: 0,
        blind: 0,
        blind_within: 0,
        late_expiry: 0,
    };

    /// All faults.
    pub(super) const ALL: Self = Self {
        lost: 30,
        lost_answer: 40,
        late: 30,
        slow: 40,
        slow_answer: 80,
        stale: 300,
        blind: 500,
        blind_within: 30_000,
        late_expiry: 200,
    };
}

/// A lock guard that can report whether it is valid.
pub(super) trait Held: Send + Sync {
    fn is_held(&self) -> bool;
}

/// An event of the trace. Two runs of a seed have the same events.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) at: Duration,
    client: u64,
    pub(super) what: &'static str,
    numbers: (u64, u64),
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, client, what, numbers: (a, b) } = self;
        write!(f, "{:>9.3} c{client} {what} {a} {b}", at.as_secs_f64())
    }
}

/// A request that reaches the server: one write or a batch.
pub(super) struct Applied<'a> {
    pub(super) client: u64,
    pub(super) raw: &'a dyn RawBucket,
    pub(super) batch: Batch,
    pub(super) single: bool,
}

/// A sent write.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) at: Instant,
    pub(super) client: u64,
    pub(super) key: Key,
    pub(super) put: bool,
    /// The revision that the write expects for its own key.
    pub(super) over: Option<u64>,
    /// The holder in the written value, if it is a lease.
    pub(super) holder: Option<String>,
}

/// A write that was applied or refused.
#[derive(Debug, Clone)]
pub(super) struct Landed {
    pub(super) client: u64,
    pub(super) key: Key,
    pub(super) put: bool,
    /// The new revision, or the current one if the write was refused.
    pub(super) revision: Result<u64, u64>,
}

#[derive(Clone)]
pub(super) struct World(Arc<Shared>);

struct Shared {
    memory: MemoryBackend,
    started: Instant,
    state: Mutex<State>,
}

struct State {
    chance: Chance,
    faults: Faults,
    election: Option<(Instant, Instant)>,
    versions: HashMap<Key, VecDeque<(Instant, Option<RawEntry>)>>,
    guards: Vec<(u64, Weak<dyn Held>)>,
    fence: u64,
    /// The fencing tokens of the written records, by revision.
    ledger: Vec<u64>,
    /// For each client: the lowest permitted expected revision after a conflict, and the number of writes of the
    /// current change.
    attempts: BTreeMap<u64, (u64, u64)>,
    seen: Seen,
}

/// The observations of a run.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    pub(super) trace: Vec<Event>,
    pub(super) sent: Vec<Sent>,
    pub(super) landed: Vec<Landed>,
    /// The broken promises, by number, with a description.
    pub(super) broken: Vec<(&'static str, String)>,
    pub(super) counts: BTreeMap<&'static str, u64>,
}

/// The limit of trace events per seed. More events indicate a busy loop.
const TOO_MUCH: usize = 200_000;

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let state = State {
            chance: Chance::new(seed),
            faults: Faults::NONE,
            election: None,
            versions: HashMap::new(),
            guards: Vec::new(),
            fence: 0,
            ledger: Vec::new(),
            attempts: BTreeMap::new(),
            seen: Seen::default(),
        };
        Self(Arc::new(Shared { memory: MemoryBackend::new(), started: Instant::now(), state: Mutex::new(state) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("one thread")
    }

    pub(super) fn memory(&self) -> MemoryBackend {
        self.0.memory.clone()
    }

    pub(super) fn chance<R>(&self, draw: impl FnOnce(&mut Chance) -> R) -> R {
        draw(&mut self.state().chance)
    }

    pub(super) fn faults(&self) -> Faults {
        self.state().faults
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    pub(super) fn seen(&self) -> Seen {
        self.state().seen.clone()
    }

    pub(super) fn count(&self, what: &'static str) {
        *self.state().seen.counts.entry(what).or_default() += 1;
    }

    pub(super) fn broken(&self, promise: &'static str, what: impl Into<String>) {
        let what = what.into();
        let at = self.0.started.elapsed();
        self.state().seen.broken.push((promise, format!("{:.3}: {what}", at.as_secs_f64())));
    }

    /// Records an event and checks mutual exclusion.
    pub(super) fn note(&self, client: u64, what: &'static str, a: u64, b: u64) {
        let event = Event { at: self.0.started.elapsed(), client, what, numbers: (a, b) };
        let mut state = self.state();
        state.seen.trace.push(event);
        assert!(state.seen.trace.len() < TOO_MUCH, "it goes round in circles");
        state.exclusion(event.at);
    }

    /// Records that a client acquired the lock.
    pub(super) fn took(&self, client: u64, fence: u64, guard: Weak<dyn Held>) {
        let mut state = self.state();
        if fence <= std::mem::replace(&mut state.fence, fence) {
            state.seen.broken.push(("P12", format!("fence {fence} of c{client} is not above the one before")));
        }
        state.guards.push((fence, guard));
        drop(state);
        self.count("tenures");
        self.note(client, "took", fence, 0);
    }

    /// Leaves the bucket without a leader for this time.
    pub(super) fn elect(&self, long: Duration) {
        let now = Instant::now();
        self.state().election = Some((now, now + long));
        self.note(0, "election", long.as_millis() as u64, 0);
    }

    pub(super) fn is_electing(&self) -> bool {
        self.election_ends().is_some()
    }

    /// Returns the time until there is a leader again; `None` if there is one.
    pub(super) fn election_ends(&self) -> Option<Duration> {
        let (_, ends) = self.state().election?;
        Some(ends.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// Returns whether a request during an election reaches a deposed leader.
    pub(super) fn is_deposed_leader_there(&self) -> bool {
        self.chance(|chance| chance.happens(200))
    }

    /// Returns the answer of a deposed leader if the read reaches one.
    pub(super) fn deposed(&self, key: &Key) -> Option<Option<RawEntry>> {
        let now = Instant::now();
        let mut state = self.state();
        let (started, ends) = state.election?;
        let electing = now < ends;
        let asked = electing || (now < ends + Duration::from_millis(1_500) && state.chance.happens(200));
        if !asked {
            return None;
        }
        let Some(versions) = state.versions.get(key) else { return Some(None) };
        let version = versions.iter().rev().find(|(at, _)| *at <= started);
        // If the version is no longer remembered, the read returns the current entry.
        let Some((at, entry)) = version else { return (versions.len() < REMEMBERED).then_some(None) };
        let expired = entry.as_ref().and_then(|entry| entry.ttl).is_some_and(|ttl| *at + ttl.as_duration() <= now);
        (!expired).then(|| entry.clone())
    }

    /// Returns the answer of a stale replica if the read reaches one.
    pub(super) fn stale(&self, key: &Key) -> Option<Option<RawEntry>> {
        let mut state = self.state();
        let State { chance, faults, versions, .. } = &mut *state;
        if !chance.happens(faults.stale) {
            return None;
        }
        let oldest = Instant::now() - Duration::from_secs(5);
        let versions = versions.get(key)?;
        let first = versions.iter().rposition(|(at, _)| *at < oldest).unwrap_or(0);
        let which = chance.between(first as u64, versions.len() as u64 - 1);
        Some(versions[which as usize].1.clone())
    }

    pub(super) fn sent(&self, client: u64, write: &Write) {
        let over = over(write);
        let put = matches!(write.kind, WriteKind::Put(_));
        let holder = match &write.kind {
            WriteKind::Put(value) if is_lease(&write.key) => holder(value),
            _ => None,
        };
        let mut late = None;
        if write.key.as_str() == RECORD
            && let Some(over) = over
            && let Some((least, attempts)) = self.state().attempts.get_mut(&client)
        {
            *attempts += 1;
            if over < *least {
                let what = format!("c{client} tries over {over} after a conflict with {least}");
                late = Some(what);
            }
        }
        if let Some(what) = late {
            self.broken("P3", what);
        }
        self.state().seen.sent.push(Sent { at: Instant::now(), client, key: write.key.clone(), put, over, holder });
        self.note(client, if put { "put" } else { "remove" }, part(&write.key), over.unwrap_or_default());
    }

    /// Starts a change of the record by a client. Returns the number of writes of the previous change.
    pub(super) fn begins(&self, client: u64) -> u64 {
        self.state().attempts.insert(client, (0, 0)).unwrap_or_default().1
    }

    /// Records that a client received a conflict for its write of the record.
    pub(super) fn received(&self, client: u64, key: &Key, error: &Error) {
        if let ErrorKind::Conflict { actual: Some(actual), .. } = error.kind()
            && key.as_str() == RECORD
            && let Some((least, _)) = self.state().attempts.get_mut(&client)
        {
            *least = actual.get();
        }
    }

    /// Returns the fencing tokens of the written records, by revision.
    pub(super) fn ledger(&self) -> Vec<u64> {
        self.state().ledger.clone()
    }

    /// Applies a write or a batch on the server.
    pub(super) fn apply(&self, applied: Applied<'_>) -> Result<Vec<Revision>, Error> {
        let Applied { client, raw, mut batch, single } = applied;
        let newest =
            |key: &Key| at_once(raw.read(KeySpace::Records, key, ReadAt::Newest(Read::Leader), never())).ok().flatten();
        let mut written = Vec::new();
        for write in &mut batch.writes {
            if let Some(ttl) = write.ttl
                && self.expires_late()
            {
                write.ttl = Ttl::new(ttl.as_duration() + Duration::from_secs(1));
            }
            written.push((write.key.clone(), matches!(write.kind, WriteKind::Put(_)), newest(&write.key)));
        }
        let result = match batch.writes.first().filter(|_| single).cloned() {
            Some(write) => at_once(raw.write(write, never())).map(|revision| vec![revision]),
            None => at_once(raw.commit(batch, never())),
        };
        for (key, put, before) in written {
            self.landed(client, key.clone(), put, before, newest(&key), result.is_ok());
        }
        result
    }

    fn expires_late(&self) -> bool {
        let mut state = self.state();
        let often = state.faults.late_expiry;
        state.chance.happens(often)
    }

    /// Records that a write was applied or refused, and the entry that the key has now.
    fn landed(&self, client: u64, key: Key, put: bool, before: Option<RawEntry>, after: Option<RawEntry>, well: bool) {
        let there = after.as_ref().map_or(0, |entry| entry.revision.get());
        self.note(client, if well { "applied" } else { "refused" }, part(&key), there);
        if let Some(after) = after.as_ref().filter(|_| well) {
            self.lease(client, before.as_ref().filter(|entry| entry.is_live()), after);
            if key.as_str() == RECORD {
                let record: serde_json::Value = serde_json::from_slice(&after.value).unwrap_or_default();
                self.state().ledger.push(record["fence"].as_u64().unwrap_or_default());
            }
        }
        let mut state = self.state();
        let revision = if well { Ok(there) } else { Err(there) };
        state.seen.landed.push(Landed { client, key: key.clone(), put, revision });
        let versions = state.versions.entry(key).or_default();
        if versions.is_empty() {
            versions.push_back((self.0.started, before));
        }
        if well {
            versions.push_back((Instant::now(), after));
            if versions.len() > REMEMBERED {
                versions.pop_front();
            }
        }
    }

    /// Checks a write of a lease (P16, P19).
    fn lease(&self, client: u64, before: Option<&RawEntry>, after: &RawEntry) {
        if !is_lease(&after.key) {
            return;
        }
        self.count("writes of leases");
        if after.ttl.is_none() {
            self.broken("P16", format!("revision {} of c{client} has no TTL", after.revision));
        }
        if after.is_live() && before.is_some_and(|before| holder(&before.value) != holder(&after.value)) {
            self.count("handed on");
        }
        if let Some(before) = before
            && holder(&before.value) != Some(format!("c{client}"))
        {
            self.broken("P19", format!("c{client} wrote over the lease of {:?}", holder(&before.value)));
        }
    }
}

/// The key of the protected record.
const RECORD: &str = "main";

/// The number of versions of a key that the simulation remembers.
const REMEMBERED: usize = 32;

impl State {
    /// Checks that at most one guard is valid (P10).
    fn exclusion(&mut self, at: Duration) {
        self.guards.retain(|(_, guard)| guard.strong_count() > 0);
        if self.guards.is_empty() {
            return;
        }
        *self.seen.counts.entry("checks of exclusion").or_default() += 1;
        let held = self.guards.iter().filter(|(_, guard)| guard.upgrade().is_some_and(|guard| guard.is_held()));
        let held: Vec<_> = held.map(|(fence, _)| fence).collect();
        if held.len() > 1 {
            let what = format!("{:.3}: valid at once are {held:?}", at.as_secs_f64());
            self.seen.broken.push(("P10", what));
        }
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

/// Returns the holder of a lease.
fn holder(value: &[u8]) -> Option<String> {
    let holding: serde_json::Value = serde_json::from_slice(value).ok()?;
    holding["owner"].as_str().map(str::to_owned)
}

/// Returns the revision that a write expects for its own key.
fn over(write: &Write) -> Option<u64> {
    write.precondition.as_ref().filter(|guard| guard.key == write.key).map(|guard| guard.revision.get())
}

pub(super) fn is_lease(key: &Key) -> bool {
    key.as_str().starts_with("=kvtyped.") && key.as_str().ends_with(".lease")
}

/// Returns a number for the kind of key, for the trace.
fn part(key: &Key) -> u64 {
    match key.as_str() {
        key if key.ends_with(".lease") => 1,
        key if key.ends_with(".fence") => 2,
        key if key.starts_with("=kvtyped") => 3,
        _ => 4,
    }
}
