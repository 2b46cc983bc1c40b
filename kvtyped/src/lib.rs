//! kvtyped (under construction)

pub mod backend;
mod bucket;
pub mod codec;
pub mod config;
mod error;
pub mod key;
pub mod model;
mod revision;
mod store;
mod ttl;

pub use crate::backend::{BucketStatus, Read};
pub use crate::bucket::*;
pub use crate::config::{BucketConfig, Difference, Drift, Placement, Republish, Source, Storage};
pub use crate::error::{Error, ErrorKind, Outcome, Result};
pub use crate::key::{Key, KeySegment};
pub use crate::model::{Filter, KvModel, SingleRevision};
pub use crate::revision::Revision;
pub use crate::store::{Connect, Store};
pub use crate::ttl::Ttl;
