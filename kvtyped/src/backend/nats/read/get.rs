//! Reads of one entry.
//!
//! Any server that stores the bucket may answer a direct get, so the reply may be stale. A read from the leader is an
//! API request. It costs about as much, but only one server can answer it.

use std::time::Duration;

use futures::FutureExt;
use serde_json::{Value, json};

use crate::backend::nats::bucket::StreamContext;
use crate::backend::nats::connection::connection::Reply;
use crate::backend::nats::jetstream::error;
use crate::backend::nats::jetstream::message::StoredMessage;
use crate::backend::{Backoff, Deadline, RawEntry, Read, ReadAt};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::revision::Revision;

/// How long a user who may not ask the leader waits for the other servers to catch up.
const REPLICA_CATCH_UP: Duration = Duration::from_millis(250);

pub(crate) async fn read(place: &StreamContext, key: &Key, at: ReadAt, deadline: Deadline) -> Result<Option<RawEntry>> {
    // All but the simplest read are boxed, so that the future of the simplest read stays small.
    match at {
        ReadAt::Newest(Read::Leader) => read_leader(place, key, deadline).boxed().await,
        ReadAt::Newest(Read::Any) => read_any(place, key, deadline).await,
        ReadAt::Newest(Read::AtLeast(revision)) => read_at_least(place, key, revision, deadline).boxed().await,
        ReadAt::Revision(revision) => at_revision(place, key, revision, deadline).boxed().await,
    }
}

async fn read_any(place: &StreamContext, key: &Key, deadline: Deadline) -> Result<Option<RawEntry>> {
    // A permission can be limited to some keys only in this form of the request.
    let verb = format!("DIRECT.GET.{}.{}", place.stream, place.subject(key));
    let found = direct_get(place, &verb, None, || json!({ "last_by_subj": place.subject(key) }), deadline).await?;
    found.map(|stored| stored.entry(&place.prefix)).transpose()
}

async fn read_at_least(
    place: &StreamContext,
    key: &Key,
    revision: Revision,
    deadline: Deadline,
) -> Result<Option<RawEntry>> {
    let soon = Deadline::after(deadline.remaining().min(REPLICA_CATCH_UP));
    let mut backoff = Backoff::outage();
    let mut denied = None;
    loop {
        let found = read_any(place, key, deadline).await?;
        if found.as_ref().map_or(Revision::ZERO, |entry| entry.revision) >= revision {
            return Ok(found);
        }
        if let Some(denied) = denied.take_if(|_| soon.is_expired()) {
            return Err(denied);
        }
        if denied.is_none() {
            match read_leader_at_least(place, key, revision, deadline).await {
                // A user who may not ask the leader may still get the entry from another server.
                Err(error) if error.is_denied() => denied = Some(error),
                answer => return answer,
            }
        }
        backoff.pause(soon).await;
    }
}

async fn read_leader(place: &StreamContext, key: &Key, deadline: Deadline) -> Result<Option<RawEntry>> {
    let found = place.leader_newest(key, deadline).await?;
    found.map(|stored| stored.entry(&place.leader_prefix())).transpose()
}

/// Reads the newest entry from a leader that has reached this revision of the bucket. An isolated leader does not have
/// the revision, and still answers for some seconds.
async fn read_leader_at_least(
    place: &StreamContext,
    key: &Key,
    revision: Revision,
    deadline: Deadline,
) -> Result<Option<RawEntry>> {
    let mut backoff = Backoff::outage();
    loop {
        let found = read_leader(place, key, deadline).await?;
        if !place.config.may_be_behind() || found.as_ref().is_some_and(|entry| entry.revision >= revision) {
            return Ok(found);
        }
        // The revision may belong to another key.
        match place.leader_last(deadline).await {
            Ok(last) if last >= revision => return read_leader(place, key, deadline).await,
            Ok(_) => {}
            // A user who may not request the last revision gets the entry without this check.
            Err(error) if error.is_denied() => return Ok(found),
            Err(error) => return Err(error),
        }
        if !backoff.pause(deadline).await {
            return Err(deadline.error());
        }
    }
}

async fn at_revision(
    place: &StreamContext,
    key: &Key,
    revision: Revision,
    deadline: Deadline,
) -> Result<Option<RawEntry>> {
    if revision == Revision::ZERO {
        return Ok(None);
    }
    let which = json!({ "seq": revision.get() });
    let verb = format!("DIRECT.GET.{}", place.stream);
    place.api.request_until_deadline(&verb)?;
    if let Some(stored) = direct_get(place, &verb, Some(&which), || which.clone(), deadline).await? {
        return if stored.subject.as_str() == place.subject(key) {
            stored.entry(&place.prefix).map(Some)
        } else {
            Ok(None)
        };
    }
    if !place.allow_direct || !place.config.may_be_behind() {
        return Ok(None);
    }
    // A server that is behind does not have the revision yet.
    match place.leader_api.leader(&place.leader_stream, &which, deadline).await {
        Ok(Some(stored)) if stored.subject.as_str() == place.leader_subject(key) => {
            stored.entry(&place.leader_prefix()).map(Some)
        }
        Ok(_) => Ok(None),
        // A user who may not ask the leader gets the result of the direct get.
        Err(error) if error.is_denied() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends a direct get. If the bucket does not allow direct gets, reads from its leader instead.
async fn direct_get(
    place: &StreamContext,
    verb: &str,
    body: Option<&Value>,
    otherwise: impl Fn() -> Value,
    deadline: Deadline,
) -> Result<Option<StoredMessage>> {
    let mut backoff = Backoff::outage();
    let mut allowed = place.allow_direct;
    loop {
        if !allowed {
            return place.api.leader(&place.stream, &otherwise(), deadline).boxed().await;
        }
        let message = match place.api.attempt(verb, body, deadline).await? {
            Reply::Message(message) => message,
            answer @ (Reply::Disconnected | Reply::TimedOut | Reply::NoResponders) => {
                let nobody = matches!(answer, Reply::NoResponders);
                let error = error::reply_error(answer, deadline);
                tracing::debug!(verb, %error, "retrying the read");
                // The bucket is gone, or it no longer allows direct gets, or it has no leader at the moment.
                if nobody && let Some(info) = place.probe_stream(deadline).boxed().await {
                    let info = info.ok_or_else(|| Error::new(ErrorKind::BucketNotFound))?;
                    allowed = info["config"]["allow_direct"].as_bool().unwrap_or_default();
                    // Or the stored message has the status of "no responders", and the client mistakes it for that. The
                    // leader's reply has no such status. If the user may not ask the leader, the read is repeated.
                    if allowed && let Ok(found) = place.api.leader(&place.stream, &otherwise(), deadline).boxed().await
                    {
                        return Ok(found);
                    }
                }
                if !backoff.pause(deadline).await {
                    return Err(error);
                }
                continue;
            }
            answer => return Err(error::reply_error(answer, deadline)),
        };
        match message.status.filter(|_| !StoredMessage::is_stored_message(&message)).map(|status| status.as_u16()) {
            None => return StoredMessage::from_direct(message).map(Some),
            Some(404) => return Ok(None),
            Some(status) => {
                let said = message.description.unwrap_or_default();
                return Err(error::backend(format!("a direct get was answered {status}: {said}")));
            }
        }
    }
}
