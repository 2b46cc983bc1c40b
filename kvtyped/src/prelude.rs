//! What a program that keeps models imports: `use kvtyped::prelude::*;`.

pub use serde::{Deserialize, Serialize};

pub use crate::codec::{Bytes, Json, MsgPack, Text};
pub use crate::key::{KeySegment, ModelKey};
pub use crate::model::{Filter, KvModel};
pub use crate::revision::Revision;
pub use kvtyped_derive::{KeySegment, KvModel};
