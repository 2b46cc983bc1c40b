//! The kinds of failure, and what each says.

use std::fmt;
use std::time::Duration;

use super::Escaped;
use crate::config::Difference;
use crate::revision::Revision;

/// What kind of failure an [`Error`](super::Error) is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The key has not the revision that the write expected. Read it again.
    Conflict {
        /// The revision that was expected; zero where nothing was.
        expected: Revision,
        /// The revision that the key has, if the server said.
        actual: Option<Revision>,
    },
    /// `create` found a live record under the key. [`Error::revision`](super::Error::revision) is its revision.
    AlreadyExists,
    /// There is no record under the key.
    NotFound,
    /// The closure of a `modify` changed a field of the key.
    KeyChanged,
    /// A retried update lost against other writers until its attempts or its time ran out.
    RetriesExhausted {
        /// How often it was tried.
        attempts: u32,
        /// How long.
        elapsed: Duration,
    },
    /// A number has no room for it: the total of a counter beyond `i64`, an id beyond `u64`. Nothing was counted.
    OutOfRange {
        /// Of what to what.
        detail: String,
    },
    /// The closure of a transaction gave up; its error is the cause.
    Aborted,
    /// What is stored is no record of the model.
    Decode {
        /// The codec, or `key` where the key is none of the model's, or `record` where the record's kind is unknown.
        codec: &'static str,
        /// The reason, without any content of the value.
        detail: String,
    },
    /// A value that is stored did not pass the check of a live value.
    Rejected {
        /// What the check said.
        reason: String,
    },
    /// The bucket is not the one that this handle was opened on: it was made anew, or set back to an older copy. What was
    /// read before says nothing about it. Open it again.
    HistoryRewound,
    /// The codec cannot write the value, or the value would not be read back equal.
    Encode {
        /// The codec, or `key` if the record would name another key after it is read back.
        codec: &'static str,
        /// The reason, without any content of the value.
        detail: String,
    },
    /// The key cannot be sent.
    InvalidKey,
    /// A setting, a URL or an option is wrong.
    InvalidConfig {
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such bucket.
    BucketNotFound,
    /// There is such a bucket already.
    BucketExists,
    /// The bucket differs from what the model and the builder say.
    Drift {
        /// In these settings.
        differences: Vec<Difference>,
    },
    /// Writes that make no sense together: a key that is written twice, or too many of them.
    InvalidBatch {
        /// What is wrong with them.
        reason: String,
    },
    /// The value is larger than the bucket or the server takes.
    TooLarge {
        /// The size that was refused, headers included, in bytes, where it is known.
        size: Option<usize>,
        /// The limit, in bytes, where it is known.
        limit: Option<usize>,
    },
    /// The bucket has reached its `max_bytes`, or the part of it that recipes may use.
    BucketFull,
    /// A limit of the account or of the server is reached: storage, memory, streams or consumers. Nothing was applied.
    LimitReached {
        /// The limit, as the server names it.
        limit: String,
    },
    /// The backend, or this bucket, cannot do that.
    Unsupported {
        /// What it needs.
        needs: String,
        /// What there is.
        found: String,
    },
    /// The server denies this user the subject.
    PermissionDenied {
        /// The subject, or what the server said of it.
        subject: String,
    },
    /// The server does not let this user in.
    Unauthorized,
    /// The time of the operation ran out.
    Timeout {
        /// The time that it had.
        after: Duration,
    },
    /// The connection cannot be encrypted as wanted: a certificate is not trusted, missing or wrong.
    Tls {
        /// Why, and what to do.
        reason: String,
    },
    /// There is no connection, no leader or no server for it now.
    Unavailable {
        /// What is missing.
        reason: String,
    },
    /// The lease is lost, or may be: it was not renewed in time, or another has it. Stop what it protected.
    Lost,
    /// Another holder has taken the lock since: the write was refused by its fence. Stop what the lock protected.
    Fenced,
    /// The handle or its store was closed.
    Closed,
    /// The server answered with something else.
    Backend {
        /// Its error code, if it gave one.
        code: Option<u64>,
        /// What it said.
        detail: String,
    },
}

