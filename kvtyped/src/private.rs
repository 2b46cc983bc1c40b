//! The items that generated code may use. Not part of the API: they change without notice.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

pub use crate::codec::{Codec, Json};
pub use crate::config::{BucketConfig, Storage};
pub use crate::key::{
    Key, KeyBuilder, KeyCodec, KeyError, KeyParser, KeySegment, ModelKey, Pattern, SegmentError, SegmentWriter,
};
pub use crate::model::{Filter, KvModel, SingleRevision};

use crate::codec::CodecError;
use crate::key::unescape;

/// A field of a generated key, or of a newtype that is a segment, with every operation that generated code needs.
///
/// One trait without bounds has all operations. A field of an unsuitable type is then the same error for each
/// operation, so rustc reports it once, at the type of the field.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a key segment",
    label = "not a key segment",
    note = "key segments are strings, integers, `bool`, `char`, `Uuid` (feature `uuid`) and types with `#[derive(KeySegment)]`"
)]
pub trait DerivedField: Sized {
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

    /// Appends the field to a key.
    fn write(&self, out: &mut KeyBuilder);

    /// Reads the field from a key.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`KeyParser::segment`].
    fn parse(parser: &mut KeyParser<'_>, field: &'static str, prefix: &str, suffix: &str) -> Result<Self, KeyError>;

    /// Appends the field to a pattern.
    fn pattern(pattern: Pattern, value: Option<&Self>, prefix: &str, suffix: &str) -> Pattern;

    /// Writes the text of a newtype around the field.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`KeySegment::write_segment`].
    fn write_text(&self, out: &mut SegmentWriter<'_>) -> fmt::Result;

    /// Reads the field from the text of a newtype around it.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`KeySegment::parse_segment`].
    fn parse_text(text: &str) -> Result<Self, SegmentError>;
}

#[diagnostic::do_not_recommend]
impl<S: KeySegment> DerivedField for S {
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

/// The last field of a generated key, which takes the rest of the key: a segment whose text may contain dots, or a
/// [`Key`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the rest of a key",
    label = "not a key segment or a `Key`",
    note = "the rest of a key must be a `String`, another key segment, or a `kvtyped::Key`, which is stored verbatim"
)]
pub trait RestField: Sized {
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

    /// Appends the field to a key.
    fn write(&self, out: &mut KeyBuilder);

    /// Reads the field from a key.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::Shape`] if no segment is left, and [`KeyError::Segment`] if the type does not read the text.
    fn parse(parser: &mut KeyParser<'_>, field: &'static str) -> Result<Self, KeyError>;

    /// Appends the field, or everything below it, to a pattern.
    fn pattern(pattern: Pattern, value: Option<&Self>, below: bool) -> Pattern;
}

macro_rules! rest_field {
    () => {
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
    };
}

#[diagnostic::do_not_recommend]
impl<S: KeySegment> RestField for S {
    rest_field!();

    fn write(&self, out: &mut KeyBuilder) {
        out.rest(self);
    }

    fn parse(parser: &mut KeyParser<'_>, field: &'static str) -> Result<Self, KeyError> {
        let refused = |error| KeyError::Segment { field, error };
        let mut text = String::new();
        for (index, segment) in parser.rest()?.split('.').enumerate() {
            let part = unescape(segment).map_err(refused)?;
            // A dot of the text is never escaped.
            if part.contains('.') {
                return Err(refused(SegmentError::Escape));
            }
            if index > 0 {
                text.push('.');
            }
            text.push_str(&part);
        }
        S::parse_segment(&text).map_err(refused)
    }

    fn pattern(pattern: Pattern, value: Option<&Self>, below: bool) -> Pattern {
        let pattern = pattern.rest(value);
        if below { pattern.open() } else { pattern }
    }
}

impl RestField for Key {
    rest_field!();

    fn write(&self, out: &mut KeyBuilder) {
        out.literal(self.as_str());
    }

    fn parse(parser: &mut KeyParser<'_>, _: &'static str) -> Result<Self, KeyError> {
        Self::new(parser.rest()?)
    }

    fn pattern(pattern: Pattern, value: Option<&Self>, below: bool) -> Pattern {
        let Some(key) = value else { return pattern.open() };
        let pattern = key.segments().fold(pattern, Pattern::literal);
        if below { pattern.open() } else { pattern }
    }
}

/// The `Display` of a generated key.
///
/// # Errors
///
/// Returns the errors of the formatter.
pub fn display<K: ModelKey>(key: &K, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut out = KeyBuilder::new();
    key.write(&mut out);
    f.pad(out.as_str())
}

/// The codec of a model that does not compile. It names the codec `C` of the model, and supports every value.
#[derive(Debug)]
pub struct UncompiledCodec<C>(PhantomData<C>);

impl<C: 'static, V> Codec<V> for UncompiledCodec<C> {
    const NAME: &'static str = "any";

    fn encode(_: &V) -> Result<Vec<u8>, CodecError> {
        Err(CodecError::new("any", "the model did not compile"))
    }

    fn decode(_: &[u8]) -> Result<V, CodecError> {
        Err(CodecError::new("any", "the model did not compile"))
    }
}
