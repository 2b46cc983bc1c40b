//! Reads of one entry.
//!
//! Any server that stores the bucket may answer a direct get, so the reply may be stale. A read from the leader is an
//! API request. It costs about as much, but only one server can answer it.

use std::time::Duration;

use futures::FutureExt;
use serde_json::{Value, json};

use crate::backend::nats::connection::reply::Reply;
use crate::backend::nats::context::StreamContext;
use crate::backend::nats::jetstream::direct_get::DirectReply;
use crate::backend::nats::jetstream::message::StoredMessage;
use crate::backend::{Backoff, Deadline, KeySpace, RawEntry, Read, ReadAt};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::observe::note_retry;
use crate::revision::Revision;

/// How long a user who may not ask the leader waits for the other servers to catch up.
const REPLICA_CATCH_UP: Duration = Duration::from_millis(250);

/// Reads one entry of a key, which may be a delete marker.
pub(crate) async fn get(
    context: &StreamContext,
    space: KeySpace,
    key: &Key,
    at: ReadAt,
    deadline: Deadline,
) -> Result<Option<RawEntry>> {
    // All but the simplest read are boxed, so that the future of the simplest read stays small.
    if space == KeySpace::Index {
        return read_index(context, key, at, deadline).boxed().await;
    }
    match at {
        ReadAt::Newest(Read::Leader) => read_leader(context, space, key, deadline).boxed().await,
        ReadAt::Newest(Read::Any) => read_any(context, key, deadline).await,
        ReadAt::Newest(Read::AtLeast(revision)) => read_at_least(context, key, revision, deadline).boxed().await,
        ReadAt::Revision(revision) => at_revision(context, key, revision, deadline).boxed().await,
    }
}

async fn read_any(context: &StreamContext, key: &Key, deadline: Deadline) -> Result<Option<RawEntry>> {
    // A permission can be limited to some keys only in this form of the request.
    let subject = context.subject(key);
    let verb = format!("DIRECT.GET.{}.{subject}", context.stream);
    let found = direct_get(context, &verb, None, || json!({ "last_by_subj": subject }), deadline).await?;
    found.map(|stored| stored.entry(&context.prefix)).transpose()
}

/// Reads the entry of a key of the index. A mirror need not store the entries of its origin, so the origin is asked.
async fn read_index(context: &StreamContext, key: &Key, at: ReadAt, deadline: Deadline) -> Result<Option<RawEntry>> {
    let space = KeySpace::Index;
    let is_mirror = context.config.mirror.is_some();
    let (subject, prefix) = (context.leader_subject(space, key), context.leader_prefix(space));
    let found = match at {
        ReadAt::Newest(Read::Any) if !is_mirror => {
            let verb = format!("DIRECT.GET.{}.{subject}", context.stream);
            direct_get(context, &verb, None, || json!({ "last_by_subj": subject }), deadline).await?
        }
        ReadAt::Newest(Read::AtLeast(revision)) => {
            return read_leader_at_least(context, space, key, revision, deadline).await;
        }
        ReadAt::Newest(_) => context.leader_newest(space, key, deadline).await?,
        ReadAt::Revision(Revision::ZERO) => None,
        ReadAt::Revision(revision) => {
            let which = json!({ "seq": revision.get() });
            let found = context.leader_api.leader(&context.leader_stream, &which, deadline).await?;
            found.filter(|stored| stored.subject.as_str() == subject)
        }
    };
    found.map(|stored| stored.entry(&prefix)).transpose()
}

async fn read_at_least(
    context: &StreamContext,
    key: &Key,
    revision: Revision,
    deadline: Deadline,
) -> Result<Option<RawEntry>> {
    let catch_up = Deadline::after(deadline.remaining().min(REPLICA_CATCH_UP));
    let mut backoff = Backoff::outage();
    let mut denied = None;
    loop {
        let found = read_any(context, key, deadline).await?;
        if found.as_ref().map_or(Revision::ZERO, |entry| entry.revision) >= revision {
            return Ok(found);
        }
        if let Some(denied) = denied.take_if(|_| catch_up.is_expired()) {
            return Err(denied);
        }
        if denied.is_none() {
            match read_leader_at_least(context, KeySpace::Records, key, revision, deadline).await {
                // A user who may not ask the leader may still get the entry from another server.
                Err(error) if error.is_denied() => denied = Some(error),
                result => return result,
            }
        }
        backoff.pause(catch_up).await;
    }
}

