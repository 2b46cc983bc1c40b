//! The names that most programs need: `use kvtyped::prelude::*;`.
//!
//! The prelude contains the derives of kvtyped and serde, the store and the bucket, the types of their arguments and
//! results, and the stream methods for lists.

pub use std::time::Duration;

pub use futures::{StreamExt as _, TryStreamExt as _};
pub use serde::{Deserialize, Serialize};

pub use crate::backend::Read;
pub use crate::bucket::{Bucket, Change, Entry, ModifyError, ReadBucket, Removed, Version};
pub use crate::codec::{Bytes, Codec, Json, MsgPack, Text};
pub use crate::config::{Drift, Storage};
pub use crate::error::{Error, Outcome};
pub use crate::key::{KeySegment, ModelKey};
pub use crate::model::{Filter, KvModel};
pub use crate::recipes::{
    Counters, Election, Fence, Group, Ids, Leadership, LockGuard, Locks, Member, Once, Permit, Quota, RateLimiter,
    Semaphore,
};
pub use crate::revision::Revision;
pub use crate::store::Store;
pub use crate::txn::{Abort, TransactError, Tx};
pub use crate::watch::{Cache, Event, Live};
pub use kvtyped_derive::{KeySegment, KvModel};
