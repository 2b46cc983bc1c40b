//! The reply to a message that the server should store: a publish acknowledgement, or an error.

use serde::Deserialize;

use crate::backend::Deadline;
use crate::backend::nats::connection::reply::Reply;
use crate::backend::nats::jetstream::api::malformed_reply;
use crate::backend::nats::jetstream::error::ApiError;
use crate::error::{Error, Result};

/// The error text if no server listens on the subject of a bucket.
const NO_LEADER: &str = "the bucket has no leader, or JetStream is disabled for this account";

/// A publish acknowledgement.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Acknowledgement {
    /// The sequence of the message. For a batch, the sequence of the last message.
    pub(crate) seq: u64,
    /// Whether the message was already stored under the same id.
    pub(crate) duplicate: bool,
    /// The number of messages in the batch.
    pub(crate) count: usize,
    /// The total of a counter.
    pub(crate) val: Option<String>,
    error: Option<ApiError>,
}

/// The reply to one message.
pub(crate) enum AckReply {
    Stored(Acknowledgement),
    /// The server reports an error.
    Error(ApiError),
    /// Final: the server did not receive the message, or its reply is unreadable and the outcome is unknown.
    Rejected(Error),
    /// No server received the message, for a temporary reason.
    Retry(Error),
    /// No reply.
    Missing,
}

impl AckReply {
    /// Interprets the reply to a message with this subject.
    pub(crate) fn new(reply: Reply, subject: &str, deadline: Deadline) -> Self {
        match reply {
            Reply::Message(message) => match parse(&message.payload) {
                Ok(Ok(ack)) => Self::Stored(ack),
                Ok(Err(error)) => Self::Error(error),
                Err(error) => Self::Rejected(error.unknown_outcome()),
            },
            Reply::TimedOut | Reply::Disconnected => Self::Missing,
            Reply::NoResponders => Self::Retry(Error::unavailable(NO_LEADER)),
            // If the server denied only the reply subject, it may have applied the operation.
            Reply::PermissionDenied(denied) if denied != subject => {
                Self::Rejected(Reply::PermissionDenied(denied).into_error(deadline).unknown_outcome())
            }
            reply => Self::Rejected(reply.into_error(deadline)),
        }
    }
}

/// Parses a publish acknowledgement. Returns the acknowledgement, or the error that the server reports.
fn parse(payload: &[u8]) -> Result<Result<Acknowledgement, ApiError>> {
    let mut ack: Acknowledgement = serde_json::from_slice(payload).map_err(malformed_reply)?;
    Ok(ack.error.take().map_or(Ok(ack), Err))
}
