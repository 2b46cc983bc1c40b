//! The error type of the library.

mod escaped;
mod kind;
mod sensitive;

pub(crate) use self::escaped::Escaped;
pub use self::kind::ErrorKind;
pub(crate) use self::sensitive::key_hash;
#[cfg(feature = "nats")]
pub(crate) use self::sensitive::{split_subject, without_index_value};

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::codec::{CodecError, Newer};
use crate::config::ConfigError;
use crate::key::{Key, KeyError, unescape};
use crate::revision::Revision;

/// A `Result` whose error type is [`Error`] by default.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of an operation.
///
/// Use the methods that answer what to do next: [`is_conflict`](Self::is_conflict) (read again),
/// [`is_retryable`](Self::is_retryable) (call again), [`outcome`](Self::outcome) (was the write applied?). Details are
/// in [`kind`](Self::kind), [`operation`](Self::operation), [`bucket`](Self::bucket), [`key`](Self::key) and
/// [`revision`](Self::revision). The `source()` is the error of another library, if one caused this error.
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
pub struct Error(Box<ErrorInner>);

struct ErrorInner {
    kind: ErrorKind,
    outcome: Outcome,
    operation: Option<&'static str>,
    /// The type of the model that refused the record.
    model: Option<&'static str>,
    bucket: Option<String>,
    key: Option<String>,
    /// Whether messages show a hash of the key.
    hides_key: bool,
    revision: Option<Revision>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Whether the model belongs to a recipe, so that users do not know it.
pub(crate) fn is_of_recipe<T>() -> bool {
    std::any::type_name::<T>().starts_with("kvtyped::recipes::")
}

/// Whether a failed write was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The write was not applied and will not be. Errors of reads have this outcome, too.
    NotApplied,
    /// The write may have been applied, or may be applied later: its acknowledgement is lost, and the stored records do not
    /// show the outcome.
    Unknown,
}

impl Error {
    /// Creates an error of this kind whose outcome is [`Outcome::NotApplied`].
    pub fn new(kind: ErrorKind) -> Self {
        Self(Box::new(ErrorInner {
            kind,
            outcome: Outcome::NotApplied,
            operation: None,
            model: None,
            bucket: None,
            key: None,
            hides_key: false,
            revision: None,
            source: None,
        }))
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Returns whether the write was applied.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// Returns the operation that failed, such as `update`.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// Returns the bucket of the operation.
    pub fn bucket(&self) -> Option<&str> {
        self.0.bucket.as_deref()
    }

    /// Returns the encoded key of the operation.
    pub fn key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    /// Returns the revision of the record that exists, or that does not decode.
    pub fn revision(&self) -> Option<Revision> {
        self.0.revision
    }

    /// Returns the message of the error and of all its causes, for an interface that takes one text.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let error = Store::memory().raw("sessions").await.unwrap_err();
    /// assert!(error.report().starts_with("open in bucket `sessions`"));
    /// # }
    /// ```
    pub fn report(&self) -> String {
        let mut report = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            report.push_str(&format!("; caused by: {}", Escaped(error)));
            cause = error.source();
        }
        report
    }

