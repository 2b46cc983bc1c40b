//! The options that the lookups share.

use std::time::Duration;

use crate::backend::Deadline;
use crate::bucket::{IndexBuild, ReadBucket};
use crate::error::Result;
use crate::model::KvModel;
use crate::model::index::IndexInfo;
use crate::revision::Revision;

/// The options that the lookups share.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LookupOptions {
    pub(super) at_least: Option<Revision>,
    pub(super) timeout: Option<Duration>,
}

impl LookupOptions {
    /// Begins a lookup: waits for the follower if the caller asks for a revision. Returns the build whose entries the lookup
    /// reads. After its reads, the lookup compares this build with the current one, because the index may be dropped.
    ///
    /// # Errors
    ///
    /// Returns `IndexBuilding` if the index is not built, and `Timeout` if the follower is behind.
    pub(super) async fn begin<T: KvModel>(
        self,
        bucket: &ReadBucket<T>,
        info: &IndexInfo,
        deadline: Deadline,
    ) -> Result<IndexBuild> {
        let build = bucket.readable_build(info, deadline).await?;
        if let Some(revision) = self.at_least {
            bucket.await_synced(info, revision, deadline).await?;
        }
        Ok(build)
    }
}

/// The setters of the options that the lookups share.
macro_rules! lookup_options {
    ($($verb:ident: $timeout:literal),*) => {$(
        impl<T: $crate::model::KvModel> $verb<'_, T> {
            /// Waits until the [follower](crate::Bucket::maintain_indexes) of the index has handled every change up to a
            /// revision. Use it for an eventual index, and for records of other clients. The wait fails with `Timeout` after
            /// the timeout of the call.
            pub fn at_least(mut self, revision: $crate::revision::Revision) -> Self {
                self.options.at_least = Some(revision);
                self
            }

            #[doc = $timeout]
            pub fn timeout(mut self, timeout: std::time::Duration) -> Self {
                self.options.timeout = Some(timeout);
                self
            }
        }
    )*};
}
pub(super) use lookup_options;
