//! The types of key segments.

use std::fmt::{self, Write as _};

use super::{SegmentError, SegmentWriter};

/// A type whose values are one segment of a key.
///
/// Strings, integers, `bool`, `char` and, with the feature `uuid`, `Uuid` implement it. `#[derive(KeySegment)]`
/// implements it for newtypes of these and for enums without fields. A manual implementation must be a bijection
/// between values and texts: [`parse_segment`](Self::parse_segment) accepts exactly the texts that
/// [`write_segment`](Self::write_segment) writes, and equal values write equal texts. The writer does the escaping.
///
/// ```
/// use kvtyped::prelude::*;
///
/// #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, KeySegment)]
/// enum Region { Eu, Us }
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
/// #[kv(key = "{region}.{id}")]
/// struct Node {
///     # #[serde(skip, default = "eu")]
///     region: Region,
///     id: u16,
/// }
/// # fn eu() -> Region { Region::Eu }
/// assert_eq!(NodeKey::new(Region::Eu, 7).to_string(), "Eu.7");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a key segment",
    label = "not a key segment",
    note = "key segments are strings, integers, `bool`, `char`, `Uuid` (feature `uuid`) and types with `#[derive(KeySegment)]`",
    note = "an `Option` and a float cannot be key segments; use an enum or an integer"
)]
pub trait KeySegment: Clone + fmt::Debug + Eq + Ord + std::hash::Hash + Send + Sync + 'static {
    /// Writes the text of the value. The writer escapes it.
    ///
    /// # Errors
    ///
    /// Returns an error only because the `fmt` traits require it. Writing into a segment never fails.
    fn write_segment(&self, out: &mut SegmentWriter<'_>) -> fmt::Result;

    /// Parses the value from its unescaped text.
    ///
    /// # Errors
    ///
    /// Returns [`SegmentError::Value`] if no value writes this text.
    fn parse_segment(text: &str) -> Result<Self, SegmentError>;
}

impl KeySegment for String {
    fn write_segment(&self, out: &mut SegmentWriter<'_>) -> fmt::Result {
        out.push(self);
        Ok(())
    }

    fn parse_segment(text: &str) -> Result<Self, SegmentError> {
        Ok(text.to_owned())
    }
}

impl KeySegment for Box<str> {
    fn write_segment(&self, out: &mut SegmentWriter<'_>) -> fmt::Result {
        out.push(self);
        Ok(())
    }

    fn parse_segment(text: &str) -> Result<Self, SegmentError> {
        Ok(text.into())
    }
}

impl KeySegment for std::sync::Arc<str> {
    fn write_segment(&self, out: &mut SegmentWriter<'_>) -> fmt::Result {
        out.push(self);
        Ok(())
    }

    fn parse_segment(text: &str) -> Result<Self, SegmentError> {
        Ok(text.into())
    }
}

/// Implements the trait for types whose `Display` is canonical: a text is valid exactly if it parses to a value that
/// displays as the same text.
macro_rules! by_display {
    ($($type:ty => $expected:literal),* $(,)?) => {$(
        impl KeySegment for $type {
            fn write_segment(&self, out: &mut SegmentWriter<'_>) -> fmt::Result {
                write!(out, "{self}")
            }

            fn parse_segment(text: &str) -> Result<Self, SegmentError> {
                match text.parse::<$type>() {
                    Ok(value) if Same(text).is(&value) => Ok(value),
                    _ => Err(SegmentError::Value { expected: $expected }),
                }
            }
        }
    )*};
}

by_display! {
    u8 => "a `u8`", u16 => "a `u16`", u32 => "a `u32`", u64 => "a `u64`", u128 => "a `u128`", usize => "a `usize`",
    i8 => "an `i8`", i16 => "an `i16`", i32 => "an `i32`", i64 => "an `i64`", i128 => "an `i128`", isize => "an `isize`",
    bool => "a `bool`", char => "one character",
}

#[cfg(feature = "uuid")]
by_display! { uuid::Uuid => "a hyphenated lower-case UUID" }

/// Compares a text with the output of a `Display` implementation, without a buffer.
struct Same<'a>(&'a str);

impl Same<'_> {
    fn is(mut self, value: &impl fmt::Display) -> bool {
        write!(self, "{value}").is_ok() && self.0.is_empty()
    }
}

impl fmt::Write for Same<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.strip_prefix(text).ok_or(fmt::Error)?;
        Ok(())
    }
}
