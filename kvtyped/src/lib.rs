//! kvtyped (under construction)

pub mod codec;
pub mod config;
pub mod key;
pub mod model;
pub mod prelude;
mod revision;
mod ttl;

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;

pub use crate::config::BucketConfig;
pub use crate::key::{Key, KeySegment};
pub use crate::model::{Filter, KvModel};
pub use crate::revision::Revision;
pub use crate::ttl::Ttl;
pub use kvtyped_derive::{KeySegment, KvModel};