/// Control characters are escaped.
impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Unescaped<'a>(&'a ErrorKind);
        impl fmt::Display for Unescaped<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write(f)
            }
        }
        fmt::Display::fmt(&Escaped(Unescaped(self)), f)
    }
}

impl ErrorKind {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict { expected, actual } => {
                write!(f, "conflict: expected revision {expected}, ")?;
                match actual {
                    Some(actual) => write!(f, "found {actual}")?,
                    None => f.write_str("found another write")?,
                }
                f.write_str("; read again, or use `modify`")
            }
            Self::AlreadyExists => {
                f.write_str("a record is there already; use `update`, `put` or `modify` to change it")
            }
            Self::NotFound => f.write_str("there is no record"),
            Self::KeyChanged => f.write_str("the closure changed a field of the key; write a new record instead"),
            Self::RetriesExhausted { attempts, elapsed } => write!(
                f,
                "other writers came first {attempts} times in {elapsed:?}; raise `.max_attempts` or `.timeout`, or spread the key"
            ),
            Self::OutOfRange { detail } => write!(f, "out of range: {detail}"),
            Self::Aborted => f.write_str("the closure of the transaction gave up, and nothing was written"),
            Self::Decode { codec, detail } => {
                write!(f, "what is stored is not a record of this model: {codec}: {detail}")
            }
            Self::Rejected { reason } => write!(f, "what is stored was rejected: {reason}"),
            Self::HistoryRewound => {
                f.write_str("the bucket was made anew, or set back, since it was opened; open it again, and read again")
            }
            Self::Encode { codec, detail } => write!(f, "the value cannot be written as {codec}: {detail}"),
            Self::InvalidKey => f.write_str("the key is not legal"),
            Self::InvalidConfig { reason } => write!(f, "a setting is wrong: {reason}"),
            Self::InvalidBatch { reason } => write!(f, "what is to be written at once makes no sense: {reason}"),
            Self::BucketNotFound => f.write_str("there is no such bucket"),
            Self::BucketExists => f.write_str("there is such a bucket already"),
            Self::Drift { differences } => {
                f.write_str("the bucket differs from what is wanted (")?;
                for (index, difference) in differences.iter().enumerate() {
                    write!(f, "{}{difference}", if index > 0 { "; " } else { "" })?;
                }
                f.write_str("); change the model, or open it with `.on_drift(Drift::Adopt)` or `Drift::Update`")
            }
            Self::TooLarge { size, limit } => {
                f.write_str("the value is too large")?;
                if let Some(size) = size {
                    write!(f, ": {size} bytes with its headers")?;
                }
                match limit {
                    Some(limit) => write!(f, ", {limit} are allowed"),
                    None => Ok(()),
                }
            }
            Self::BucketFull => f.write_str("the bucket is full, and a delete needs room too; raise its `max_bytes` (or the `max_msgs` of its stream)"),
            Self::LimitReached { limit } => {
                write!(f, "the account or the server has reached a limit: {limit}; raise it, or free what counts against it")
            }
            Self::Unsupported { needs, found } => write!(f, "needs {needs}, found {found}"),
            Self::PermissionDenied { subject } => write!(f, "the server denies this user `{subject}`"),
            Self::Unauthorized => f.write_str("the server does not accept these credentials"),
            Self::Tls { reason } => write!(f, "no encrypted connection: {reason}"),
            Self::Timeout { after } => write!(f, "not done within {:?}", rounded(*after)),
            Self::Unavailable { reason } => write!(f, "not available now: {reason}"),
            Self::Lost => f.write_str("the lease is lost, or may be; stop what it protected, and take it anew"),
            Self::Fenced => f.write_str(
                "another holder has taken the lock since, and the write was refused; stop what the lock protected, and take it anew",
            ),
            Self::Closed => f.write_str("the handle was closed"),
            Self::Backend { code: Some(code), detail } => write!(f, "the server answered {code}: {detail}"),
            Self::Backend { code: None, detail } => f.write_str(detail),
        }
    }
}

/// To the millisecond: of one time several steps have what is left, which is a little less.
fn rounded(time: Duration) -> Duration {
    let rounded = time.saturating_add(Duration::from_micros(500)).as_millis();
    match u64::try_from(rounded) {
        Ok(ms @ 1..) => Duration::from_millis(ms),
        _ => time,
    }
}
