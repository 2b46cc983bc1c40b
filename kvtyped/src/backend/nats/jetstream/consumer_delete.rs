//! Deletion of a consumer that may exist on the server.

use std::time::Duration;

use super::api::{self, Api};
use crate::backend::nats::connection::reply::Reply;
use crate::backend::{Backoff, Deadline};

/// How long to retry the deletion of a consumer.
const DELETE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a consumer exists on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CreatedConsumer {
    No,
    /// It was requested and no reply arrived: it may exist, or may be created later.
    Maybe,
    Yes,
}

/// Deletes a consumer as soon as the client is connected. If the consumer does not exist, but may have been requested,
/// the deletion is retried: a cluster creates a consumer some time after the request.
pub(crate) async fn delete(api: Api, verb: String, created: CreatedConsumer) {
    let deadline = Deadline::after(DELETE_TIMEOUT);
    let mut backoff = Backoff::outage();
    loop {
        match api.attempt(&verb, None, deadline).await {
            Ok(Reply::Message(message)) => match api::parse(&message.payload) {
                Ok(Err(error)) if error.is_transient() => {}
                Ok(Err(error)) if created == CreatedConsumer::Maybe && !error.is_stream_not_found() => {}
                _ => return,
            },
            Ok(Reply::Disconnected | Reply::TimedOut | Reply::NoResponders) => {}
            _ => return,
        }
        if !backoff.pause(deadline).await {
            return;
        }
    }
}
