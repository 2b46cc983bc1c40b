//! Listings of keys.

use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::shared::LocalShared;
use crate::backend::{Deadline, ListKeysRequest};
use crate::error::Result;
use crate::key::Key;

/// Lists the keys that match. Each step examines some keys under the lock.
pub(crate) fn list_keys(
    shared: Arc<LocalShared>,
    bucket: String,
    list: ListKeysRequest,
) -> BoxStream<'static, Result<Vec<Key>>> {
    let pages = stream::try_unfold(Some(None), move |position: Option<Option<Key>>| {
        let (shared, bucket, list) = (Arc::clone(&shared), bucket.clone(), list.clone());
        async move {
            let Some(after) = position else { return Ok(None) };
            tokio::task::coop::consume_budget().await;
            let deadline = Deadline::after(list.idle_timeout);
            // An absent key may be the effect of any removal.
            let step = |state: &crate::backend::state::bucket::BucketState, _| {
                (state.list_keys(list.space, &list.pattern, after.as_ref()), u64::MAX)
            };
            let listing = shared.read(&bucket, deadline, step).await?;
            Ok(Some((listing.found, listing.last.map(Some))))
        }
    });
    pages.try_filter(|page| std::future::ready(!page.is_empty())).boxed()
}
