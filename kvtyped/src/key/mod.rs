//! Keys.
//!
//! A key is a list of segments separated by dots: `acme.7`. [`Key::new`] is the only check of a key. [`escape`] turns
//! any text into one segment of a key, and [`unescape`] is its inverse. A [`Key`] is always valid in a request.

mod error;
mod escape;
mod segment;
mod base64;
mod pattern;
mod patterns;
mod build;
mod codec;

pub use self::build::{KeyBuilder, KeyParser, ModelKey};
pub use self::codec::KeyCodec;
pub use self::error::{KeyError, SegmentError};
pub use self::escape::{SegmentWriter, escape, unescape};
pub use self::pattern::{Pattern, Token};
pub use self::patterns::Patterns;
pub use self::segment::KeySegment;

use std::fmt;
use std::str::FromStr;

/// A valid key, as it is stored.
///
/// A key is valid if it matches `[-/_=.a-zA-Z0-9]+` (ADR-6), has no empty segment (no dot at the start or end, and no
/// two consecutive dots), and has at most [`Key::MAX_BYTES`] bytes. ADR-6 reserves keys whose first segment begins with
/// `_kv` for the system. No server enforces that, and neither does this type. Keys whose first segment is
/// [`Key::RESERVED`] belong to this crate.
///
/// ```
/// use kvtyped::Key;
///
/// let key = Key::new("acme.7").unwrap();
/// assert_eq!(key.segments().collect::<Vec<_>>(), ["acme", "7"]);
/// assert!(Key::new("a..b").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// The length limit of a key, in bytes.
    ///
    /// A server closes the shared connection if a protocol line is longer than 4,096 bytes. This limit leaves room for
    /// every subject that contains a key.
    pub const MAX_BYTES: usize = 1024;

    /// The first segment of the keys that this crate writes for its recipes, such as the lock of a record. No text is
    /// escaped to it, and no open segment of a [`Pattern`] matches it, so these keys never collide with the records of
    /// a model.
    pub const RESERVED: &str = "=kvtyped";

    /// Checks a text and converts it to a key.
    ///
    /// # Errors
    ///
    /// Returns a [`KeyError`] with the first violation.
    pub fn new(text: impl Into<String>) -> Result<Self, KeyError> {
        let text = text.into();
        check(&text)?;
        Ok(Self(text))
    }

    /// Returns the key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the escaped segments.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }
}

fn check(text: &str) -> Result<(), KeyError> {
    if text.len() <= Key::MAX_BYTES && is_legal(text.as_bytes()) {
        return Ok(());
    }
    if text.is_empty() {
        return Err(KeyError::Empty);
    }
    if text.len() > Key::MAX_BYTES {
        return Err(KeyError::TooLong { bytes: text.len() });
    }
    let mut at_segment_start = true;
    for (at, character) in text.char_indices() {
        match character {
            '.' if at_segment_start => return Err(KeyError::EmptySegment { at }),
            '.' => at_segment_start = true,
            '=' => at_segment_start = false,
            _ if escape::is_plain_character(character) => at_segment_start = false,
            character => return Err(KeyError::IllegalCharacter { character, at }),
        }
    }
    if at_segment_start {
        return Err(KeyError::EmptySegment { at: text.len() });
    }
    Ok(())
}

/// Whether a text is valid, except for its length.
fn is_legal(text: &[u8]) -> bool {
    let mut before = b'.';
    for &byte in text {
        let legal = if byte == b'.' { before != b'.' } else { byte == b'=' || escape::is_plain(byte) };
        if !legal {
            return false;
        }
        before = byte;
    }
    before != b'.'
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", self.0)
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::new(text)
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}
