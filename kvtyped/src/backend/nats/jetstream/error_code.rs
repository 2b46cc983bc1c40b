//! The error codes of the JetStream API (`errors.json` of nats-server 2.15) that mean the same to every operation.
//!
//! Each of these is definite: the server checks it before it stores or changes anything. Codes that have a special
//! meaning for one operation are in [`convert`](super::error).

use super::error::ApiError;
use crate::error::ErrorKind;

/// Returns the kind of an error that means the same to every operation, or `None` for any other code.
pub(crate) fn kind(error: &ApiError) -> Option<ErrorKind> {
    let text = || error.description.clone();
    Some(match error.err_code {
        10058 => ErrorKind::BucketExists,
        10059 => ErrorKind::BucketNotFound,
        // Limits on storage, memory, streams or consumers of the account; resources of a server; no limit tier for the
        // replicas.
        10002 | 10023 | 10026 | 10027 | 10028 | 10047 | 10053 | 10120 => ErrorKind::LimitReached { limit: text() },
        10039 | 10076 => ErrorKind::Unsupported { needs: "JetStream".into(), found: text() },
        // A field that the server does not know, and an API level that it does not have.
        10025 | 10185 => ErrorKind::Unsupported { needs: "a newer server".into(), found: text() },
        10097 => ErrorKind::TooLarge { size: None, limit: None },
        10109 => unsupported("a bucket that takes changes", "a sealed one, which is read only for good"),
        10111 => unsupported(
            "a bucket that allows purges: open it once with `.on_drift(Drift::Update)`",
            "`allow_rollup_hdrs` = false",
        ),
        10057 | 10110 if error.description.contains("not permitted") => {
            unsupported("a bucket whose records may be erased", "`deny_purge` or `deny_delete` = true")
        }
        // Offline, moving, or being reconfigured: a temporary state that the caller did not cause.
        10118 | 10119 | 10123 | 10124 | 10194 | 10195 | 10202 | 10226 => ErrorKind::Unavailable { reason: text() },
        10005 if error.description.contains("offline") => ErrorKind::Unavailable { reason: text() },
        10168 => unsupported("a bucket of counters", "a bucket of records"),
        10169 => unsupported("a bucket of records", "a bucket of counters"),
        _ if error.is_transient() => ErrorKind::Unavailable { reason: text() },
        _ => return None,
    })
}

fn unsupported(needs: &str, found: &str) -> ErrorKind {
    ErrorKind::Unsupported { needs: needs.to_owned(), found: found.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::nats::jetstream::error::{from_api_error, from_config_error, from_write_error};
    use crate::error::{Error, Outcome};

    /// The name of a kind, and `?` if the outcome is unknown.
    fn told(error: &Error) -> String {
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
    fn each_code_has_its_kind_and_outcome() {
        for (err_code, code, text, wanted) in CASES {
            let error = || ApiError { code: *code, err_code: *err_code, description: (*text).to_owned() };
            let found = [from_api_error(error()), from_config_error(error()), from_write_error(error(), None, 1)]
                .map(|error| told(&error));
            assert_eq!(found, *wanted, "{err_code} {text}");
        }
    }
}
