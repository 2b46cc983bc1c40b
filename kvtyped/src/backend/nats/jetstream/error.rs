//! Conversion of errors of the server and of the client to errors of this crate.

use std::error::Error as StdError;

use async_nats::{ConnectError, ConnectErrorKind, Message, RequestError, RequestErrorKind, ServerAddr};
use serde::Deserialize;

use super::error_code;
use crate::backend::Deadline;
use crate::backend::nats::connection::connection::Reply;
use crate::backend::nats::connection::tls;
use crate::backend::nats::connection::tls::Tls;
use crate::error::{Error, ErrorKind};
use crate::revision::Revision;

/// An error of the JetStream API.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ApiError {
    /// The status code, as in HTTP.
    #[serde(default)]
    pub(crate) code: u64,
    /// The JetStream error code.
    #[serde(default)]
    pub(crate) err_code: u64,
    #[serde(default)]
    pub(crate) description: String,
}

impl ApiError {
    pub(crate) fn is_stream_not_found(&self) -> bool {
        self.err_code == 10059
    }

    pub(crate) fn is_message_not_found(&self) -> bool {
        self.err_code == 10037
    }

    /// Returns whether the server refused the `inactive_threshold` of a consumer as too long.
    pub(crate) fn is_inactive_too_long(&self) -> bool {
        self.err_code == 10153
    }

    /// Returns whether the cause is temporary: no leader at the moment, or too many requests.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self.err_code, 10008 | 10009 | 10163 | 10167) || self.code == 429
    }

    /// Returns `Some` for a conflict, with the current revision of the checked key: `wrong last sequence: 7`.
    ///
    /// There are two codes. Only the first one contains the revision. The second one means that another write is in
    /// flight.
    pub(crate) fn actual_revision(&self) -> Option<Option<Revision>> {
        let actual = || self.description.rsplit_once(": ").and_then(|(_, number)| number.parse().ok());
        match self.err_code {
            10071 => Some(actual().map(Revision::new)),
            10164 => Some(None),
            _ => None,
        }
    }
}

/// Converts an API error of an operation that is not a write.
pub(crate) fn from_api_error(error: ApiError) -> Error {
    let kind = error_code::kind(&error);
    Error::new(kind.unwrap_or(ErrorKind::Backend { code: Some(error.err_code), detail: error.description }))
}

/// Returns `Some` if the server refused the `max_ack_pending` of a consumer, with the limit if the server names it.
pub(crate) fn too_many_pending(error: &Error) -> Option<Option<usize>> {
    let ErrorKind::Backend { code: Some(10121), detail } = error.kind() else { return None };
    Some(detail.rsplit(' ').next().and_then(|number| number.parse().ok()))
}

/// Converts an API error of a request that creates or changes a bucket.
pub(crate) fn from_config_error(error: ApiError) -> Error {
    // Some versions report 10052 and 10074 with the status of an internal error.
    let is_refused = error.code == 400 || matches!(error.err_code, 10052 | 10074);
    match error_code::kind(&error) {
        None if is_refused => Error::invalid_config(error.description),
        _ => from_api_error(error),
    }
}

/// Converts an API error of a write.
pub(crate) fn from_write_error(error: ApiError, limit: Option<usize>, size: usize) -> Error {
    let kind = match error.err_code {
        10054 => ErrorKind::TooLarge { size: Some(size), limit },
        10097 => ErrorKind::TooLarge { size: Some(size), limit: None },
        10077 if error.description.contains("maximum") => ErrorKind::BucketFull,
        10077 => {
            let error = Error::unavailable(error.description);
            return error.unknown_outcome();
        }
        10165 => ErrorKind::InvalidConfig { reason: error.description },
        10166 => ErrorKind::Unsupported {
            needs: "limit markers (`limit_markers`) for the TTL of a key".into(),
            found: "a bucket without".into(),
        },
        10111 if error.description.contains("rollup") => ErrorKind::Unsupported {
            needs: "a bucket that allows rollups (`rollups`), as a purge does".into(),
            found: "a bucket without".into(),
        },
        // An internal server error can occur before or after the server stores the message.
        _ if error.code >= 500 && error_code::kind(&error).is_none() => return from_api_error(error).unknown_outcome(),
        _ => return from_api_error(error),
    };
    Error::new(kind)
}

