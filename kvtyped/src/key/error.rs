//! The errors of keys.

use super::Key;

/// The reason why a text is not a key, or not a key of the requested model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text is empty.
    #[error("the key is empty, and needs at least one segment")]
    Empty,
    /// The encoded key is longer than [`Key::MAX_BYTES`].
    #[error("the encoded key has {bytes} bytes, but {} are allowed", Key::MAX_BYTES)]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The key of an index entry, with the value and the key of its record, is longer than [`Key::MAX_BYTES`].
    #[error(
        "the entry of the index `{index}` has {bytes} bytes, but {} are allowed; store a hash with `#[kv(index(hash))]`",
        Key::MAX_BYTES
    )]
    EntryTooLong {
        /// The name of the index.
        index: &'static str,
        /// The length of the entry's key.
        bytes: usize,
    },
    /// A character that is not allowed in a key.
    #[error("{character:?} at byte {at} is not legal in a key; use a typed key, which escapes it")]
    IllegalCharacter {
        /// The character.
        character: char,
        /// Its position in bytes.
        at: usize,
    },
    /// A dot at the start or end, or two consecutive dots.
    #[error("there is an empty segment at byte {at}")]
    EmptySegment {
        /// The position of the empty segment in bytes.
        at: usize,
    },
    /// The key has other literals or another number of segments than the template of the model.
    #[error("the key does not fit the template `{template}`")]
    Shape {
        /// The template of the model's key.
        template: &'static str,
    },
    /// A segment does not hold a value of its field.
    #[error("the segment of the field `{field}` is invalid: {error}")]
    Segment {
        /// The field of the key.
        field: &'static str,
        /// The error of the segment.
        error: SegmentError,
    },
}

/// The reason why a segment is not a value of the field's type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// An `=` without an escape that [`escape`](super::escape) would have written.
    #[error("an escape is not canonical")]
    Escape,
    /// The escapes do not form valid UTF-8.
    #[error("its bytes are not UTF-8")]
    Utf8,
    /// The key codec cannot store the segment, or would not write the stored one.
    #[error("the key codec `{codec}` does not support it: {reason}")]
    KeyCodec {
        /// The name of the codec.
        codec: &'static str,
        /// The reason.
        reason: &'static str,
    },
    /// The text is not the canonical text of a value of this type.
    #[error("it is not the canonical text of {expected}")]
    Value {
        /// The expected type, for a reader.
        expected: &'static str,
    },
}