    /// Whether another writer came first. Read the record again before the next write.
    ///
    /// `true` for `Conflict`, `AlreadyExists`, `NotUnique` and `RetriesExhausted`.
    pub fn is_conflict(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::Conflict { .. }
                | ErrorKind::AlreadyExists
                | ErrorKind::NotUnique { .. }
                | ErrorKind::RetriesExhausted { .. }
        )
    }

    /// Returns whether a retry loop continues after this error, because the cause is temporary. After an unknown
    /// outcome, a lease that may have been taken expires. Refused credentials count as an unreachable server: the
    /// client keeps reconnecting.
    pub(crate) fn is_transient(&self) -> bool {
        self.is_retryable() || self.outcome() == Outcome::Unknown || matches!(self.kind(), ErrorKind::Unauthorized)
    }

    /// Returns whether an error of a watch is permanent.
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self.kind(), ErrorKind::BucketNotFound | ErrorKind::Closed | ErrorKind::InvalidConfig { .. })
    }

    /// Whether the record or the bucket does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self.0.kind, ErrorKind::NotFound | ErrorKind::BucketNotFound)
    }

    /// Whether the server denies the operation to this user.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self.0.kind, ErrorKind::PermissionDenied { .. })
    }

    /// Whether the same call may succeed later and is safe to repeat: nothing was applied, and the cause is temporary.
    pub fn is_retryable(&self) -> bool {
        self.0.outcome == Outcome::NotApplied
            && matches!(
                self.0.kind,
                ErrorKind::Timeout { .. } | ErrorKind::Unavailable { .. } | ErrorKind::RetriesExhausted { .. }
            )
            || self.is_stale_schema()
    }

    /// Whether the bucket was switched to another schema version during the call, which the program can write. The
    /// record must be encoded again.
    pub(crate) fn is_stale_schema(&self) -> bool {
        matches!(self.0.kind, ErrorKind::SchemaMoved { writes, knows } if writes <= knows)
    }

    /// Marks the error of a write that may have been applied, or may still be. For backends.
    #[must_use]
    pub fn unknown_outcome(mut self) -> Self {
        self.0.outcome = Outcome::Unknown;
        self
    }

    /// Adds the cause. For backends.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds the revision. For backends.
    #[must_use]
    pub fn at_revision(mut self, revision: Revision) -> Self {
        self.0.revision = Some(revision);
        self
    }

    /// Adds the model, except the models of recipes.
    pub(crate) fn of_model<T>(mut self) -> Self {
        if !is_of_recipe::<T>() {
            let name = std::any::type_name::<T>();
            let name = name.split('<').next().unwrap_or(name);
            self.0.model = Some(name.rsplit("::").next().unwrap_or(name));
        }
        self
    }

    /// Adds the operation, bucket and key. Values that are set stay, except the key of a recipe's internal record: the
    /// operation and the user's name of the recipe replace it.
    pub(crate) fn with_context(mut self, operation: &'static str, bucket: &str, key: Option<&str>) -> Self {
        let is_inner = |key: &str| key.strip_prefix(Key::RESERVED).is_some_and(|rest| rest.starts_with('.'));
        if self.0.key.as_deref().is_some_and(is_inner) && key.is_some_and(|key| !is_inner(key)) {
            (self.0.operation, self.0.key) = (None, None);
        }
        self.0.operation.get_or_insert(operation);
        self.0.bucket.get_or_insert_with(|| bucket.to_owned());
        if let Some(key) = key {
            self.0.key.get_or_insert_with(|| key.to_owned());
        }
        self
    }

    /// Adds the encoded key. For backends: in a scan or a watch, an error with a key replaces an entry, and an error
    /// without a key is the last item.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.0.key = Some(key.into());
        self
    }

    /// Copies an error for another of the callers that it affects.
    pub(crate) fn shared(error: &Arc<Self>) -> Self {
        let ErrorInner { kind, outcome, operation: _, model, bucket: _, key, hides_key, revision, source } = &*error.0;
        let source = source.is_some().then(|| Box::new(SharedSource(Arc::clone(error))) as _);
        let (kind, key) = (kind.clone(), key.clone());
        Self(Box::new(ErrorInner {
            kind,
            outcome: *outcome,
            operation: None,
            model: *model,
            bucket: None,
            key,
            hides_key: *hides_key,
            revision: *revision,
            source,
        }))
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

    pub(crate) fn out_of_range(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::OutOfRange { detail: detail.into() })
    }

    /// Returns the error of an unexpected reply of the backend.
    #[cfg(feature = "nats")]
    pub(crate) fn backend(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Backend { code: None, detail: detail.into() })
    }

    /// Returns the error of a batch of several writes in a bucket without atomic batches.
    pub(crate) fn no_batches(bucket: &str) -> Self {
        Self::unsupported(
            "a bucket with atomic batches; open it with `.atomic(true).on_drift(Drift::Update)`",
            format!("bucket `{bucket}` without atomic batches"),
        )
    }

    /// Returns the error of an index entry in a bucket without index entries.
    pub(crate) fn no_index_entries(bucket: &str) -> Self {
        Self::unsupported(
            "a bucket with index entries; open it with its model and `.on_drift(Drift::Update)`",
            format!("bucket `{bucket}` without index entries"),
        )
    }

    /// Returns the error of a purge in a bucket without rollups.
    pub(crate) fn no_rollups(bucket: &str) -> Self {
        Self::unsupported(
            "a bucket that allows rollups, for the purge; set `rollups`, or use `delete`, or `compact` as an administrator",
            format!("bucket `{bucket}` with `rollups = false`"),
        )
    }

    /// The error of a TTL of a single key in a bucket without rollups.
    pub(crate) fn no_rollups_for_ttl(bucket: &str) -> Self {
        Self::unsupported(
            "a bucket that allows rollups, for the delete marker of an expired key; set `rollups`",
            format!("bucket `{bucket}` with `rollups = false`"),
        )
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
    pub(crate) fn encode(error: &CodecError) -> Self {
        Self::new(ErrorKind::Encode { codec: error.codec(), detail: error.detail().to_owned() })
    }

    pub(crate) fn decode(error: &CodecError) -> Self {
        if let Some(Newer { found, known }) = error.newer_format() {
            let found = format!("a record of format {found}, and this version knows {known}");
            return Self::unsupported("a newer version of kvtyped; update this program", found);
        }
        Self::new(ErrorKind::Decode { codec: error.codec(), detail: error.detail().to_owned() })
    }
}

