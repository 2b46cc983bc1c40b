//! The state of a stream according to its leader, and conclusions from it.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::error;
use super::message;
use crate::backend::Deadline;
use crate::backend::nats::bucket::StreamContext;
use crate::backend::nats::connection::connection::Reply;
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// How many times to check whether all messages of a stream are kept while the stream is written to.
pub(crate) const TRIES: usize = 3;

/// Returns whether it is proven that every write after this revision is kept.
///
/// No request returns the number of messages between two revisions. Instead, the messages after `revision` are counted,
/// and then the last revision is read. The count is as large as the distance between the two revisions only if no
/// message is missing. This holds even if the count comes from a stale server.
pub(crate) async fn has_no_gaps(
    place: &StreamContext,
    facts: &StreamState,
    later: &mut StreamState,
    revision: Revision,
    mut counted: Option<u64>,
    tries: usize,
    deadline: Deadline,
) -> Result<bool> {
    if let Some(known) = facts.has_no_gaps_after(revision) {
        return Ok(known);
    }
    for _ in 0..tries {
        if counted.is_none() {
            counted = count_messages_after(place, revision, deadline).await?;
            *later = StreamState::fetch(place, deadline).await?;
        }
        match counted.take() {
            Some(count) if count >= later.last.get().saturating_sub(revision.get()) => return Ok(true),
            Some(_) => {}
            None => return Ok(false),
        }
    }
    Ok(false)
}

/// Requests the number of messages after this revision from any server. Returns `None` if the server does not report it
/// (before 2.11, or without direct gets).
async fn count_messages_after(place: &StreamContext, revision: Revision, deadline: Deadline) -> Result<Option<u64>> {
    if !place.allow_direct || place.api.connection().is_restricted() {
        return Ok(None);
    }
    let verb = format!("DIRECT.GET.{}", place.stream);
    let asked = json!({ "seq": revision.get() + 1, "batch": 1, "next_by_subj": ">" });
    let answer = place.api.attempt(&verb, Some(&asked), deadline).await?;
    let Reply::Message(message) = answer else { return Ok(None) };
    if message.status.is_some() {
        return Ok(None);
    }
    let header = |name: &str| message.headers.as_ref()?.get_last(name)?.as_str().parse::<u64>().ok();
    let behind = header(message::header::PENDING);
    Ok(behind.map(|behind| behind + u64::from(!place.pending_includes_current)))
}

/// The state of a stream according to its leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamState {
    pub(crate) created: SystemTime,
    first: Revision,
    pub(crate) last: Revision,
    messages: u64,
    /// The only subject of the stream, with the number of subjects stored. `None` if the stream has several subjects or
    /// copies another stream.
    subjects: Option<(String, u64)>,
    /// The time on the server.
    pub(crate) now: SystemTime,
    pub(crate) replicated: bool,
    leader: Option<String>,
    followers: Vec<Replica>,
}

/// Another server that stores the stream, according to the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Replica {
    name: String,
    current: bool,
    /// The maximum number of writes that the server lacks.
    lag: u64,
}

impl StreamState {
    pub(crate) async fn fetch(place: &StreamContext, deadline: Deadline) -> Result<Self> {
        let info = place.api.stream(&place.config.name, deadline).await?;
        let info = info.ok_or_else(|| Error::new(ErrorKind::BucketNotFound))?;
        Self::parse(&info).ok_or_else(|| error::backend("the stream information lacks the state"))
    }

    pub(crate) fn parse(info: &Value) -> Option<Self> {
        let (state, cluster) = (&info["state"], &info["cluster"]);
        let follower = |peer: &Value| {
            Some(Replica {
                name: peer["name"].as_str()?.to_owned(),
                current: peer["current"].as_bool()?,
                lag: peer["lag"].as_u64().unwrap_or_default(),
            })
        };
        Some(Self {
            leader: cluster["leader"].as_str().map(str::to_owned),
            followers: cluster["replicas"].as_array().into_iter().flatten().filter_map(follower).collect(),
            created: message::time(info["created"].as_str()?)?,
            first: Revision::new(state["first_seq"].as_u64()?),
            last: Revision::new(state["last_seq"].as_u64()?),
            messages: state["messages"].as_u64()?,
            subjects: own_subjects(info),
            now: info["ts"].as_str().and_then(message::time).unwrap_or_else(SystemTime::now),
            replicated: info["config"]["num_replicas"].as_u64() != Some(1),
        })
    }

    /// Returns the number of keys that this filter matches, if the filter covers the whole stream.
    pub(crate) fn keys_of(&self, filter: &str) -> Option<u64> {
        self.subjects.as_ref().filter(|(only, _)| only == filter).map(|(_, count)| *count)
    }

    /// Returns whether that server has the stream up to this revision, as far as the leader knows.
    pub(crate) fn replica_has_reached(&self, server: Option<&str>, revision: Revision) -> bool {
        if !self.replicated || server.is_some() && server == self.leader.as_deref() {
            return true;
        }
        let follower = self.followers.iter().find(|follower| Some(&*follower.name) == server);
        follower
            .is_some_and(|follower| follower.current && self.last.get().saturating_sub(follower.lag) >= revision.get())
    }

    /// Returns whether every message after this revision is kept, or `None` if this state alone does not prove it.
    pub(crate) fn has_no_gaps_after(&self, revision: Revision) -> Option<bool> {
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

fn own_subjects(info: &Value) -> Option<(String, u64)> {
    let config = &info["config"];
    let [only] = config["subjects"].as_array()?.as_slice() else { return None };
    let copies = ["mirror", "sources", "subject_transform"].iter().any(|field| !config[*field].is_null());
    let count = info["state"]["num_subjects"].as_u64().unwrap_or_default();
    (!copies).then_some((only.as_str()?.to_owned(), count))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn facts(first: u64, last: u64, messages: u64) -> StreamState {
        StreamState::parse(&json!({
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

    #[test]
    fn facts_tell_whether_something_is_missing() {
        let after = |facts: StreamState, revision| facts.has_no_gaps_after(Revision::new(revision));
        assert_eq!(after(facts(0, 0, 0), 0), Some(true));
        assert_eq!(after(facts(1, 5, 5), 0), Some(true));
        assert_eq!(after(facts(4, 5, 2), 3), Some(true));
        assert_eq!(after(facts(4, 5, 2), 2), Some(false));
        assert_eq!(after(facts(1, 5, 3), 2), None);
        assert_eq!(after(facts(1, 5, 3), 5), Some(true));
        assert_eq!(after(facts(1, 5, 5), 6), Some(false));
        assert_eq!(after(facts(1, 5, 5), u64::MAX), Some(false));
        // All messages were purged.
        assert_eq!(after(facts(6, 5, 0), 3), Some(false));
        assert_eq!(after(facts(6, 5, 0), 5), Some(true));
    }

    #[test]
    fn facts_tell_whether_a_server_is_behind() {
        let facts = facts(1, 9, 9);
        let reached = |server, revision| facts.replica_has_reached(server, Revision::new(revision));
        assert!(reached(Some("a"), 9), "the leader");
        assert!(reached(Some("b"), 7) && !reached(Some("b"), 8), "two behind");
        assert!(
            !reached(Some("c"), 1) && !reached(Some("d"), 1) && !reached(None, 1),
            "the state of the replica is unknown"
        );
    }
}
