//! One sitting of a watch.
//!
//! Facts first, then the consumer, then the facts again: a bucket that was made anew in between is another one. The
//! consumer begins where the facts say, always with a sequence of its own or with the newest of each subject, never
//! with "new": whatever makes it begin again, it cannot tell as news what is old.
//!
//! A sitting does not mend itself. When a message was lost, or the consumer, or the connection, it ends and says why.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::api::Attempt;
use super::bucket::Place;
use super::consumer::{Consumer, Heard, Request, Start};
use super::convert;
use super::record::{self, Stored};
use super::wire::Answer;
use crate::backend::{Begun, Deadline, RawEntry, Signal, Since, Watch};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Pattern;
use crate::revision::Revision;

/// How often an idle server says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long may be asked what became of a bucket, or of a consumer.
const LOOK: Duration = Duration::from_secs(1);

/// How often it is tried to learn whether all of a stream is kept, while it is written to.
const TRIES: usize = 3;

/// Matches no key: nothing legal begins so.
const NO_KEY: &str = "!";

pub(super) fn watch(place: Arc<Place>, watch: Watch) -> BoxStream<'static, Result<Signal>> {
    let sittings = stream::once(async move {
        match Sitting::begin(place, watch).await {
            Ok(sitting) => sitting.signals(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    });
    sittings.flatten().boxed()
}

struct Sitting {
    place: Arc<Place>,
    patterns: Vec<Pattern>,
    created: SystemTime,
    consumer: Consumer,
    listing: Listing,
    ready: bool,
    /// Everything to be told of this revision, or one before it, was told.
    upto: Revision,
    /// What is to be told before anything else.
    first: VecDeque<Signal>,
}

impl Sitting {
    /// Begins; what it says first is `Begun`.
    async fn begin(place: Arc<Place>, watch: Watch) -> Result<Self> {
        let deadline = Deadline::after(watch.patience);
        loop {
            let facts = Facts::learn(&place, deadline).await?;
            let request = request(&place, &watch, &facts);
            let consumer = Consumer::create(&place.api, &request, deadline).await?;
            let mut later = Facts::learn(&place, deadline).await?;
            let complete = match watch.since {
                Since::After(revision) => {
                    let whole = request.filters == [format!("{}>", place.prefix)];
                    let counted = whole.then_some(consumer.pending);
                    keeps_all(&place, &facts, &mut later, revision, counted, deadline).await?
                }
                Since::Newest | Since::History | Since::Now => true,
            };
            if later.created != facts.created {
                tracing::debug!(stream = place.stream, "a watch begins again, since the bucket was made anew");
                continue;
            }
            let begun = Begun { created: facts.created, last_revision: facts.last, complete };
            let start = match watch.since {
                Since::Newest | Since::History => Revision::ZERO,
                Since::Now => facts.last,
                Since::After(revision) => revision,
            };
            // The server that delivers may be behind the one that told the facts.
            let behind = !later.has_reached(consumer.server.as_deref(), facts.last);
            let listing = Listing::new(consumer.pending, if behind { facts.last } else { Revision::ZERO });
            return Ok(Self {
                ready: start >= facts.last,
                patterns: watch.patterns,
                created: facts.created,
                first: match start >= facts.last {
                    true => [Signal::Begun(begun), Signal::Ready].into(),
                    false => [Signal::Begun(begun)].into(),
                },
                upto: start,
                place,
                consumer,
                listing,
            });
        }
    }

    fn signals(self) -> BoxStream<'static, Result<Signal>> {
        stream::unfold(Some(self), |sitting| async move {
            let mut sitting = sitting?;
            match sitting.next().await {
                Ok(told) => Some((told, Some(sitting))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    /// The next signal, or an error in the place of one; an error of the sitting itself ends it.
    async fn next(&mut self) -> Result<Result<Signal>> {
        loop {
            if let Some(signal) = self.first.pop_front() {
                return Ok(Ok(signal));
            }
            if !self.ready && self.listing.is_over() {
                self.ready = true;
                return Ok(Ok(Signal::Ready));
            }
            // How long it waits is the consumer's to know.
            match self.consumer.next(Instant::now() + 10 * HEARTBEAT).await? {
                Heard::Message(stored, behind) => {
                    self.listing.take(stored.revision, behind);
                    if let Some(entry) = self.take(stored) {
                        return Ok(entry.map(|entry| Signal::Entry { entry, behind }));
                    }
                }
                Heard::Idle(upto) => {
                    self.listing.idle(upto);
                    self.upto = self.upto.max(upto);
                    if !self.ready && self.listing.is_over() {
                        self.ready = true;
                        self.first.push_back(Signal::Ready);
                    }
                    self.first.push_back(Signal::Alive { upto: self.upto });
                }
                Heard::Lost(why) => return Err(self.end(why).await),
            }
        }
    }

    /// The entry to tell for a message, if one is.
    fn take(&mut self, stored: Stored) -> Option<Result<RawEntry>> {
        if stored.revision <= self.upto || self.patterns.is_empty() {
            return None;
        }
        self.upto = stored.revision;
        let entry = match stored.entry(&self.place.prefix) {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        self.patterns.iter().any(|pattern| pattern.matches(entry.key.as_str())).then_some(Ok(entry))
    }

    /// Why the sitting is over, after something was lost.
    async fn end(&self, why: &str) -> Error {
        // Without a connection there is nobody to ask.
        let time = if self.place.api.wire().is_connected() { LOOK } else { Duration::ZERO };
        match Facts::learn(&self.place, Deadline::after(time)).await {
            Ok(facts) if facts.created != self.created => Error::new(ErrorKind::BucketNotFound),
            Err(error) if matches!(error.kind(), ErrorKind::BucketNotFound | ErrorKind::Closed) => error,
            _ => Error::unavailable(why),
        }
    }
}

fn request(place: &Place, watch: &Watch, facts: &Facts) -> Request {
    let patterns = Pattern::disjoint(&watch.patterns);
    let mut filters: Vec<_> = patterns.iter().map(|pattern| format!("{}{pattern}", place.prefix)).collect();
    if filters.is_empty() {
        // No filter at all would be every key.
        filters.push(format!("{}{NO_KEY}", place.prefix));
    }
    let next = |revision: Revision| Start::At(Revision::new(revision.get().saturating_add(1)));
    Request {
        stream: place.stream.clone(),
        filters,
        start: match watch.since {
            Since::Newest => Start::Newest,
            Since::History => Start::At(Revision::ZERO),
            Since::Now => next(facts.last),
            Since::After(revision) => next(revision),
        },
        headers_only: watch.headers_only,
        heartbeat: HEARTBEAT,
    }
}

/// Whether every write after this revision is kept, as far as can be proven.
///
/// Nobody tells how many messages of a stream are kept between two revisions. But a count of those after one, taken
/// before the last revision is learned, is the distance of the two only if nothing is missing: even if the count came
/// from a server that is behind.
async fn keeps_all(
    place: &Place,
    facts: &Facts,
    later: &mut Facts,
    revision: Revision,
    mut counted: Option<u64>,
    deadline: Deadline,
) -> Result<bool> {
    if let Some(known) = facts.keeps_all_after(revision) {
        return Ok(known);
    }
    for _ in 0..TRIES {
        if counted.is_none() {
            counted = count_after(place, revision, deadline).await?;
            *later = Facts::learn(place, deadline).await?;
        }
        match counted.take() {
            Some(count) if count >= later.last.get().saturating_sub(revision.get()) => return Ok(true),
            Some(_) => {}
            None => return Ok(false),
        }
    }
    Ok(false)
}

/// How many messages of a later revision some server has; `None` where it does not tell (before 2.11, or where direct
/// gets are not allowed).
async fn count_after(place: &Place, revision: Revision, deadline: Deadline) -> Result<Option<u64>> {
    if !place.direct {
        return Ok(None);
    }
    let verb = format!("DIRECT.GET.{}", place.stream);
    let asked = json!({ "seq": revision.get() + 1, "batch": 1, "next_by_subj": ">" });
    let answer = place.api.attempt(&verb, Some(&asked), Attempt::Short, deadline).await?;
    let Answer::Message(message) = answer else { return Ok(None) };
    if message.status.is_some() {
        return Ok(None);
    }
    let header = |name: &str| message.headers.as_ref()?.get_last(name)?.as_str().parse::<u64>().ok();
    let behind = header(record::header::PENDING);
    Ok(behind.map(|behind| behind + 1))
}

/// What the leader says of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    created: SystemTime,
    first: Revision,
    last: Revision,
    messages: u64,
    replicated: bool,
    leader: Option<String>,
    followers: Vec<Follower>,
}

/// What the leader knows of another server that stores the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Follower {
    name: String,
    current: bool,
    /// How many writes it lacks, or less.
    lag: u64,
}

impl Facts {
    async fn learn(place: &Place, deadline: Deadline) -> Result<Self> {
        let info = place.api.stream(&place.config.name, deadline).await?;
        let info = info.ok_or_else(|| Error::new(ErrorKind::BucketNotFound))?;
        Self::of(&info).ok_or_else(|| convert::backend("the information of a stream lacks its state"))
    }

    fn of(info: &Value) -> Option<Self> {
        let (state, cluster) = (&info["state"], &info["cluster"]);
        let follower = |peer: &Value| {
            Some(Follower {
                name: peer["name"].as_str()?.to_owned(),
                current: peer["current"].as_bool()?,
                lag: peer["lag"].as_u64().unwrap_or_default(),
            })
        };
        Some(Self {
            leader: cluster["leader"].as_str().map(str::to_owned),
            followers: cluster["replicas"].as_array().into_iter().flatten().filter_map(follower).collect(),
            created: record::time(info["created"].as_str()?)?,
            first: Revision::new(state["first_seq"].as_u64()?),
            last: Revision::new(state["last_seq"].as_u64()?),
            messages: state["messages"].as_u64()?,
            replicated: info["config"]["num_replicas"].as_u64() != Some(1),
        })
    }

    /// Whether that server has the stream up to this revision, as far as the leader knows.
    fn has_reached(&self, server: Option<&str>, revision: Revision) -> bool {
        if !self.replicated || server.is_some() && server == self.leader.as_deref() {
            return true;
        }
        let follower = self.followers.iter().find(|follower| Some(&*follower.name) == server);
        follower
            .is_some_and(|follower| follower.current && self.last.get().saturating_sub(follower.lag) >= revision.get())
    }

    /// Whether every message of a later revision is kept, if this alone tells.
    fn keeps_all_after(&self, revision: Revision) -> Option<bool> {
        let next = revision.get().saturating_add(1);
        if revision >= self.last {
            return Some(revision == self.last);
        }
        if next < self.first.get() {
            return Some(false);
        }
        let all = self.last.get() - self.first.get() + 1;
        (self.messages == all).then_some(true)
    }
}

/// How much of what was there when a consumer was made has come.
///
/// A key that is written meanwhile is skipped where it was, and comes later. So it goes on until nothing is to come; but
/// under writes that never pause, until it has caught up with where they were when the last of the first messages came.
#[derive(Debug)]
struct Listing {
    /// How many messages are to come until the end of the round.
    left: u64,
    first_round: bool,
    /// Which revision the server that delivers has to have reached.
    wanted: Revision,
    /// Which one it has reached, as far as is known.
    reached: Revision,
}

impl Listing {
    fn new(pending: u64, wanted: Revision) -> Self {
        Self { left: pending, first_round: true, wanted, reached: Revision::ZERO }
    }

    /// A message came, and so many are behind it.
    fn take(&mut self, revision: Revision, behind: u64) {
        self.reached = self.reached.max(revision);
        self.left = self.left.saturating_sub(1);
        if behind == 0 {
            self.left = 0;
        } else if self.left == 0 && self.first_round {
            self.left = behind;
            self.first_round = false;
        }
    }

    /// Nothing is to come up to this revision.
    fn idle(&mut self, upto: Revision) {
        self.reached = self.reached.max(upto);
        self.left = 0;
    }

    /// Whether all came that was there.
    fn is_over(&self) -> bool {
        self.left == 0 && self.reached >= self.wanted
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn facts(first: u64, last: u64, messages: u64) -> Facts {
        Facts::of(&json!({
            "created": "2026-08-14T12:02:39.5Z",
            "config": { "num_replicas": 3 },
            "state": { "first_seq": first, "last_seq": last, "messages": messages },
            "cluster": { "leader": "a", "replicas": [
                { "name": "b", "current": true, "lag": 2 },
                { "name": "c", "current": false },
            ] },
        }))
        .unwrap()
    }

    fn listing(pending: u64, wanted: u64, messages: &[(u64, u64)]) -> Listing {
        let mut listing = Listing::new(pending, Revision::new(wanted));
        for (revision, behind) in messages {
            assert!(!listing.is_over(), "{listing:?}");
            listing.take(Revision::new(*revision), *behind);
        }
        listing
    }

    #[test]
    fn facts_tell_whether_something_is_missing() {
        let after = |facts: Facts, revision| facts.keeps_all_after(Revision::new(revision));
        assert_eq!(after(facts(0, 0, 0), 0), Some(true));
        assert_eq!(after(facts(1, 5, 5), 0), Some(true));
        assert_eq!(after(facts(4, 5, 2), 3), Some(true));
        assert_eq!(after(facts(4, 5, 2), 2), Some(false));
        assert_eq!(after(facts(1, 5, 3), 2), None);
        assert_eq!(after(facts(1, 5, 3), 5), Some(true));
        assert_eq!(after(facts(1, 5, 5), 6), Some(false));
        assert_eq!(after(facts(1, 5, 5), u64::MAX), Some(false));
        // All of it was purged.
        assert_eq!(after(facts(6, 5, 0), 3), Some(false));
        assert_eq!(after(facts(6, 5, 0), 5), Some(true));
    }

    #[test]
    fn facts_tell_whether_a_server_is_behind() {
        let facts = facts(1, 9, 9);
        let reached = |server, revision| facts.has_reached(server, Revision::new(revision));
        assert!(reached(Some("a"), 9), "the leader");
        assert!(reached(Some("b"), 7) && !reached(Some("b"), 8), "two behind");
        assert!(!reached(Some("c"), 1) && !reached(Some("d"), 1) && !reached(None, 1), "nobody knows");
    }

    #[test]
    fn a_listing_of_nothing_is_over_at_once() {
        assert!(Listing::new(0, Revision::ZERO).is_over());
    }

    #[test]
    fn a_listing_is_over_when_nothing_is_behind() {
        assert!(listing(3, 0, &[(1, 2), (2, 1), (5, 0)]).is_over());
        // Two that were there expired.
        assert!(listing(3, 0, &[(1, 0)]).is_over());
        let mut expired = listing(3, 0, &[(1, 2)]);
        expired.idle(Revision::new(1));
        assert!(expired.is_over());
    }

    #[test]
    fn a_listing_under_writes_ends_after_another_round() {
        let mut listing = listing(2, 0, &[(1, 3), (3, 2)]);
        assert!(!listing.is_over(), "two were written while the first came, one of them again");
        listing.take(Revision::new(4), 5);
        listing.take(Revision::new(5), 5);
        assert!(listing.is_over(), "{listing:?}");
    }

    #[test]
    fn a_server_that_is_behind_is_waited_for() {
        let mut listing = listing(1, 9, &[(4, 0)]);
        assert!(!listing.is_over());
        listing.take(Revision::new(8), 0);
        assert!(!listing.is_over());
        listing.idle(Revision::new(9));
        assert!(listing.is_over());
    }
}
