//! What a key is.
//!
//! A key is a row of segments separated by dots: `acme.7`.
//! One function, [`Key::new`], decides whether a text is a key; one pair, [`escape`] and [`unescape`], makes any text
//! one segment of a key and back. Whoever holds a [`Key`] holds the proof that it may be sent.

mod base64;
mod build;
mod codec;
mod error;
mod escape;
mod pattern;
mod patterns;
mod segment;

pub use self::build::{KeyBuilder, KeyParser, ModelKey};
pub use self::codec::KeyCodec;
pub use self::error::{KeyError, SegmentError};
pub use self::escape::{SegmentWriter, escape, unescape};
pub use self::pattern::{Pattern, Token};
pub use self::patterns::Patterns;
pub use self::segment::KeySegment;

use std::fmt;
use std::str::FromStr;

/// A legal key, as it is stored.
///
/// Legal is `[-/_=.a-zA-Z0-9]+` (ADR-6) without an empty segment (no dot at either end, no two in a row), of at
/// most [`Key::MAX_BYTES`] bytes. Keys whose first segment begins with `_kv` are reserved by ADR-6 for the system;
/// no server enforces that, and neither does this type. Keys whose first segment is [`Key::RESERVED`] are this crate's own.
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
    /// The longest key, in bytes.
    ///
    /// A server closes the connection, which everybody shares, when a protocol line is longer than 4,096 bytes; this
    /// limit leaves room for every subject that a key is put into.
    pub const MAX_BYTES: usize = 1024;

    /// The first segment of the keys that this crate itself writes into a bucket: locks beside the records that they
    /// protect, say. No text is escaped to it, and no open segment of a [`Pattern`] matches it, so the records of a model
    /// and these keys never meet.
    pub const RESERVED: &str = "=kvtyped";

    /// Checks a text and makes it a key.
    ///
    /// # Errors
    ///
    /// [`KeyError`] names the first thing that is wrong with it.
    pub fn new(text: impl Into<String>) -> Result<Self, KeyError> {
        let text = text.into();
        check(&text)?;
        Ok(Self(text))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments, still escaped.
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

/// Whether a text has nothing wrong with it, its length aside.
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
