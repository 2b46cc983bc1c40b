//! kvtyped (under construction)

pub mod codec;
pub mod config;
pub mod key;
pub mod model;
mod revision;
mod ttl;

pub use crate::config::BucketConfig;
pub use crate::key::{Key, KeySegment};
pub use crate::model::{Filter, KvModel};
pub use crate::revision::Revision;
pub use crate::ttl::Ttl;
