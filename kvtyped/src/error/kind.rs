//! The kinds of errors, and their messages.

use std::fmt;
use std::time::Duration;

use super::Escaped;
use crate::config::Difference;
use crate::revision::Revision;

/// The kind of an [`Error`](super::Error).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The key does not have the revision that the write expected. Read the record again.
    Conflict {
        /// The expected revision. [`Revision::ZERO`] if the write expected no entry.
        expected: Revision,
        /// The actual revision of the key, if the server reported it.
        actual: Option<Revision>,
    },
    /// `create` found a live record under the key. [`Error::revision`](super::Error::revision) is its revision.
    AlreadyExists,
    /// Another record has a value of a unique index. Nothing was written.
    NotUnique {
        /// The name of the index.
        index: &'static str,
        /// The encoded key of the record that has the value. A hash of it if the model has a sensitive key.
        owner: String,
    },
    /// The key has no live record.
    NotFound,
    /// The closure of a `modify` changed a field of the key.
    KeyChanged,
    /// A retried update lost to other writers until its attempts or its time ran out.
    RetriesExhausted {
        /// The number of attempts.
        attempts: u32,
        /// The time that they took.
        elapsed: Duration,
    },
    /// A number does not fit: the total of a counter exceeds `i64`, or an id exceeds `u64`. Nothing was counted.
    OutOfRange {
        /// The number and its range.
        detail: String,
    },
    /// The closure of a transaction returned an error, which is the source of this error.
    Aborted,
    /// The stored bytes are not a record of the model.
    Decode {
        /// The codec, or `key` if the key is not a key of the model, or `record` if the kind of the record is unknown.
        codec: &'static str,
        /// The reason, without any content of the value.
        detail: String,
    },
    /// The record, or the card of the model in the bucket, has a newer schema version than this program. Verbs that
    /// read before they write never replace a newer record.
    Newer {
        /// The version of the record or of the card.
        found: u32,
        /// The newest version of this program.
        knows: u32,
    },
    /// The record, or the card of the model in the bucket, has an older schema version than this program reads.
    TooOld {
        /// The version of the record or of the card.
        found: u32,
        /// The oldest version that this program reads.
        oldest: u32,
    },
    /// The card of the model in the bucket contradicts the program: another key, another codec, or a schema that cannot
    /// read its records.
    SchemaDiffers {
        /// The differences, and the remedy.
        report: String,
    },
    /// The bucket was switched to a schema version that this program does not write. The server refuses its writes.
    SchemaMoved {
        /// The schema version that the bucket takes.
        writes: u32,
        /// The newest version of this program.
        knows: u32,
    },
    /// The write names another write epoch than the bucket has, so the bucket refused it. A backend returns it; a
    /// bucket handle reads the epoch again.
    EpochMoved {
        /// The epoch of the write.
        sent: Option<u64>,
        /// The epoch of the bucket, if the backend reported it.
        current: Option<u64>,
    },
    /// An index is not built, so a lookup would miss records. The bucket had records before the model had the index, the index
    /// was dropped, or no follower has read the whole bucket for an eventual index.
    IndexBuilding {
        /// The name of the index.
        index: String,
    },
    /// The validation function of the model refused the record, so nothing was written. The source of the error is a
    /// [`Refusal`](crate::model::Refusal) with the reason.
    Invalid {
        /// The path of the function, as the attribute `validate` of the model names it.
        path: &'static str,
    },
    /// A stored value failed the check of a live value.
    Rejected {
        /// The reason from the check.
        reason: String,
    },
    /// The bucket is not the one that this handle was opened on: it was deleted and created again, or set back to an
    /// older copy. Earlier reads are invalid. Open the bucket again.
    BucketReplaced,
    /// The codec cannot encode the value, or the value would not be read back equal.
    Encode {
        /// The codec, or `key` if the decoded record would have another key.
        codec: &'static str,
        /// The reason, without any content of the value.
        detail: String,
    },
    /// The key is invalid.
    InvalidKey,
    /// A setting, a URL or an option is invalid.
    InvalidConfig {
        /// The reason.
        reason: String,
    },
    /// The bucket does not exist.
    BucketNotFound,
    /// The bucket exists already.
    BucketExists,
    /// The settings of the bucket differ from the settings of the model and the builder.
    Drift {
        /// The settings that differ.
        differences: Vec<Difference>,
    },
    /// The writes of a batch are invalid together: a key is written twice, or there are too many writes.
    InvalidBatch {
        /// The reason.
        reason: String,
    },
    /// The value is larger than the bucket or the server accepts.
    TooLarge {
        /// The refused size in bytes, including headers, if it is available.
        size: Option<usize>,
        /// The limit in bytes, if it is available.
        limit: Option<usize>,
    },
    /// The bucket has reached its `max_bytes`, or the share of it that recipes may use.
    BucketFull,
    /// The account or the server has reached a limit: storage, memory, streams or consumers. Nothing was applied.
    LimitReached {
        /// The limit, as the server names it.
        limit: String,
    },
    /// The backend or the bucket does not support the operation.
    Unsupported {
        /// The requirement.
        needs: String,
        /// The actual backend or bucket.
        found: String,
    },
    /// The server denies the user access to the subject.
    PermissionDenied {
        /// The subject, or the server's message about it.
        subject: String,
    },
    /// The server refuses the credentials.
    Unauthorized,
    /// The operation did not complete within its timeout.
    Timeout {
        /// The timeout.
        after: Duration,
    },
    /// The connection cannot be encrypted as requested: a certificate is untrusted, missing or invalid.
    Tls {
        /// The reason, and the remedy.
        reason: String,
    },
    /// No connection, leader or server is available at the moment, the store in a file has failed, or another
    /// maintenance job of the model runs.
    Unavailable {
        /// The reason.
        reason: String,
    },
    /// Another process uses the file of the store.
    InUse {
        /// The file.
        file: String,
        /// A description of the process, or of an unknown process.
        process: String,
    },
    /// The file of the store is damaged. Nothing was changed.
    /// `kvtyped::backend::file::salvage` copies the readable records.
    Damaged {
        /// The file.
        file: String,
        /// The damage: the table, row or number that is wrong. Never a key or a value.
        reason: String,
    },
    /// The lease is lost, or may be: it was not renewed in time, or another holder has it. Stop the protected work.
    Lost,
    /// Another holder has taken the lock since, so the fence refused the write. Stop the protected work.
    Fenced,
    /// The key of a [`once`](crate::recipes::Once) was used with another fingerprint, for another request. The work did
    /// not run.
    FingerprintMismatch,
    /// The handle or its store is closed, or the store is shutting down.
    Closed,
    /// The server returned an unexpected error.
    Backend {
        /// The error code, if the server returned one.
        code: Option<u64>,
        /// The server's message.
        detail: String,
    },
}

