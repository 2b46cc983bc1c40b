//! `synced_revision`.

use crate::bucket::ReadBucket;
use crate::error::{Error, Result};
use crate::model::Indexed;
use crate::revision::Revision;

const OPERATION: &str = "synced_revision";

impl<T: Indexed> ReadBucket<T> {
    /// Returns the revision that the [follower](crate::Bucket::maintain_indexes) of an index has reached: it has handled all
    /// earlier changes. `None` if no follower of the index has run.
    ///
    /// The answer may be outdated when it arrives. `at_least` of a lookup, such as
    /// [`ListBy::at_least`](crate::index::ListBy::at_least), waits for a revision.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(bucket = "users", key = "{id}")]
    /// # struct User { id: u64, #[kv(index)] team: String }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let users: Bucket<User> = Store::memory().bucket().await?;
    /// assert_eq!(users.synced_revision("team").await?, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`get`](Self::get), and `InvalidConfig` if the model has no such index.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn synced_revision(&self, index: &str) -> Result<Option<Revision>> {
        let read = async {
            self.raw(OPERATION)?;
            let info = T::__INDEXES.iter().find(|info| info.name == index);
            let info = info.ok_or_else(|| Error::invalid_config(format!("the model has no index `{index}`")))?;
            let synced = self.read_synced(self.deadline(None)).await?;
            Ok(synced.filter(|(synced, _)| synced.keeps(info)).map(|(synced, _)| synced.revision()))
        };
        let located = async { read.await.map_err(|error: Error| error.with_context(OPERATION, self.name(), None)) };
        self.observe(OPERATION, Box::pin(located)).await
    }
}
