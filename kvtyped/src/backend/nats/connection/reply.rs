//! The result of one request, and the conversion of the client's request errors.

use std::error::Error as StdError;
use std::future::Future;

use async_nats::{Message, RequestError, RequestErrorKind};
use futures::FutureExt;
use futures::future::select_all;
use tokio::time::Instant;

use crate::backend::Deadline;
use crate::error::{Error, ErrorKind, without_index_value};

/// The result of a request.
pub(crate) enum Reply {
    /// The reply of the server.
    Message(Message),
    /// No subscription matches the subject, so the request was not received.
    NoResponders,
    /// The server denied this user the subject, and dropped the request.
    PermissionDenied(String),
    /// The request was never sent, and the connection is closed for good.
    Closed,
    /// The request was never sent: it is too large, or its subject is invalid.
    NotSent(RequestError),
    /// The connection of the request broke. A reply may still arrive.
    Disconnected,
    /// No reply arrived in time. It may still arrive.
    TimedOut,
}

type ResponseDropped = tokio::sync::oneshot::error::RecvError;

impl Reply {
    /// Converts the result that the client returns.
    pub(crate) fn from_result(result: Result<Message, RequestError>) -> Self {
        let error = match result {
            Ok(message) => return Self::Message(message),
            Err(error) => error,
        };
        match error.kind() {
            RequestErrorKind::NoResponders => Self::NoResponders,
            RequestErrorKind::TimedOut => Self::TimedOut,
            RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => Self::NotSent(error),
            // If the client dropped the reply channel, it had accepted the request before.
            RequestErrorKind::Other if error.source().is_some_and(|source| source.is::<ResponseDropped>()) => {
                Self::Disconnected
            }
            RequestErrorKind::Other => Self::Closed,
        }
    }

    /// Converts a reply without a message to an error, for a caller that has no time for another attempt.
    pub(crate) fn into_error(self, deadline: Deadline) -> Error {
        match self {
            Self::PermissionDenied(subject) => {
                Error::new(ErrorKind::PermissionDenied { subject: without_index_value(subject) })
            }
            Self::Closed => Error::new(ErrorKind::Closed),
            Self::NotSent(error) if error.kind() == RequestErrorKind::MaxPayloadExceeded => {
                Error::new(ErrorKind::TooLarge { size: None, limit: None })
            }
            Self::NotSent(error) => Error::backend("the request cannot be sent").caused_by(error),
            Self::NoResponders => Error::unavailable("no server responds"),
            Self::Disconnected | Self::TimedOut | Self::Message(_) => deadline.error(),
        }
    }
}

/// A request in flight.
pub(crate) trait AwaitReply: Send {
    /// Waits for the next reply until the given time.
    fn wait(&mut self, until: Instant) -> impl Future<Output = Reply> + Send;
}

/// Waits until the given time for the first reply to any of these requests. Returns the reply and the index of the
/// request. There must be at least one request.
pub(crate) async fn first_reply<R: AwaitReply>(requests: &mut [R], until: Instant) -> (Reply, usize) {
    if let [only] = requests {
        return (only.wait(until).await, 0);
    }
    let (reply, index, _) = select_all(requests.iter_mut().map(|request| request.wait(until).boxed())).await;
    (reply, index)
}
