//! The leaders of all elections in a bucket.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::StreamExt;
use futures::stream::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::handle::{Election, LEASE, Leader, RECIPE};
use crate::bucket::Entries;
use crate::error::Result;
use crate::recipes::announcement::{RawAnnouncement, decode};
use crate::recipes::record::{RecipeKey, RecipeRecord};

impl<T> Election<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Reads the leaders of all elections in the bucket of this handle, as a stream of names and leaders.
    ///
    /// The elections may have values of different types. A handle with [`serde_json::Value`] reads all of them.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let store = Store::memory();
    /// let scheduler = store.election::<String>("scheduler").bucket("cluster");
    /// let leadership = scheduler.campaign(&"10.0.0.7".to_owned()).await?;
    ///
    /// let any = store.election::<serde_json::Value>("any").bucket("cluster");
    /// let mut leaders = any.all().await?;
    /// while let Some((name, leader)) = leaders.try_next().await? {
    ///     assert_eq!((name.as_str(), leader.value()), ("scheduler", &serde_json::json!("10.0.0.7")));
    /// }
    /// # drop(leadership);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`list`](crate::ReadBucket::list). A leader whose value is not a `T` is an `Err` item, and
    /// the stream continues.
    ///
    /// # Cancel safety
    ///
    /// If the future or the stream is dropped, the work on the server ends.
    pub async fn all(&self) -> Result<AllLeaders<T>> {
        let list = async {
            let bucket = self.context.bucket().await?.as_model::<RecipeRecord<RawAnnouncement>>();
            bucket.refresh_clock().await;
            let entries = bucket.list(RecipeKey::of_part(RECIPE, LEASE)).await?;
            Ok(AllLeaders { entries, value: PhantomData })
        };
        self.context.in_operation("all", None, list).await
    }
}

/// A stream of the leaders of all elections in a bucket; see [`Election::all`].
#[must_use = "a stream does nothing until it is polled"]
pub struct AllLeaders<T> {
    entries: Entries<RecipeRecord<RawAnnouncement>>,
    value: PhantomData<fn() -> T>,
}

impl<T> Stream for AllLeaders<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    type Item = Result<(String, Leader<T>)>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let entry = ready!(self.entries.poll_next_unpin(context));
        let leader = entry.map(|entry| {
            let (key, announced) = decode(entry?)?;
            Ok((key.name().to_owned(), Leader { announced }))
        });
        Poll::Ready(leader)
    }
}

impl<T> fmt::Debug for AllLeaders<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AllLeaders").finish_non_exhaustive()
    }
}