/// Returns the user's name of the recipe whose record has this key, such as `invoice-42` of
/// `=kvtyped.lock.invoice-42.lease`. For a recipe with many parts, such as `once`, returns the name of the part.
fn own_name(key: &str) -> Option<String> {
    let mut segments = key.split('.').skip(1);
    let (recipe, name, part) = (segments.next()?, segments.next()?, segments.next()?);
    let own = if matches!(recipe, "once" | "group" | "counters" | "rate") { part } else { name };
    unescape(own).ok().map(|text| text.into_owned())
}

/// The number of characters to display of a text that is too long for a key.
const SHOWN: usize = 64;

/// One line with the failed operation, the reason and the remedy. Control characters are escaped.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Escaped(&*self.0), f)
    }
}

impl ErrorInner {
    /// The reason of `InvalidKey`, or the cause of `EpochMoved`. The message of the error includes it.
    fn shown_source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.source.as_deref()?;
        if let Some(shared) = source.downcast_ref::<SharedSource>() {
            return shared.0.0.shown_source();
        }
        match self.kind {
            ErrorKind::EpochMoved { .. } => source.downcast_ref::<Error>().map(|error| error as _),
            _ => source.downcast_ref::<KeyError>().map(|error| error as _),
        }
    }
}

impl fmt::Display for ErrorInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, outcome, operation, model, bucket, key, hides_key, revision, source: _ } = self;
        if let Some(operation) = operation {
            write!(f, "{operation}")?;
            if let Some(key) = key {
                let name = if key.starts_with(Key::RESERVED) { own_name(key) } else { None };
                let key = name.as_ref().unwrap_or(key);
                match key.char_indices().nth(SHOWN) {
                    _ if *hides_key => write!(f, " of {}", key_hash(key))?,
                    Some((end, _)) if key.len() > Key::MAX_BYTES => {
                        write!(f, " of `{}..` ({} bytes)", &key[..end], key.len())?;
                    }
                    _ => write!(f, " of `{key}`")?,
                }
            }
            if let Some(bucket) = bucket {
                write!(f, " in bucket `{bucket}`")?;
            }
            if let Some(model) = model {
                write!(f, " as `{model}`")?;
            }
            if let Some(revision) = revision {
                write!(f, " at revision {revision}")?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{kind}")?;
        if let Some(error) = self.shown_source() {
            write!(f, ": {error}")?;
        }
        if *outcome == Outcome::Unknown {
            f.write_str(
                "; the operation may have been applied, or may be applied later: read the key before you repeat it",
            )?;
        }
        Ok(())
    }
}

/// The message and its causes.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({})", self.report())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let shown = self.0.shown_source().is_some();
        self.0.source.as_deref().filter(|_| !shown).map(|source| source as _)
    }
}

/// The source of an error that several callers share.
#[derive(Debug)]
struct SharedSource(Arc<Error>);

impl fmt::Display for SharedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.source() {
            Some(cause) => fmt::Display::fmt(cause, f),
            None => Ok(()),
        }
    }
}

impl StdError for SharedSource {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source().and_then(StdError::source)
    }
}
