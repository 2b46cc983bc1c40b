//! The state of a stream according to its leader.

use std::time::SystemTime;

use serde_json::Value;

use super::api::Api;
use super::message::time;
use crate::backend::Deadline;
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

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
    /// Requests the state of the stream of this bucket.
    pub(crate) async fn fetch(api: &Api, bucket: &str, deadline: Deadline) -> Result<Self> {
        let info = api.stream(bucket, deadline).await?;
        let info = info.ok_or_else(|| Error::new(ErrorKind::BucketNotFound))?;
        Self::parse(&info).ok_or_else(|| Error::backend("the stream information lacks the state"))
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
            created: time(info["created"].as_str()?)?,
            first: Revision::new(state["first_seq"].as_u64()?),
            last: Revision::new(state["last_seq"].as_u64()?),
            messages: state["messages"].as_u64()?,
            subjects: own_subjects(info),
            now: info["ts"].as_str().and_then(time).unwrap_or_else(SystemTime::now),
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
    let is_copy = ["mirror", "sources", "subject_transform"].iter().any(|field| !config[*field].is_null());
    let count = info["state"]["num_subjects"].as_u64().unwrap_or_default();
    (!is_copy).then_some((only.as_str()?.to_owned(), count))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn state(first: u64, last: u64, messages: u64) -> StreamState {
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
    fn stream_state_detects_gaps_after_revision() {
        let after = |state: StreamState, revision| state.has_no_gaps_after(Revision::new(revision));
        assert_eq!(after(state(0, 0, 0), 0), Some(true));
        assert_eq!(after(state(1, 5, 5), 0), Some(true));
        assert_eq!(after(state(4, 5, 2), 3), Some(true));
        assert_eq!(after(state(4, 5, 2), 2), Some(false));
        assert_eq!(after(state(1, 5, 3), 2), None);
        assert_eq!(after(state(1, 5, 3), 5), Some(true));
        assert_eq!(after(state(1, 5, 5), 6), Some(false));
        assert_eq!(after(state(1, 5, 5), u64::MAX), Some(false));
        // All messages were purged.
        assert_eq!(after(state(6, 5, 0), 3), Some(false));
        assert_eq!(after(state(6, 5, 0), 5), Some(true));
    }

    #[test]
    fn stream_state_detects_lagging_replica() {
        let state = state(1, 9, 9);
        let reached = |server, revision| state.replica_has_reached(server, Revision::new(revision));
        assert!(reached(Some("a"), 9), "the leader");
        assert!(reached(Some("b"), 7) && !reached(Some("b"), 8), "two behind");
        assert!(
            !reached(Some("c"), 1) && !reached(Some("d"), 1) && !reached(None, 1),
            "the state of the replica is unknown"
        );
    }
}
