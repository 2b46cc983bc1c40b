//! The position and the progress of a list.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::backend::Deadline;
use crate::bucket::handle::ReadBucket;
use crate::error::{Error, ErrorKind, Result};
use crate::model::KvModel;
use crate::revision::Revision;

/// The position of a list: returned by [`Entries::cursor`](crate::bucket::Entries::cursor) and accepted by
/// [`List::after`](crate::bucket::List::after).
///
/// A cursor is a text that can be stored, or sent to a browser and back. It contains no secret and is not
/// authenticated: any client can forge one. It belongs to one bucket, but to no specific filter.
///
/// ```
/// # use kvtyped::prelude::*;
/// # use kvtyped::bucket::Cursor;
/// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
/// # #[kv(key = "{id}")]
/// # struct Session { id: u64 }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), kvtyped::Error> {
/// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
/// # for id in 0..5 { sessions.put(&Session { id }).await?; }
/// let mut page = sessions.list(..).limit(3).await?;
/// assert_eq!(page.by_ref().count().await, 3);
/// let text = page.cursor().to_string();
///
/// let cursor: Cursor = text.parse()?;
/// let rest = sessions.list(..).after(cursor).await?;
/// assert_eq!(rest.count().await, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The creation time of the bucket, in nanoseconds.
    created: u64,
    revision: Revision,
}

/// The progress of a list; see [`Entries::progress`](crate::bucket::Entries::progress).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ListProgress {
    /// The number of entries read so far: records, and the markers of removed records.
    pub seen: u64,
    /// The estimated number of pending entries, regardless of the limit. `None` before the first entry.
    pub remaining: Option<u64>,
}

impl Cursor {
    pub(crate) fn new(created: SystemTime, revision: Revision) -> Self {
        let since = created.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { created: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX), revision }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.created, self.revision)
    }
}

/// # Errors
///
/// Returns `InvalidConfig` if the text was not produced by `Cursor::to_string`.
impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = |text: &str| {
            let (created, revision) = text.split_once('-')?;
            let created = u64::from_str_radix(created, 16).ok()?;
            Some(Self { created, revision: Revision::new(revision.parse().ok()?) })
        };
        // Reject other spellings of a number, for example with a sign.
        let same = read(text).filter(|cursor| cursor.to_string() == text);
        same.ok_or_else(|| {
            Error::invalid_config("the text is not a cursor of a list; pass the output of `Cursor::to_string`")
        })
    }
}

impl<T: KvModel> ReadBucket<T> {
    /// Returns the revision of the cursor, if the cursor belongs to the current bucket.
    pub(crate) async fn resume(&self, cursor: Cursor, deadline: Deadline) -> Result<Revision> {
        let Some(status) = self.status_since(cursor.revision, deadline).await? else { return Ok(cursor.revision) };
        let same = Cursor::new(status.created, cursor.revision) == cursor;
        if !same || status.last_revision < cursor.revision {
            return Err(Error::new(ErrorKind::BucketReplaced));
        }
        Ok(cursor.revision)
    }
}