impl ErrorKind {
    /// Returns the name of the variant in snake case, without its fields: `already_exists`. For metrics and for
    /// machine-readable output. The name of a variant never changes.
    ///
    /// ```
    /// use kvtyped::ErrorKind;
    ///
    /// assert_eq!(ErrorKind::AlreadyExists.name(), "already_exists");
    /// ```
    pub fn name(&self) -> String {
        let text = format!("{self:?}");
        let name = text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let mut snake = String::with_capacity(name.len() + 4);
        for (at, letter) in name.char_indices() {
            if letter.is_uppercase() && at > 0 {
                snake.push('_');
            }
            snake.extend(letter.to_lowercase());
        }
        snake
    }
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
                f.write_str("a record exists already; use `update`, `put` or `modify` to change it")
            }
            Self::NotUnique { index, owner } => write!(
                f,
                "the record `{owner}` has the same value of the unique index `{index}`; use another value"
            ),
            Self::NotFound => f.write_str("the key has no record; write one with `create` or `put`"),
            Self::KeyChanged => f.write_str("the closure changed a field of the key; write a new record instead"),
            Self::RetriesExhausted { attempts, elapsed } => write!(
                f,
                "lost to other writers {attempts} times in {elapsed:?}; raise `.max_attempts` or `.timeout`, or use more keys"
            ),
            Self::OutOfRange { detail } => write!(f, "out of range: {detail}"),
            Self::Aborted => f.write_str("the closure of the transaction returned an error, and nothing was written"),
            Self::Decode { codec, detail } => {
                write!(f, "the stored entry is not a record of this model: {codec}: {detail}")
            }
            Self::Newer { found, knows } => write!(
                f,
                "schema version {found} is newer than this program, which knows version {knows}; deploy programs that read version {found} first"
            ),
            Self::TooOld { found, oldest } => write!(
                f,
                "schema version {found} is older than this program reads ({oldest} and later); put that version back into the program, and migrate the bucket"
            ),
            Self::SchemaDiffers { report } => {
                // One line for the rows of the report.
                let rows = report.lines().map(|row| row.split_whitespace().collect::<Vec<_>>().join(" "));
                f.write_str(&rows.collect::<Vec<_>>().join("; "))
            }
            Self::SchemaMoved { writes, knows } if writes <= knows => write!(
                f,
                "the bucket takes schema version {writes} now, and the record was encoded as another version; \
                 call again, or restart with a program that writes version {writes}"
            ),
            Self::SchemaMoved { writes, knows } => write!(
                f,
                "the bucket was switched to schema version {writes}, and this program knows version {knows}; restart with a program that writes version {writes}"
            ),
            Self::EpochMoved { sent, current } => {
                let shown = |epoch: &Option<u64>| epoch.map_or("none".to_owned(), |epoch| epoch.to_string());
                write!(f, "the write epoch moved: sent {}, the bucket has {}; open the bucket again", shown(sent), shown(current))
            }
            Self::IndexBuilding { index } => {
                write!(f, "the index `{index}` is not built, so a lookup would miss records; call `build_index`, or `maintain_indexes` for an eventual index")
            }
            Self::Invalid { path } => write!(f, "the record is invalid: `{path}` refused it; the source of the error has the reason"),
            Self::Rejected { reason } => write!(f, "the live value is rejected: {reason}"),
            Self::BucketReplaced => {
                f.write_str("the bucket was recreated, or restored to an earlier state; open it again, and read again")
            }
            Self::Encode { codec, detail } => write!(f, "the value cannot be encoded: {codec}: {detail}"),
            Self::InvalidKey => f.write_str("the key is invalid"),
            Self::InvalidConfig { reason } => write!(f, "invalid configuration: {reason}"),
            Self::InvalidBatch { reason } => write!(f, "the batch is invalid: {reason}"),
            Self::BucketNotFound => f.write_str("the bucket does not exist; open it without `must_exist` or `read_only` to create it"),
            Self::BucketExists => f.write_str("the bucket exists already; open it without `must_create`"),
            Self::Drift { differences } => {
                f.write_str("the bucket differs from the model (")?;
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
                    Some(limit) => {
                        write!(f, ", {limit} are allowed; raise `max_value_size`, or `max_payload` of the server")
                    }
                    None => Ok(()),
                }
            }
            Self::BucketFull => f.write_str("the bucket is full, also for deletes; raise its `max_bytes` (or the `max_msgs` of its stream)"),
            Self::LimitReached { limit } => {
                write!(f, "the account or the server has reached a limit: {limit}; raise it, or delete unused data or buckets")
            }
            Self::Unsupported { needs, found } => write!(f, "found {found}, but the operation needs {needs}"),
            Self::PermissionDenied { subject } => write!(f, "the server denies `{subject}` to this user; see the module `kvtyped::permissions`"),
            Self::Unauthorized => f.write_str("the server refuses the credentials; check the user, password, token, key or credentials file"),
            Self::Tls { reason } => write!(f, "the connection cannot be encrypted: {reason}"),
            Self::Timeout { after } => write!(f, "did not complete within {:?}; allow more time, or check the connection", rounded(*after)),
            Self::Unavailable { reason } => write!(f, "unavailable: {reason}"),
            Self::InUse { file, process } => {
                write!(f, "cannot open `{file}`: in use by {process}; stop it, or use another file")
            }
            Self::Damaged { file, reason } => write!(f, "`{file}` is damaged: {reason}; restore a backup, or copy what is readable with `salvage`"),
            Self::Lost => f.write_str("the lease is lost, or may be lost; stop the protected work, and take it again"),
            Self::Fenced => f.write_str(
                "another holder has taken the lock, so the write was refused; stop the protected work, and take the lock again",
            ),
            Self::FingerprintMismatch => {
                f.write_str("the key was used for another request, with another fingerprint; use another key")
            }
            Self::Closed => f.write_str("the store or the handle is closed; open it again"),
            Self::Backend { code: Some(code), detail } => write!(f, "the server returned error {code}: {detail}"),
            Self::Backend { code: None, detail } => f.write_str(detail),
        }
    }
}

/// Rounds to milliseconds: several steps share one timeout, so a later step has slightly less time.
fn rounded(time: Duration) -> Duration {
    let rounded = time.saturating_add(Duration::from_micros(500)).as_millis();
    match u64::try_from(rounded) {
        Ok(ms @ 1..) => Duration::from_millis(ms),
        _ => time,
    }
}
