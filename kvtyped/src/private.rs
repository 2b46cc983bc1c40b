//! What the code that the derive macros write may name. No part of the API: it changes without notice.

use std::cmp::Ordering;
use std::fmt;
use std::hash::Hasher;

pub use crate::codec::{Codec, Json};
pub use crate::config::{BucketConfig, Storage};
pub use crate::key::{KeyBuilder, KeyError, KeyParser, KeySegment, ModelKey, Pattern, SegmentError, SegmentWriter};
pub use crate::model::{Filter, KvModel, SingleRevision};

use crate::codec::CodecError;

/// A field of a generated key, or of a newtype that is a segment: everything that is done with one.
///
/// All of it is asked of one trait, which has no bound of its own, so that a field that is no segment is the same error
/// wherever it is met: rustc shows it once, at the field's type.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a segment of a key",
    label = "not a key segment",
    note = "a key is made of strings, integers, `bool`, `char`, `Uuid` (feature `uuid`) and types with `#[derive(KeySegment)]`"
)]
pub trait KeyField: Sized {
    /// `Clone`.
    fn copy(&self) -> Self;

    /// `Debug`.
    fn debug(&self) -> &dyn fmt::Debug;

    /// `PartialEq`.
    fn same(&self, other: &Self) -> bool;

    /// `Ord`.
    fn order(&self, other: &Self) -> Ordering;

    /// `Hash`.
    fn digest<H: Hasher>(&self, state: &mut H);

    /// Appends it to a key.
    fn write(&self, out: &mut KeyBuilder);

    /// Reads it from a key.
    ///
    /// # Errors
    ///
    /// Those of [`KeyParser::segment`].
    fn parse(parser: &mut KeyParser<'_>, field: &'static str, prefix: &str, suffix: &str) -> Result<Self, KeyError>;

    /// Appends it to a pattern.
    fn pattern(pattern: Pattern, value: Option<&Self>, prefix: &str, suffix: &str) -> Pattern;

    /// Writes the text of a newtype around it.
    ///
    /// # Errors
    ///
    /// Those of [`KeySegment::write_segment`].
    fn write_text(&self, out: &mut SegmentWriter<'_>) -> fmt::Result;

    /// Reads the text of a newtype around it.
    ///
    /// # Errors
    ///
    /// Those of [`KeySegment::parse_segment`].
    fn parse_text(text: &str) -> Result<Self, SegmentError>;
}

#[diagnostic::do_not_recommend]
impl<S: KeySegment> KeyField for S {
    fn copy(&self) -> Self {
        self.clone()
    }

    fn debug(&self) -> &dyn fmt::Debug {
        self
    }

    fn same(&self, other: &Self) -> bool {
        self == other
    }

    fn order(&self, other: &Self) -> Ordering {
        self.cmp(other)
    }

    fn digest<H: Hasher>(&self, state: &mut H) {
        self.hash(state);
    }

    fn write(&self, out: &mut KeyBuilder) {
        out.segment(self);
    }

    fn parse(parser: &mut KeyParser<'_>, field: &'static str, prefix: &str, suffix: &str) -> Result<Self, KeyError> {
        parser.segment(field, prefix, suffix)
    }

    fn pattern(pattern: Pattern, value: Option<&Self>, prefix: &str, suffix: &str) -> Pattern {
        pattern.segment(value, prefix, suffix)
    }

    fn write_text(&self, out: &mut SegmentWriter<'_>) -> fmt::Result {
        self.write_segment(out)
    }

    fn parse_text(text: &str) -> Result<Self, SegmentError> {
        Self::parse_segment(text)
    }
}

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
