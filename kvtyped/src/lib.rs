//! kvtyped (under construction)

pub mod backend;
pub mod codec;
pub mod config;
mod error;
pub mod key;
pub mod model;
mod revision;
mod ttl;

pub use crate::backend::Read;
pub use crate::config::{BucketConfig, Drift, Storage};
pub use crate::error::{Error, ErrorKind, Outcome, Result};
pub use crate::key::{Key, KeySegment};
pub use crate::model::{Filter, KvModel, SingleRevision};
pub use crate::revision::Revision;
pub use crate::ttl::Ttl;
