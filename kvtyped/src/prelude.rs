//! The names that most programs need: `use kvtyped::prelude::*;`.
//!
//! The prelude contains the store and the bucket, the types of their common arguments and results, the derives of
//! kvtyped and serde, and the stream methods for lists. It leaves out names that other crates use too: `Error` and
//! `Result` are `kvtyped::Error` and `kvtyped::Result`. The stream traits have no names here; the module
//! [`stream`](crate::stream) exports them by name.

pub use std::time::Duration;

pub use futures::{StreamExt as _, TryStreamExt as _};
pub use serde::{Deserialize, Serialize};

pub use crate::bucket::{Bucket, Change, Entry, ModifyError, ReadBucket, Removed};
pub use crate::codec::MsgPack;
pub use crate::config::Drift;
pub use crate::error::Outcome;
pub use crate::key::KeySegment;
pub use crate::model::KvModel;
pub use crate::recipes::{Fence, LockGuard};
pub use crate::revision::Revision;
pub use crate::store::Store;
pub use crate::watch::{Cache, Live};
pub use kvtyped_derive::{KeySegment, KvModel};
