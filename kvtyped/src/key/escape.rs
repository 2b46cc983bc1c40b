//! Escaping of any text into one segment of a key, and the inverse.

use std::borrow::Cow;
use std::fmt;

use super::SegmentError;

/// The segment for the empty text. `=_` is never an escaped byte, because `_` is not a hexadecimal digit.
const EMPTY: &str = "=_";

/// For each byte, whether a segment contains it unescaped.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < plain.len() {
        plain[byte] = matches!(byte as u8, b'-' | b'/' | b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9');
        byte += 1;
    }
    plain
};

pub(super) fn is_plain(byte: u8) -> bool {
    PLAIN[usize::from(byte)]
}

/// Whether a text is its own segment.
pub(super) fn is_plain_text(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_plain)
}

pub(super) fn is_plain_character(character: char) -> bool {
    u8::try_from(character).is_ok_and(is_plain)
}

/// Escapes `text` into one segment of a key.
///
/// `[-/_a-zA-Z0-9]+` stays unchanged. Every other byte of the UTF-8 text becomes `=XX`, with upper-case hexadecimal
/// digits. The empty text becomes `=_`. Therefore no text leaves its segment or acts as a wildcard, different texts
/// have different segments, and [`unescape`] is the inverse.
///
/// ```
/// use kvtyped::key::{escape, unescape};
///
/// assert_eq!(escape("invoice-42"), "invoice-42");
/// assert_eq!(escape("a.b *"), "a=2Eb=20=2A");
/// assert_eq!(escape(""), "=_");
/// assert_eq!(unescape("a=2Eb=20=2A").unwrap(), "a.b *");
/// ```
pub fn escape(text: &str) -> Cow<'_, str> {
    if is_plain_text(text) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    let mut segment = SegmentWriter::new(&mut out);
    segment.push(text);
    segment.finish();
    Cow::Owned(out)
}

/// Returns the text that [`escape`] wrote.
///
/// # Errors
///
/// Returns [`SegmentError`] if [`escape`] does not write `segment`: a stray `=`, lower-case digits, an escape of a byte
/// that needs none, bytes that are not UTF-8, or characters that no segment may contain. Each text therefore has
/// exactly one segment.
pub fn unescape(segment: &str) -> Result<Cow<'_, str>, SegmentError> {
    if segment == EMPTY {
        return Ok(Cow::Borrowed(""));
    }
    if segment.is_empty() {
        return Err(SegmentError::Escape);
    }
    if segment.bytes().all(is_plain) {
        return Ok(Cow::Borrowed(segment));
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if is_plain(byte) {
            bytes.push(byte);
            continue;
        }
        if byte != b'=' {
            return Err(SegmentError::Escape);
        }
        let (Some(high), Some(low)) = (rest.next().and_then(digit), rest.next().and_then(digit)) else {
            return Err(SegmentError::Escape);
        };
        let byte = high << 4 | low;
        if is_plain(byte) {
            return Err(SegmentError::Escape);
        }
        bytes.push(byte);
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| SegmentError::Utf8)
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Writes one segment, and escapes the text that is formatted into it.
///
/// A [`KeySegment`](super::KeySegment) writes its value with [`write!`].
#[derive(Debug)]
pub struct SegmentWriter<'a> {
    out: &'a mut String,
    start: usize,
    /// Whether each dot of the text ends a segment.
    splits: bool,
}

impl<'a> SegmentWriter<'a> {
    pub(super) fn new(out: &'a mut String) -> Self {
        let start = out.len();
        Self { out, start, splits: false }
    }

    /// Creates a writer of one or more segments: each dot of the text is a dot of the key.
    pub(super) fn splitting(out: &'a mut String) -> Self {
        Self { splits: true, ..Self::new(out) }
    }

    /// Escapes a text and appends it.
    pub fn push(&mut self, text: &str) {
        if !self.splits {
            return self.escape(text);
        }
        for (index, part) in text.split('.').enumerate() {
            if index > 0 {
                self.end_segment();
                self.out.push('.');
                self.start = self.out.len();
            }
            self.escape(part);
        }
    }

    fn escape(&mut self, text: &str) {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        if text.bytes().all(is_plain) {
            self.out.push_str(text);
            return;
        }
        for byte in text.bytes() {
            if is_plain(byte) {
                self.out.push(char::from(byte));
            } else {
                self.out.push('=');
                self.out.push(char::from(DIGITS[usize::from(byte >> 4)]));
                self.out.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
    }

    /// Ends the segment. An empty segment becomes the empty text.
    pub(super) fn finish(mut self) {
        self.end_segment();
    }

    fn end_segment(&mut self) {
        if self.out.len() == self.start {
            self.out.push_str(EMPTY);
        }
    }
}

impl fmt::Write for SegmentWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text);
        Ok(())
    }
}
