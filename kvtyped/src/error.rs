//! The one error of the library.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::codec::CodecError;
use crate::config::{ConfigError, Difference};
use crate::key::KeyError;
use crate::revision::Revision;

/// A `Result` whose error is [`Error`] unless another is named.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed.
///
/// Ask it what to do next, rather than what happened: [`is_conflict`](Self::is_conflict) (read again),
/// [`is_retryable`](Self::is_retryable) (call again), [`outcome`](Self::outcome) (was it written?). The facts are in
/// [`kind`](Self::kind), [`operation`](Self::operation), [`bucket`](Self::bucket), [`key`](Self::key) and
/// [`revision`](Self::revision); the cause, if another library gave one, is its `source()`.
///
/// ```
/// use kvtyped::prelude::*;
/// # use kvtyped::ErrorKind;
/// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
/// # #[kv(bucket = "config", key = "app")]
/// # struct AppConfig { limit: u32 }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), kvtyped::Error> {
/// let configs: Bucket<AppConfig> = Store::memory().bucket().await?;
/// let first = configs.create(&AppConfig { limit: 1 }).await?;
/// let second = configs.update(&AppConfig { limit: 2 }, first).await?;
///
/// let error = configs.update(&AppConfig { limit: 3 }, first).await.unwrap_err();
/// assert!(error.is_conflict());
/// assert_eq!(error.outcome(), Outcome::NotApplied);
/// assert!(matches!(error.kind(), ErrorKind::Conflict { actual, .. } if *actual == Some(second)));
/// # Ok(())
/// # }
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    outcome: Outcome,
    operation: Option<&'static str>,
    bucket: Option<String>,
    key: Option<String>,
    revision: Option<Revision>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Whether a write that failed was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was not, and will not be. (Of a read: there was nothing to apply.)
    NotApplied,
    /// It may have been applied, or may yet be: its acknowledgement never came, and what is stored does not tell.
    Unknown,
}

/// What kind of failure an [`Error`] is.
#[derive(Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The key has not the revision that the write expected. Read it again.
    Conflict {
        /// The revision that was expected; zero where nothing was.
        expected: Revision,
        /// The revision that the key has, if the server said.
        actual: Option<Revision>,
    },
    /// `create` found a live record under the key. [`Error::revision`] is its revision.
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
    /// What is stored is no record of the model.
    Decode {
        /// The codec, or `key` where the key is none of the model's, or `record` where the record's kind is unknown.
        codec: &'static str,
        /// What is wrong, without content.
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
    /// The value cannot be written with the model's codec.
    Encode {
        /// The codec.
        codec: &'static str,
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
    /// The value is larger than the bucket or the server takes.
    TooLarge {
        /// The size that was refused, headers included, in bytes, where it is known.
        size: Option<usize>,
        /// The limit, in bytes, where it is known.
        limit: Option<usize>,
    },
    /// The bucket has reached its `max_bytes`.
    BucketFull,
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
    /// There is no connection, no leader or no server for it now.
    Unavailable {
        /// What is missing.
        reason: String,
    },
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

impl Error {
    /// A definite error of this kind: nothing was applied.
    pub fn new(kind: ErrorKind) -> Self {
        Self(Box::new(Inner {
            kind,
            outcome: Outcome::NotApplied,
            operation: None,
            bucket: None,
            key: None,
            revision: None,
            source: None,
        }))
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Whether the write was applied.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// The operation that failed: `update`.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The bucket that it concerns.
    pub fn bucket(&self) -> Option<&str> {
        self.0.bucket.as_deref()
    }

    /// The key that it concerns, encoded.
    pub fn key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    /// The revision that it concerns: of the record that is there, or that does not decode.
    pub fn revision(&self) -> Option<Revision> {
        self.0.revision
    }

    /// Whether another writer came first: read again and decide anew.
    ///
    /// True of `Conflict`, `AlreadyExists` and `RetriesExhausted`.
    pub fn is_conflict(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::Conflict { .. } | ErrorKind::AlreadyExists | ErrorKind::RetriesExhausted { .. }
        )
    }

    /// Whether the record, or the bucket, is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self.0.kind, ErrorKind::NotFound | ErrorKind::BucketNotFound)
    }

    /// Whether the very same call may succeed if it is made again, and can do no harm: nothing was applied, and what
    /// stood in the way passes.
    pub fn is_retryable(&self) -> bool {
        self.0.outcome == Outcome::NotApplied
            && matches!(
                self.0.kind,
                ErrorKind::Timeout { .. } | ErrorKind::Unavailable { .. } | ErrorKind::RetriesExhausted { .. }
            )
    }

    pub(crate) fn unknown_outcome(mut self) -> Self {
        self.0.outcome = Outcome::Unknown;
        self
    }

    pub(crate) fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub(crate) fn at_revision(mut self, revision: Revision) -> Self {
        self.0.revision = Some(revision);
        self
    }

    /// Adds where it happened; what is known already stays.
    pub(crate) fn within(mut self, operation: &'static str, bucket: &str, key: Option<&str>) -> Self {
        self.0.operation.get_or_insert(operation);
        self.0.bucket.get_or_insert_with(|| bucket.to_owned());
        if let Some(key) = key {
            self.0.key.get_or_insert_with(|| key.to_owned());
        }
        self
    }

    pub(crate) fn with_key(mut self, key: impl Into<String>) -> Self {
        self.0.key = Some(key.into());
        self
    }

    pub(crate) fn timeout(after: Duration) -> Self {
        Self::new(ErrorKind::Timeout { after })
    }

    pub(crate) fn unavailable(reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable { reason: reason.into() })
    }

    pub(crate) fn invalid_config(reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidConfig { reason: reason.into() })
    }

    pub(crate) fn unsupported(needs: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported { needs: needs.into(), found: found.into() })
    }
}

