//! `write_many`: many writes of raw records, each with its own headers and TTL.

use std::time::Duration;

use super::handle::Bucket;
use super::put_many::PutMany;
use crate::backend::RecordHeaders;
use crate::model::RawRecord;

impl Bucket<RawRecord> {
    /// Writes many records, each with its own headers and TTL. Use it for imports. In all other
    /// respects, it works like [`put_many`](Self::put_many).
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(bucket = "users", key = "{id}", version = 3)]
    /// # struct User { id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// use kvtyped::bucket::RawWrite;
    ///
    /// # let (store, other) = (Store::memory(), Store::memory());
    /// # let users: Bucket<User> = store.bucket().await?;
    /// # users.put(&User { id: 7 }).await?;
    /// # let _: Bucket<User> = other.bucket().await?;
    /// let from = store.raw("users").await?;
    /// let exported: Vec<_> = from.list(..).await?.try_collect().await?;
    /// let writes = exported.iter().map(|entry| RawWrite::new(entry.value().clone()).headers(entry.headers().clone()));
    ///
    /// let to = other.raw("users").await?;
    /// to.write_many(writes).await?;
    /// let user = to.get(&kvtyped::Key::new("7")?).await?.expect("it was copied");
    /// assert_eq!(user.headers().version, Some(3));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`put_many`](Self::put_many). The result of a write with an invalid TTL or invalid headers is an error.
    ///
    /// # Cancel safety
    ///
    /// As for [`put_many`](Self::put_many).
    pub fn write_many(&self, writes: impl IntoIterator<Item = RawWrite>) -> PutMany<'_, RawRecord> {
        let content = |write: RawWrite| {
            let RawWrite { record, headers, ttl } = write;
            let content = self.encode_record(&record, record.key.clone(), ttl, Some(&headers));
            let content = content.map_err(|error| error.with_key(record.key.as_str()))?;
            Ok((record.key, content))
        };
        PutMany::new(self, "write_many", writes.into_iter().map(content).collect())
    }
}

/// A write of a raw record; see [`Bucket::write_many`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawWrite {
    record: RawRecord,
    headers: RecordHeaders,
    ttl: Option<Duration>,
}

impl RawWrite {
    /// Creates a write without headers and without a TTL.
    pub fn new(record: RawRecord) -> Self {
        Self { record, headers: RecordHeaders::NONE, ttl: None }
    }

    /// Sets the headers of the record.
    #[must_use]
    pub fn headers(self, headers: RecordHeaders) -> Self {
        Self { headers, ..self }
    }

    /// Sets the TTL of the record: at least one second, rounded up to whole seconds (ADR-43). `None` for no TTL.
    #[must_use]
    pub fn ttl(self, ttl: impl Into<Option<Duration>>) -> Self {
        Self { ttl: ttl.into(), ..self }
    }
}
