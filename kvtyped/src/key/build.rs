//! Typed keys, written and parsed segment by segment.

use std::fmt;
use std::hash::Hash;
use std::str::FromStr;

use super::escape::{SegmentWriter, unescape};
use super::pattern::{Pattern, between};
use super::{Key, KeyError, KeySegment};

/// The key type of a model. `#[derive(KvModel)]` implements it.
///
/// `Display` writes the encoded key, and `FromStr` is its inverse for every key within the length limit.
pub trait ModelKey:
    Clone + fmt::Debug + fmt::Display + FromStr<Err = KeyError> + Eq + Ord + Hash + Send + Sync + 'static
{
    /// The template of the key, for messages: `{tenant}.{id}`.
    const TEMPLATE: &'static str;

    /// The bucket that the key's model declares, if the key belongs to one model. A transaction of another bucket
    /// refuses to remove the record of the key.
    const BUCKET: Option<&'static str> = None;

    /// Writes the literals and the fields in the order of the template.
    fn write(&self, out: &mut KeyBuilder);

    /// Parses the fields in the order of the template.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError`] if the text is not a key of this type.
    fn parse(parser: &mut KeyParser<'_>) -> Result<Self, KeyError>;

    /// Returns a pattern that matches every key of this type.
    fn pattern() -> Pattern;

    /// Returns the encoded key.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::TooLong`] if the encoded key is too long. No other error is possible, because the key is
    /// escaped.
    fn encode(&self) -> Result<Key, KeyError> {
        let mut out = KeyBuilder::new();
        self.write(&mut out);
        out.finish()
    }

    /// Decodes a key.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError`] if `text` is not a key of this type.
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
    /// Creates an empty builder.
    pub fn new() -> Self {
        Self { out: String::with_capacity(48) }
    }

    /// Appends a literal of the template unchanged, including dots.
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

    /// Returns the text that was built.
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

    /// Parses one segment that is a literal of the template.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::Shape`] if the segment is not `text`.
    pub fn literal(&mut self, text: &str) -> Result<(), KeyError> {
        if self.next()? == text { Ok(()) } else { self.shape() }
    }

    /// Parses one segment that contains a field between the literals `prefix` and `suffix` of the template.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::Shape`] if the literals are missing, and [`KeyError::Segment`] if the text between them is
    /// not an `S`.
    pub fn segment<S: KeySegment>(&mut self, field: &'static str, prefix: &str, suffix: &str) -> Result<S, KeyError> {
        let segment = self.next()?;
        let Some(inner) = between(segment, prefix, suffix) else { return self.shape() };
        let text = unescape(inner).map_err(|error| KeyError::Segment { field, error })?;
        S::parse_segment(&text).map_err(|error| KeyError::Segment { field, error })
    }

    /// Returns all remaining segments, as they are stored.
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