async fn read_leader(
    context: &StreamContext,
    space: KeySpace,
    key: &Key,
    deadline: Deadline,
) -> Result<Option<RawEntry>> {
    let found = context.leader_newest(space, key, deadline).await?;
    found.map(|stored| stored.entry(&context.leader_prefix(space))).transpose()
}

/// Reads the newest entry from a leader that has reached this revision of the bucket. An isolated leader does not have
/// the revision, and still answers for some seconds.
async fn read_leader_at_least(
    context: &StreamContext,
    space: KeySpace,
    key: &Key,
    revision: Revision,
    deadline: Deadline,
) -> Result<Option<RawEntry>> {
    let mut backoff = Backoff::outage();
    loop {
        let found = read_leader(context, space, key, deadline).await?;
        if !context.config.may_be_behind() || found.as_ref().is_some_and(|entry| entry.revision >= revision) {
            return Ok(found);
        }
        // The revision may belong to another key.
        match context.leader_last(deadline).await {
            Ok(last) if last >= revision => return read_leader(context, space, key, deadline).await,
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
    context: &StreamContext,
    key: &Key,
    revision: Revision,
    deadline: Deadline,
) -> Result<Option<RawEntry>> {
    if revision == Revision::ZERO {
        return Ok(None);
    }
    let which = json!({ "seq": revision.get() });
    let verb = format!("DIRECT.GET.{}", context.stream);
    context.api.check_unrestricted(&verb)?;
    if let Some(stored) = direct_get(context, &verb, Some(&which), || which.clone(), deadline).await? {
        return if stored.subject.as_str() == context.subject(key) {
            stored.entry(&context.prefix).map(Some)
        } else {
            Ok(None)
        };
    }
    if !context.allow_direct || !context.config.may_be_behind() {
        return Ok(None);
    }
    // A server that is behind does not have the revision yet.
    match context.leader_api.leader(&context.leader_stream, &which, deadline).await {
        Ok(Some(stored)) if stored.subject.as_str() == context.leader_subject(KeySpace::Records, key) => {
            stored.entry(&context.leader_prefix(KeySpace::Records)).map(Some)
        }
        Ok(_) => Ok(None),
        // A user who may not ask the leader gets the result of the direct get.
        Err(error) if error.is_denied() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends a direct get. If the bucket does not allow direct gets, reads from its leader instead.
async fn direct_get(
    context: &StreamContext,
    verb: &str,
    body: Option<&Value>,
    leader_request: impl Fn() -> Value,
    deadline: Deadline,
) -> Result<Option<StoredMessage>> {
    let mut backoff = Backoff::outage();
    let mut allowed = context.allow_direct;
    loop {
        if !allowed {
            return context.api.leader(&context.stream, &leader_request(), deadline).boxed().await;
        }
        let reply = match context.api.attempt(verb, body, deadline).await? {
            Reply::Message(message) => DirectReply::new(message),
            reply @ (Reply::Disconnected | Reply::TimedOut | Reply::NoResponders) => {
                let has_no_responders = matches!(reply, Reply::NoResponders);
                let error = reply.into_error(deadline);
                tracing::debug!(stream = context.stream, %error, "retrying the read");
                note_retry(&error);
                // The bucket is gone, or it no longer allows direct gets, or it has no leader at the moment.
                if has_no_responders && let Some(info) = context.probe_stream(deadline).boxed().await {
                    let info = info.ok_or_else(|| Error::new(ErrorKind::BucketNotFound))?;
                    allowed = info["config"]["allow_direct"].as_bool().unwrap_or_default();
                    // Or the stored message has the status of "no responders", and the client mistakes it for that. The
                    // leader's reply has no such status. If the user may not ask the leader, the read is repeated.
                    if allowed
                        && let Ok(found) =
                            context.api.leader(&context.stream, &leader_request(), deadline).boxed().await
                    {
                        return Ok(found);
                    }
                }
                if !backoff.pause(deadline).await {
                    return Err(error);
                }
                continue;
            }
            reply => return Err(reply.into_error(deadline)),
        };
        match reply.status() {
            None => return reply.into_stored().map(Some),
            Some(404) => return Ok(None),
            Some(status) => {
                let description = reply.description();
                return Err(Error::backend(format!("the server refused a direct get: {status} {description}")));
            }
        }
    }
}
