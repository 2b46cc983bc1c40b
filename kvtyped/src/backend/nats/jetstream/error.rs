//! Errors of the JetStream API, and their conversion to errors of this crate.
//!
//! Each code in [`ApiError::common_kind`] is definite: the server checks it before it stores or changes anything.

use serde::Deserialize;

use super::error_code as code;
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
        self.err_code == code::STREAM_NOT_FOUND
    }

    pub(crate) fn is_message_not_found(&self) -> bool {
        self.err_code == code::MESSAGE_NOT_FOUND
    }

    /// Returns whether the server refused the `inactive_threshold` of a consumer as too long.
    pub(crate) fn is_inactive_too_long(&self) -> bool {
        self.err_code == code::INACTIVE_THRESHOLD_TOO_LONG
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
            code::WRONG_LAST_SEQUENCE => Some(actual().map(Revision::new)),
            code::WRONG_LAST_SEQUENCE_IN_FLIGHT => Some(None),
            _ => None,
        }
    }

    /// Returns the kind of an error that means the same to every operation, or `None` for any other code.
    fn common_kind(&self) -> Option<ErrorKind> {
        let text = || self.description.clone();
        Some(match self.err_code {
            10058 => ErrorKind::BucketExists,
            code::STREAM_NOT_FOUND => ErrorKind::BucketNotFound,
            // Limits on storage, memory, streams or consumers of the account; resources of a server; no limit tier for the
            // replicas.
            10002 | 10023 | 10026 | 10027 | 10028 | 10047 | 10053 | 10120 => ErrorKind::LimitReached { limit: text() },
            10039 | 10076 => ErrorKind::Unsupported { needs: "JetStream".into(), found: text() },
            // A field that the server does not know, and an API level that it does not have.
            10025 | 10185 => ErrorKind::Unsupported { needs: "a newer nats-server; update it".into(), found: text() },
            code::HEADERS_TOO_LARGE => ErrorKind::TooLarge { size: None, limit: None },
            10109 => unsupported("a bucket that accepts writes", "a sealed bucket, which can never be written again"),
            code::ROLLUP_DISABLED => unsupported(
                "a bucket that allows purges; open it once with `.on_drift(Drift::Update)`",
                "a bucket with `allow_rollup_hdrs` = false",
            ),
            10057 | 10110 if self.description.contains("not permitted") => {
                unsupported("a bucket that allows purges", "a bucket with `deny_purge` or `deny_delete` = true")
            }
            // Offline, moving, or being reconfigured: a temporary state that the caller did not cause.
            10118 | 10119 | 10123 | 10124 | 10194 | 10195 | 10202 | 10226 => ErrorKind::Unavailable { reason: text() },
            10005 if self.description.contains("offline") => ErrorKind::Unavailable { reason: text() },
            10168 => unsupported("a bucket of counters", "a bucket of records"),
            code::INCREMENT_MISSING => unsupported("a bucket of records", "a bucket of counters"),
            _ if self.is_transient() => ErrorKind::Unavailable { reason: text() },
            _ => return None,
        })
    }

    /// Converts the error of an operation that is not a write.
    pub(crate) fn into_error(self) -> Error {
        let kind = self.common_kind();
        Error::new(kind.unwrap_or(ErrorKind::Backend { code: Some(self.err_code), detail: self.description }))
    }

    /// Converts the error of a request that creates or changes a bucket.
    pub(crate) fn into_config_error(self) -> Error {
        let is_refused =
            self.code == 400 || matches!(self.err_code, code::INVALID_STREAM_CONFIG | code::REPLICAS_NOT_SUPPORTED);
        match self.common_kind() {
            None if is_refused => Error::invalid_config(self.description),
            _ => self.into_error(),
        }
    }

    /// Converts the error of a write of `size` bytes to a bucket with this limit.
    pub(crate) fn into_write_error(self, limit: Option<usize>, size: usize) -> Error {
        let kind = match self.err_code {
            code::MESSAGE_TOO_LARGE => ErrorKind::TooLarge { size: Some(size), limit },
            code::HEADERS_TOO_LARGE => ErrorKind::TooLarge { size: Some(size), limit: None },
            code::STORE_FAILED if self.description.contains("maximum") => ErrorKind::BucketFull,
            code::STORE_FAILED => return Error::unavailable(self.description).unknown_outcome(),
            code::INVALID_MESSAGE_TTL => ErrorKind::InvalidConfig { reason: self.description },
            code::MESSAGE_TTL_DISABLED => unsupported(
                "limit markers for the TTL of a key; open the bucket with `limit_markers` and `Drift::Update`",
                "a bucket without limit markers",
            ),
            // An internal server error can occur before or after the server stores the message.
            _ if self.code >= 500 && self.common_kind().is_none() => return self.into_error().unknown_outcome(),
            _ => return self.into_error(),
        };
        Error::new(kind)
    }
}