impl From<KeyError> for Error {
    fn from(error: KeyError) -> Self {
        Self::new(ErrorKind::InvalidKey).caused_by(error)
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::invalid_config(error.to_string())
    }
}

impl Error {
    pub(crate) fn encode(error: CodecError) -> Self {
        Self::new(ErrorKind::Encode { codec: error.codec() }).caused_by(error)
    }

    pub(crate) fn decode(error: &CodecError) -> Self {
        // The codec's message is the detail, less its name.
        let text = error.to_string();
        let detail = text.strip_prefix(error.codec()).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&text);
        Self::new(ErrorKind::Decode { codec: error.codec(), detail: detail.to_owned() })
    }
}

/// One line: what was done to what, what went wrong, what to do about it.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, outcome, operation, bucket, key, revision, source: _ } = &*self.0;
        if let Some(operation) = operation {
            write!(f, "{operation}")?;
            if let Some(key) = key {
                write!(f, " of `{key}`")?;
            }
            if let Some(bucket) = bucket {
                write!(f, " in bucket `{bucket}`")?;
            }
            if let Some(revision) = revision {
                write!(f, " at revision {revision}")?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{kind}")?;
        if *outcome == Outcome::Unknown {
            f.write_str("; it may have been applied, or may yet be: read the key before you decide")?;
        }
        Ok(())
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
            Self::NotFound => f.write_str("there is no record; `.or_insert_with(..)` would make one"),
            Self::KeyChanged => f.write_str("the closure changed a field of the key; write a new record instead"),
            Self::RetriesExhausted { attempts, elapsed } => write!(
                f,
                "other writers came first {attempts} times in {elapsed:?}; raise `.max_attempts` or `.timeout`, or spread the key"
            ),
            Self::Decode { codec, detail } => {
                write!(f, "what is stored is not a record of this model: {codec}: {detail}")
            }
            Self::Rejected { reason } => write!(f, "what is stored was rejected: {reason}"),
            Self::HistoryRewound => {
                f.write_str("the bucket was made anew, or set back, since it was opened; open it again, and read again")
            }
            Self::Encode { codec } => write!(f, "the value cannot be written as {codec}"),
            Self::InvalidKey => f.write_str("the key is not legal"),
            Self::InvalidConfig { reason } => write!(f, "a setting is wrong: {reason}"),
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
            Self::BucketFull => f.write_str("the bucket is full, and takes no delete either; raise its `max_bytes`"),
            Self::Unsupported { needs, found } => write!(f, "needs {needs}, found {found}"),
            Self::PermissionDenied { subject } => write!(f, "the server denies this user `{subject}`"),
            Self::Unauthorized => f.write_str("the server does not accept these credentials"),
            Self::Timeout { after } => write!(f, "no answer within {after:?}"),
            Self::Unavailable { reason } => write!(f, "not available now: {reason}"),
            Self::Closed => f.write_str("the handle was closed"),
            Self::Backend { code: Some(code), detail } => write!(f, "the server answered {code}: {detail}"),
            Self::Backend { code: None, detail } => f.write_str(detail),
        }
    }
}

/// The line that is displayed, and the causes.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({self}")?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, "; caused by: {error}")?;
            cause = error.source();
        }
        f.write_str(")")
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