/// Converts the result of a request.
pub(crate) fn from_request_result(reply: Result<Message, RequestError>) -> Reply {
    let error = match reply {
        Ok(message) => return Reply::Message(message),
        Err(error) => error,
    };
    match error.kind() {
        RequestErrorKind::NoResponders => Reply::NoResponders,
        RequestErrorKind::TimedOut => Reply::TimedOut,
        RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => Reply::NotSent(error),
        // If the client dropped the reply channel, it had accepted the request before.
        RequestErrorKind::Other if error.source().is_some_and(|source| source.is::<ResponseDropped>()) => {
            Reply::Disconnected
        }
        RequestErrorKind::Other => Reply::Closed,
    }
}

type ResponseDropped = tokio::sync::oneshot::error::RecvError;

/// Converts an answer without a message to an error, for a caller that has no time to ask again.
pub(crate) fn reply_error(answer: Reply, deadline: Deadline) -> Error {
    match answer {
        Reply::PermissionDenied(subject) => Error::new(ErrorKind::PermissionDenied { subject }),
        Reply::Closed => Error::new(ErrorKind::Closed),
        Reply::NotSent(error) if error.kind() == RequestErrorKind::MaxPayloadExceeded => {
            Error::new(ErrorKind::TooLarge { size: None, limit: None })
        }
        Reply::NotSent(error) => backend("the request cannot be sent").caused_by(error),
        Reply::NoResponders => Error::unavailable("no server answers"),
        Reply::Disconnected | Reply::TimedOut | Reply::Message(_) => deadline.error(),
    }
}

/// Creates the error of an unexpected reply.
pub(crate) fn backend(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Backend { code: None, detail: detail.into() })
}

/// Creates the error of a sole copy of a write that the server reported as a duplicate: another message has the id, or
/// two servers took the copy.
pub(crate) fn foreign_duplicate() -> Error {
    backend("the server took a fresh operation id for that of another message").unknown_outcome()
}

/// Returns whether reconnecting failed because of the credentials. The client reports the kind of the error only as
/// text.
pub(crate) fn is_auth_error(text: &str) -> bool {
    [ConnectErrorKind::AuthorizationViolation, ConnectErrorKind::Authentication]
        .iter()
        .any(|kind| kind.to_string() == text)
}

/// Converts a connection error. The message names the servers without their users.
pub(crate) fn from_connect_error(error: ConnectError, servers: &[ServerAddr], tls: &Tls) -> Error {
    if let Some(why) = tls::explain(&error, tls) {
        return why.caused_by(error);
    }
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            Error::new(ErrorKind::Unauthorized)
        }
        ConnectErrorKind::ServerParse => Error::invalid_config("the server URL is invalid"),
        _ => {
            let servers: Vec<_> = servers.iter().map(|server| format!("{}:{}", server.host(), server.port())).collect();
            Error::unavailable(format!("no connection to {}", servers.join(", "))).caused_by(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(err_code: u64, description: &str) -> ApiError {
        ApiError { code: 400, err_code, description: description.into() }
    }

    #[test]
    fn both_codes_of_a_conflict_are_conflicts() {
        assert_eq!(error(10071, "wrong last sequence: 7").actual_revision(), Some(Some(Revision::new(7))));
        assert_eq!(error(10164, "wrong last sequence").actual_revision(), Some(None));
        assert_eq!(error(10054, "message size exceeds maximum allowed").actual_revision(), None);
    }

    #[test]
    fn a_full_bucket_is_no_failing_disk() {
        let full = from_write_error(error(10077, "maximum bytes exceeded"), None, 1);
        assert!(matches!(full.kind(), ErrorKind::BucketFull), "{full}");
        let disk = from_write_error(error(10077, "no space left on device"), None, 1);
        assert_eq!(disk.outcome(), crate::error::Outcome::Unknown);
    }
}
