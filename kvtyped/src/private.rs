//! What the code that the derive macros write may name. No part of the API: it changes without notice.

use std::cmp::Ordering;
use std::fmt;
use std::hash::Hasher;

pub use crate::codec::{Codec, Json};
pub use crate::config::{BucketConfig, Storage};
pub use crate::key::{KeyBuilder, KeyError, KeyParser, KeySegment, ModelKey, Pattern, SegmentError, SegmentWriter};
pub use crate::model::{Filter, KvModel, SingleRevision};

use crate::codec::CodecError;

/// A field of a generated key: everything that is done with one.
///
/// All of it is asked of one trait, so that a field that is no segment is one error, at its type.
pub trait KeyField: KeySegment {
    /// `Clone`.
    fn copy(&self) -> Self {
        self.clone()
    }

    /// `Debug`.
    fn debug(&self) -> &dyn fmt::Debug {
        self
    }

    /// `PartialEq`.
    fn same(&self, other: &Self) -> bool {
        self == other
    }

    /// `Ord`.
    fn order(&self, other: &Self) -> Ordering {
        self.cmp(other)
    }

    /// `Hash`.
    fn digest<H: Hasher>(&self, state: &mut H) {
        self.hash(state);
    }

    /// Appends it to a key.
    fn write(&self, out: &mut KeyBuilder) {
        out.segment(self);
    }

    /// Reads it from a key.
    ///
    /// # Errors
    ///
    /// Those of [`KeyParser::segment`].
    fn parse(parser: &mut KeyParser<'_>, field: &'static str, prefix: &str, suffix: &str) -> Result<Self, KeyError> {
        parser.segment(field, prefix, suffix)
    }

    /// Appends it to a pattern.
    fn pattern(pattern: Pattern, value: Option<&Self>, prefix: &str, suffix: &str) -> Pattern {
        pattern.segment(value, prefix, suffix)
    }
}

impl<S: KeySegment> KeyField for S {}

/// The `Display` of a generated key.
///
/// # Errors
///
/// Those of the formatter.
pub fn display<K: ModelKey>(key: &K, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut out = KeyBuilder::new();
    key.write(&mut out);
    f.pad(out.as_str())
}

/// The codec of a model that did not compile.
#[derive(Debug)]
pub enum AnyCodec {}

impl<V> Codec<V> for AnyCodec {
    const NAME: &'static str = "any";

    fn encode(_: &V) -> Result<Vec<u8>, CodecError> {
        Err(CodecError::new("any", "the model did not compile"))
    }

    fn decode(_: &[u8]) -> Result<V, CodecError> {
        Err(CodecError::new("any", "the model did not compile"))
    }
}
