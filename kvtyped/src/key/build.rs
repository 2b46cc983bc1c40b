//! Typed keys: built segment by segment, read segment by segment.

use std::fmt;
use std::hash::Hash;
use std::str::FromStr;

use super::escape::{SegmentWriter, unescape};
use super::{Key, KeyError, KeySegment, Pattern};

/// The key type of a model; `#[derive(KvModel)]` writes it.
///
/// `Display` is the encoded key and `FromStr` its inverse, for every key that is short enough to be one.
pub trait ModelKey:
    Clone + fmt::Debug + fmt::Display + FromStr<Err = KeyError> + Eq + Ord + Hash + Send + Sync + 'static
{
    /// The template of the key, for messages: `{tenant}.{id}`.
    const TEMPLATE: &'static str;

    /// The bucket that the key's model declares, if the key belongs to one model. A transaction of another bucket refuses
    /// to remove the record of the key.
    const BUCKET: Option<&'static str> = None;

    /// Writes the literals and the fields, in the template's order.
    fn write(&self, out: &mut KeyBuilder);

    /// Reads the fields, in the template's order.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if the text is no key of this type.
    fn parse(parser: &mut KeyParser<'_>) -> Result<Self, KeyError>;

    /// What matches every key of this type.
    fn pattern() -> Pattern;

    /// The encoded key.
    ///
    /// # Errors
    ///
    /// [`KeyError::TooLong`]: everything else is escaped.
    fn encode(&self) -> Result<Key, KeyError> {
        let mut out = KeyBuilder::new();
        self.write(&mut out);
        out.finish()
    }

    /// The key that `text` encodes.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if it encodes none.
    fn decode(text: &str) -> Result<Self, KeyError> {
        if text.len() > Key::MAX_BYTES {
            return Err(KeyError::TooLong { bytes: text.len() });
        }
        let mut parser = KeyParser::new(text, Self::TEMPLATE);
        let key = Self::parse(&mut parser)?;
        parser.finish()?;
        Ok(key)
    }
}

/// Builds an encoded key from literals and segments.
#[derive(Debug, Default)]
pub struct KeyBuilder {
    out: String,
}

impl KeyBuilder {
    /// A builder into which nothing was written yet.
    pub fn new() -> Self {
        Self { out: String::with_capacity(48) }
    }

    /// Appends a literal of the template as it stands, dots included.
    pub fn literal(&mut self, text: &str) -> &mut Self {
        self.out.push_str(text);
        self
    }

    /// Appends a field, escaped.
    pub fn segment<S: KeySegment>(&mut self, value: &S) -> &mut Self {
        let mut segment = SegmentWriter::new(&mut self.out);
        // Writing into a segment cannot fail. If a type returns an error anyway, the text that it wrote remains.
        let _ = value.write_segment(&mut segment);
        segment.finish();
        self
    }

    /// Appends the field that takes the rest of the key. Each dot of its text is a dot of the key. All other special
    /// characters are escaped.
    pub fn rest<S: KeySegment>(&mut self, value: &S) -> &mut Self {
        let mut segments = SegmentWriter::splitting(&mut self.out);
        // Writing into a segment cannot fail. If a type returns an error anyway, the text that it wrote remains.
        let _ = value.write_segment(&mut segments);
        segments.finish();
        self
    }

    /// What was built, as text.
    pub fn as_str(&self) -> &str {
        &self.out
    }

    fn finish(self) -> Result<Key, KeyError> {
        Key::new(self.out)
    }
}

/// Reads an encoded key segment by segment.
#[derive(Debug)]
pub struct KeyParser<'a> {
    rest: Option<&'a str>,
    template: &'static str,
}

impl<'a> KeyParser<'a> {
    fn new(text: &'a str, template: &'static str) -> Self {
        Self { rest: Some(text), template }
    }

    fn shape<T>(&self) -> Result<T, KeyError> {
        Err(KeyError::Shape { template: self.template })
    }

    fn next(&mut self) -> Result<&'a str, KeyError> {
        let Some(rest) = self.rest else { return self.shape() };
        let (segment, rest) = match rest.split_once('.') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (rest, None),
        };
        self.rest = rest;
        Ok(segment)
    }

    /// Reads one segment that is a literal of the template.
    ///
    /// # Errors
    ///
    /// [`KeyError::Shape`] if another stands there.
    pub fn literal(&mut self, text: &str) -> Result<(), KeyError> {
        if self.next()? == text { Ok(()) } else { self.shape() }
    }

    /// Reads one segment that holds a field, between the literals that the template has beside it in this segment.
    ///
    /// # Errors
    ///
    /// [`KeyError::Shape`] if the literals are not there, [`KeyError::Segment`] if what is between holds no `S`.
    pub fn segment<S: KeySegment>(&mut self, field: &'static str, prefix: &str, suffix: &str) -> Result<S, KeyError> {
        let segment = self.next()?;
        let Some(inner) = within(segment, prefix, suffix) else { return self.shape() };
        let text = unescape(inner).map_err(|error| KeyError::Segment { field, error })?;
        S::parse_segment(&text).map_err(|error| KeyError::Segment { field, error })
    }

    /// Reads all segments that are left, as they are stored.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::Shape`] if no segment is left.
    pub fn rest(&mut self) -> Result<&'a str, KeyError> {
        self.rest.take().map_or_else(|| self.shape(), Ok)
    }

    fn finish(self) -> Result<(), KeyError> {
        if self.rest.is_none() { Ok(()) } else { self.shape() }
    }
}

/// The part of a segment between two literals, or `None` if the literals are not there.
///
/// Most segments have no literals. Comparing empty texts is not free: `memcmp` of glibc reads their dangling pointers
/// with a masked load, which takes some 100 ns on processors that suppress the fault in microcode.
fn within<'a>(segment: &'a str, prefix: &str, suffix: &str) -> Option<&'a str> {
    let rest = if prefix.is_empty() { segment } else { segment.strip_prefix(prefix)? };
    if suffix.is_empty() { Some(rest) } else { rest.strip_suffix(suffix) }
}

/// Any key, verbatim. Nothing is escaped, so the keys of other writers are read and written back unchanged.
impl ModelKey for Key {
    const TEMPLATE: &'static str = "{key..}";

    fn write(&self, out: &mut KeyBuilder) {
        out.literal(self.as_str());
    }

    fn parse(parser: &mut KeyParser<'_>) -> Result<Self, KeyError> {
        Self::new(parser.rest()?)
    }

    fn pattern() -> Pattern {
        Pattern::all()
    }
}