fn unsupported(needs: &str, found: &str) -> ErrorKind {
    ErrorKind::Unsupported { needs: needs.to_owned(), found: found.to_owned() }
}

/// Returns `Some` if the server refused the `max_ack_pending` of a consumer, with the limit if the server names it.
pub(crate) fn max_ack_pending_limit(error: &Error) -> Option<Option<usize>> {
    let ErrorKind::Backend { code: Some(code::MAX_ACK_PENDING_EXCEEDED), detail } = error.kind() else { return None };
    Some(detail.rsplit(' ').next().and_then(|number| number.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Outcome;

    fn error(err_code: u64, description: &str) -> ApiError {
        ApiError { code: 400, err_code, description: description.into() }
    }

    #[test]
    fn both_wrong_sequence_codes_are_conflicts() {
        assert_eq!(error(10071, "wrong last sequence: 7").actual_revision(), Some(Some(Revision::new(7))));
        assert_eq!(error(10164, "wrong last sequence").actual_revision(), Some(None));
        assert_eq!(error(10054, "message size exceeds maximum allowed").actual_revision(), None);
    }

    #[test]
    fn full_disk_is_not_reported_as_bucket_full() {
        let full = error(10077, "maximum bytes exceeded").into_write_error(None, 1);
        assert!(matches!(full.kind(), ErrorKind::BucketFull), "{full}");
        let disk = error(10077, "no space left on device").into_write_error(None, 1);
        assert_eq!(disk.outcome(), Outcome::Unknown);
    }

    /// The name of a kind, and `?` if the outcome is unknown.
    fn kind_and_outcome(error: &Error) -> String {
        let kind = format!("{:?}", error.kind());
        let name = kind.split([' ', '{']).next().unwrap_or_default();
        format!("{name}{}", if error.outcome() == Outcome::Unknown { "?" } else { "" })
    }

    /// Code, status and text, and the error kinds for a request, a change of settings and a write.
    const CASES: &[(u64, u64, &str, [&str; 3])] = &[
        (10002, 400, "resource limits exceeded for account", ["LimitReached"; 3]),
        (10005, 400, "no suitable peers for placement, peer offline", ["Unavailable"; 3]),
        (10005, 400, "no suitable peers for placement, tags not matched", ["Backend", "InvalidConfig", "Backend"]),
        (10008, 503, "JetStream system temporarily unavailable", ["Unavailable"; 3]),
        (10009, 500, "JetStream cluster can not handle request", ["Unavailable"; 3]),
        (10023, 503, "insufficient resources", ["LimitReached"; 3]),
        (10025, 400, "invalid JSON: unknown field", ["Unsupported"; 3]),
        (10026, 400, "maximum consumers limit reached", ["LimitReached"; 3]),
        (10027, 400, "maximum number of streams reached", ["LimitReached"; 3]),
        (10028, 500, "insufficient memory resources available", ["LimitReached"; 3]),
        (10039, 503, "JetStream not enabled for account", ["Unsupported"; 3]),
        (10047, 500, "insufficient storage resources available", ["LimitReached"; 3]),
        (10052, 500, "max age needs to be >= 100ms", ["Backend", "InvalidConfig", "Backend?"]),
        (10053, 500, "maximum streams exceeded", ["LimitReached"; 3]),
        (10054, 400, "message size exceeds maximum allowed", ["Backend", "InvalidConfig", "TooLarge"]),
        (10057, 500, "message delete not permitted", ["Unsupported"; 3]),
        (10058, 400, "stream name already in use with a different configuration", ["BucketExists"; 3]),
        (10059, 404, "stream not found", ["BucketNotFound"; 3]),
        (10065, 400, "subjects overlap with an existing stream", ["Backend", "InvalidConfig", "Backend"]),
        (10074, 500, "replicas > 1 not supported in non-clustered mode", ["Backend", "InvalidConfig", "Backend?"]),
        (10076, 503, "JetStream not enabled", ["Unsupported"; 3]),
        (10077, 503, "maximum bytes exceeded", ["Backend", "Backend", "BucketFull"]),
        (10077, 503, "maximum messages exceeded", ["Backend", "Backend", "BucketFull"]),
        (10077, 503, "no space left on device", ["Backend", "Backend", "Unavailable?"]),
        (10097, 400, "header size exceeds maximum allowed of 64k", ["TooLarge"; 3]),
        (10109, 400, "invalid operation on sealed stream", ["Unsupported"; 3]),
        (10110, 500, "stream purge not permitted", ["Unsupported"; 3]),
        (10110, 500, "disk failure", ["Backend", "Backend", "Backend?"]),
        (10111, 500, "rollup not permitted", ["Unsupported"; 3]),
        (10113, 400, "account requires a stream config to have max bytes set", ["Backend", "InvalidConfig", "Backend"]),
        (10118, 500, "stream is offline", ["Unavailable"; 3]),
        (10120, 400, "no JetStream default or applicable tiered limit present", ["LimitReached"; 3]),
        (
            10122,
            400,
            "stream max bytes exceeds account limit max stream bytes",
            ["Backend", "InvalidConfig", "Backend"],
        ),
        (10124, 400, "stream move already in progress", ["Unavailable"; 3]),
        (10163, 503, "expected last sequence per subject temporarily unavailable", ["Unavailable"; 3]),
        (10165, 400, "invalid per-message TTL", ["Backend", "InvalidConfig", "InvalidConfig"]),
        (10166, 400, "per-message TTL is disabled", ["Backend", "InvalidConfig", "Unsupported"]),
        (10167, 429, "too many requests", ["Unavailable"; 3]),
        (10168, 400, "message counters is disabled", ["Unsupported"; 3]),
        (10169, 400, "message counter increment is missing", ["Unsupported"; 3]),
        (10174, 400, "atomic publish is disabled", ["Backend", "InvalidConfig", "Backend"]),
        (10185, 412, "JetStream minimum api level required", ["Unsupported"; 3]),
        (10194, 500, "stream is offline: unsupported", ["Unavailable"; 3]),
        (10210, 429, "atomic publish too many inflight", ["Unavailable"; 3]),
        (10226, 400, "stream reconfiguration already in progress", ["Unavailable"; 3]),
        (10041, 500, "raft failed", ["Backend", "Backend", "Backend?"]),
    ];

    #[test]
    fn each_error_code_maps_to_kind_and_outcome() {
        for (err_code, code, text, wanted) in CASES {
            let error = || ApiError { code: *code, err_code: *err_code, description: (*text).to_owned() };
            let found = [error().into_error(), error().into_config_error(), error().into_write_error(None, 1)]
                .map(|error| kind_and_outcome(&error));
            assert_eq!(found, *wanted, "{err_code} {text}");
        }
    }
}
