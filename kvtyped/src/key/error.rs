//! What can be wrong with a key.

use super::Key;

/// Why a text is not a key, or not a key of the model that it was read for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// There is no text at all.
    #[error("a key has at least one segment")]
    Empty,
    /// The encoded key is longer than [`Key::MAX_BYTES`].
    #[error("the encoded key has {bytes} bytes, {} are allowed", Key::MAX_BYTES)]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A character that no key may hold.
    #[error("{character:?} at byte {at} is not legal in a key; a typed key escapes it")]
    IllegalCharacter {
        /// The character.
        character: char,
        /// Where it stands, in bytes.
        at: usize,
    },
    /// A dot at an end, or two in a row.
    #[error("there is an empty segment at byte {at}")]
    EmptySegment {
        /// Where the segment should begin, in bytes.
        at: usize,
    },
    /// The key has other literals, or another number of segments, than the model's template.
    #[error("the key does not fit the template `{template}`")]
    Shape {
        /// The template of the model's key.
        template: &'static str,
    },
    /// A segment does not hold a value of its field.
    #[error("the segment of the field `{field}`: {error}")]
    Segment {
        /// The field of the key.
        field: &'static str,
        /// What is wrong with its segment.
        error: SegmentError,
    },
}

/// Why a segment of a key holds no value of the field's type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// An `=` that does not begin an escape that [`escape`](super::escape) would have written.
    #[error("it holds an escape that is not canonical")]
    Escape,
    /// The escapes do not add up to UTF-8.
    #[error("its bytes are not UTF-8")]
    Utf8,
    /// The key codec cannot store the segment, or would not write the stored one.
    #[error("the key codec `{codec}` refuses it: {reason}")]
    KeyCodec {
        /// The name of the codec.
        codec: &'static str,
        /// The reason.
        reason: &'static str,
    },
    /// The text is not the canonical text of a value of this type.
    #[error("it is not the canonical text of {expected}")]
    Value {
        /// What would be, for a reader.
        expected: &'static str,
    },
}
