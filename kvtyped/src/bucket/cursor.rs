//! Where a list stands, and how far it is.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use super::ReadBucket;
use crate::backend::Deadline;
use crate::error::{Error, ErrorKind, Result};
use crate::model::KvModel;
use crate::revision::Revision;

/// Where a list stands: what [`Entries::cursor`](crate::Entries::cursor) gives and [`List::after`](crate::List::after)
/// takes.
///
/// It is a text that can be stored, and sent to a browser and back. It holds no secret, and is no proof of anything: a
/// stranger can make one up. It belongs to one bucket, whatever the filter.
///
/// ```
/// # use kvtyped::prelude::*;
/// # use kvtyped::Cursor;
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
    /// When the bucket was made, in nanoseconds.
    created: u64,
    revision: Revision,
}

/// How far a list is; see [`Entries::progress`](crate::Entries::progress).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Progress {
    /// How many entries were gone over: records, and the markers of removed ones.
    pub seen: u64,
    /// How many are to come, as far as is known, whatever the limit; `None` before the first came.
    pub remaining: Option<u64>,
}

impl Cursor {
    pub(super) fn new(created: SystemTime, revision: Revision) -> Self {
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
/// `InvalidConfig` if the text is none that a cursor gave.
impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = |text: &str| {
            let (created, revision) = text.split_once('-')?;
            let created = u64::from_str_radix(created, 16).ok()?;
            Some(Self { created, revision: Revision::new(revision.parse().ok()?) })
        };
        // A number can be written in other ways, with a sign say.
        let same = read(text).filter(|cursor| cursor.to_string() == text);
        same.ok_or_else(|| Error::invalid_config("the text is not a cursor of a list"))
    }
}

impl<T: KvModel> ReadBucket<T> {
    /// The revision at which a cursor stands, if it is one of the bucket as it is now.
    pub(super) async fn resume(&self, cursor: Cursor, deadline: Deadline) -> Result<Revision> {
        let Some(status) = self.status_since(cursor.revision, deadline).await? else { return Ok(cursor.revision) };
        let same = Cursor::new(status.created, cursor.revision) == cursor;
        if !same || status.last_revision < cursor.revision {
            return Err(Error::new(ErrorKind::HistoryRewound));
        }
        Ok(cursor.revision)
    }
}
