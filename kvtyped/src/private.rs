//! The items that the derives use in generated code. They are not part of the public API and change without notice.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

pub use crate::codec::{Codec, CodecError, Json};
pub use crate::config::{BucketConfig, Storage, WriteEpochs};
pub use crate::key::{
    Key, KeyBuilder, KeyCodec, KeyError, KeyParser, KeySegment, ModelKey, Pattern, SegmentError, SegmentWriter,
};
pub use crate::model::VersionSchema;
pub use crate::model::index::{
    By, IndexArgument, IndexInfo, IndexKind, IndexRange, IndexValues, Indexable, Indexed, Lookup, Many, One,
    RangeField, RangeValue,
};
pub use crate::model::upgraded::{
    Downgraded, Upgraded, can_write, decode_first, decode_next, encode_version, is_older, is_version,
    model_names_codec, oldest, schema_first, schema_next, schema_writes, schemas_first, schemas_next,
    version_names_codec,
};
pub use crate::model::{DecodeError, DowngradeTo, Refusal, UpgradeFrom};
pub use crate::model::{Filter, KvModel, KvVersion, ModelSchema, Ref, SingleRevision, VersionField};

use crate::key::unescape;

/// A field of a generated key or of a newtype with `#[derive(KeySegment)]`, with all operations of generated code.
///
/// A field of an unsuitable type causes the same error for each operation of this trait, so rustc reports it once.
/// Separate traits, or bounds on this one, would cause one error for each.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a key segment",
    label = "not a key segment",
    note = "key segments are strings, integers, `bool`, `char`, `Uuid` (feature `uuid`) and types with `#[derive(KeySegment)]`"
)]
pub trait DerivedField: Sized {
    /// Copies the field with `Clone`.
    fn copy(&self) -> Self;

    /// Borrows the field for `Debug`.
    fn debug(&self) -> &dyn fmt::Debug;

    /// Compares the fields with `PartialEq`.
    fn same(&self, other: &Self) -> bool;

    /// Compares the fields with `Ord`.
    fn order(&self, other: &Self) -> Ordering;

    /// Feeds the field into the hasher with `Hash`.
    fn digest<H: Hasher>(&self, state: &mut H);

    /// Appends the field to a key.
    fn write(&self, out: &mut KeyBuilder);

    /// Parses the field from a key.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`KeyParser::segment`].
    fn parse(parser: &mut KeyParser<'_>, field: &'static str, prefix: &str, suffix: &str) -> Result<Self, KeyError>;

    /// Appends the field to a pattern, or a wildcard for `None`.
    fn pattern(pattern: Pattern, value: Option<&Self>, prefix: &str, suffix: &str) -> Pattern;

    /// Writes the text of the newtype that contains the field.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`KeySegment::write_segment`].
    fn write_text(&self, out: &mut SegmentWriter<'_>) -> fmt::Result;

    /// Parses the field from the text of the newtype that contains it.
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

/// The last field of a generated key, if it takes the rest of the key. Its type is a [`KeySegment`], whose text may
/// contain dots, or a [`Key`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the rest of a key",
    label = "not a key segment or a `Key`",
    note = "the rest of a key must be a `String`, another key segment, or a `kvtyped::Key`, which is stored verbatim"
)]
pub trait RestField: Sized {
    /// Copies the field with `Clone`.
    fn copy(&self) -> Self;

    /// Borrows the field for `Debug`.
    fn debug(&self) -> &dyn fmt::Debug;

    /// Compares the fields with `PartialEq`.
    fn same(&self, other: &Self) -> bool;

    /// Compares the fields with `Ord`.
    fn order(&self, other: &Self) -> Ordering;

    /// Feeds the field into the hasher with `Hash`.
    fn digest<H: Hasher>(&self, state: &mut H);

    /// Appends the field to a key.
    fn write(&self, out: &mut KeyBuilder);

    /// Parses the field from a key.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::Shape`] if no segment is left, and [`KeyError::Segment`] if the type cannot parse the text.
    fn parse(parser: &mut KeyParser<'_>, field: &'static str) -> Result<Self, KeyError>;

    /// Appends the field to a pattern, or a wildcard for `None`. With `below`, the pattern matches only longer keys.
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
        let invalid = |error| KeyError::Segment { field, error };
        let mut text = String::new();
        for (index, segment) in parser.rest()?.split('.').enumerate() {
            let part = unescape(segment).map_err(invalid)?;
            // A dot of the text is never escaped.
            if part.contains('.') {
                return Err(invalid(SegmentError::Escape));
            }
            if index > 0 {
                text.push('.');
            }
            text.push_str(&part);
        }
        S::parse_segment(&text).map_err(invalid)
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

/// Implements `Display` for a generated key.
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
