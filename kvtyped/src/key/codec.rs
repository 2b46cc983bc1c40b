//! Key encodings of other clients.
//!
//! A key codec converts between a typed key, whose segments are [escaped](super::escape), and the stored key. It
//! accepts only keys that it would write itself, so a record never has two keys.

use std::borrow::Cow;

use super::base64::{self, Alphabet};
use super::{Key, KeyError, Pattern, SegmentError, Token, escape, unescape};

/// The encoding of the keys of a bucket.
///
/// Choose one with `#[kv(key_codec = "base64")]` on a model or with `.key_codec(..)` on a bucket. All programs that use
/// a bucket must choose the same codec. A program with another codec reads wrong keys or none.
///
/// ```
/// use kvtyped::Key;
/// use kvtyped::key::KeyCodec;
///
/// let key = Key::new("test.key").unwrap();
/// let stored = KeyCodec::Base64.encode(&key).unwrap();
/// assert_eq!(stored.as_str(), "dGVzdA.a2V5");
/// assert_eq!(KeyCodec::Base64.decode(&stored).unwrap(), key);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum KeyCodec {
    /// The keys of this library, which store an ordinary identifier unchanged. The default.
    #[default]
    Escaped,
    /// `Base64Codec` of orbit.go and `WithBase64Keys` of orbit.net: each segment in the URL alphabet without padding.
    ///
    /// It refuses a dot in a segment, and the empty text.
    Base64,
    /// `Base64KeyCodec` of nats.js: each segment in Latin-1, with the standard alphabet and padding.
    ///
    /// It refuses a dot in a segment, the empty text, characters above U+00FF, and a text whose encoding contains `+`,
    /// which is not allowed in a key.
    ///
    /// nats.js cannot decode [reserved](Key::RESERVED) keys: its `key` of such an entry throws. Keep locks in a bucket
    /// that nats.js does not watch.
    Base64NatsJs,
    /// `PathCodec` of orbit.go: `/usr/lib` is `_root_.usr.lib`. For models whose key is one field, `{path..}`.
    ///
    /// It refuses dots, empty parts, a trailing slash and a first part `_root_`, because such a path would not be read
    /// back equal.
    Path,
}

impl KeyCodec {
    /// The name in `#[kv(key_codec = "..")]`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Escaped => "escaped",
            Self::Base64 => "base64",
            Self::Base64NatsJs => "base64-nats-js",
            Self::Path => "path",
        }
    }

    /// Returns `key` as it is stored. [Reserved](Key::RESERVED) keys are stored as they are.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::Segment`] if the codec cannot express a segment, and [`KeyError::TooLong`] if the stored key
    /// would be too long.
    pub fn encode(self, key: &Key) -> Result<Key, KeyError> {
        let text = key.as_str();
        // Without this sign, no segment is escaped or reserved. Most keys are like this.
        let is_plain = !text.as_bytes().contains(&b'=');
        if self == Self::Escaped || (!is_plain && is_reserved(text)) {
            return Ok(key.clone());
        }
        let mut stored = Vec::with_capacity(text.len() + text.len() / 3 + 16);
        for (index, segment) in text.as_bytes().split(|byte| *byte == b'.').enumerate() {
            match (index, self) {
                (0, _) => {}
                (_, Self::Path) => return self.refuse("a key has one segment, which contains no dot"),
                _ => stored.push(b'.'),
            }
            if is_plain { self.encode_text(segment, &mut stored)? } else { self.encode_segment(segment, &mut stored)? }
        }
        let stored = text_of(stored);
        // The alphabets of base64 are legal in keys, and so are the parts of a plain path.
        if stored.len() <= Key::MAX_BYTES && (is_plain || self != Self::Path) {
            return Ok(Key(stored));
        }
        Key::new(stored)
    }

    /// Returns the key that is stored as `stored`.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::Segment`] if [`encode`](Self::encode) writes no such key.
    pub fn decode(self, stored: &Key) -> Result<Key, KeyError> {
        if self == Self::Escaped || is_reserved(stored.as_str()) {
            return Ok(stored.clone());
        }
        let mut key = String::with_capacity(stored.as_str().len());
        match self {
            Self::Path => key.push_str(&escape(&path_of(stored.as_str()))),
            _ => {
                let mut bytes = Vec::with_capacity(stored.as_str().len());
                for (index, token) in stored.segments().enumerate() {
                    if index > 0 {
                        key.push('.');
                    }
                    bytes.clear();
                    self.decode_token(token, &mut bytes, &mut key)?;
                }
            }
        }
        let key = Key::new(key)?;
        if self.encode(&key).is_ok_and(|canonical| canonical == *stored) {
            Ok(key)
        } else {
            self.refuse("the stored key is not in the canonical encoding")
        }
    }

    /// Returns the pattern of the stored keys. It may match more keys than `pattern`, because half-open segments become
    /// open ones.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::Segment`] if the codec cannot express a literal of the pattern.
    pub(crate) fn encode_pattern(self, pattern: &Pattern) -> Result<Pattern, KeyError> {
        let tokens = pattern.tokens();
        let reserved = matches!(tokens.first(), Some(Token::Literal(text)) if text == Key::RESERVED);
        if self == Self::Escaped || reserved || tokens.is_empty() {
            return Ok(pattern.clone());
        }
        let stored = match (self, tokens) {
            (Self::Path, [Token::Literal(path)]) => {
                self.encode_literal(path)?.split('.').fold(Pattern::new(), Pattern::literal)
            }
            (Self::Path, _) => {
                return self.refuse("the codec supports only exact keys; filter by `..` or by a full path");
            }
            (_, tokens) => tokens.iter().try_fold(Pattern::new(), |stored, token| match token {
                Token::Literal(text) => Ok(stored.literal(&self.encode_literal(text)?)),
                Token::Any { .. } => Ok(stored.any()),
            })?,
        };
        Ok(if pattern.is_open() { stored.open() } else { stored })
    }

    fn refuse<T>(self, reason: &'static str) -> Result<T, KeyError> {
        let error = SegmentError::KeyCodec { codec: self.name(), reason };
        Err(KeyError::Segment { field: "key", error })
    }

    /// A literal of a pattern as the codec writes it.
    fn encode_literal(self, segment: &str) -> Result<String, KeyError> {
        let mut out = Vec::new();
        self.encode_segment(segment.as_bytes(), &mut out)?;
        Ok(text_of(out))
    }

    /// Appends a segment of a key, which may be escaped, as the codec writes it.
    fn encode_segment(self, segment: &[u8], out: &mut Vec<u8>) -> Result<(), KeyError> {
        let segment = str::from_utf8(segment).unwrap_or_default();
        let text = unescape(segment).map_err(|error| KeyError::Segment { field: "key", error })?;
        if text.is_empty() {
            return self.refuse("the text is empty");
        }
        if text.contains('.') {
            return self.refuse("the text contains a dot");
        }
        if self != Self::Base64NatsJs {
            return self.encode_text(text.as_bytes(), out);
        }
        let Some(latin) = text.chars().map(|c| u8::try_from(c).ok()).collect::<Option<Vec<u8>>>() else {
            return self.refuse("the text contains a character outside Latin-1");
        };
        let start = out.len();
        self.encode_text(&latin, out)?;
        // The encoding of a plain segment never holds it.
        match out.get(start..) {
            Some(token) if token.contains(&b'+') => self.refuse("the encoding of the text contains a `+`"),
            _ => Ok(()),
        }
    }

    /// Appends the bytes of a text as the codec writes them.
    fn encode_text(self, text: &[u8], out: &mut Vec<u8>) -> Result<(), KeyError> {
        match self {
            Self::Escaped => out.extend_from_slice(text),
            Self::Base64 => base64::encode(text, Alphabet::Url, out),
            Self::Base64NatsJs => base64::encode(text, Alphabet::Standard, out),
            Self::Path => return self.encode_path(text, out),
        }
        Ok(())
    }

    fn encode_path(self, path: &[u8], out: &mut Vec<u8>) -> Result<(), KeyError> {
        if path == b"/" {
            out.extend_from_slice(ROOT.as_bytes());
            return Ok(());
        }
        let relative = path.strip_prefix(b"/").unwrap_or(path);
        let mut parts = relative.split(|byte| *byte == b'/');
        if relative.len() < path.len() {
            out.extend_from_slice(ROOT.as_bytes());
            out.push(b'.');
        } else if parts.clone().next().is_some_and(|part| part == ROOT.as_bytes() || part == Key::RESERVED.as_bytes()) {
            return self.refuse("the first part of the path is reserved");
        }
        if parts.any(<[u8]>::is_empty) {
            return self.refuse("the path has an empty part");
        }
        out.extend(relative.iter().map(|byte| if *byte == b'/' { b'.' } else { *byte }));
        Ok(())
    }

    /// Appends a stored segment to `key`, escaped. `bytes` is empty memory to work in.
    fn decode_token(self, token: &str, bytes: &mut Vec<u8>, key: &mut String) -> Result<(), KeyError> {
        let alphabet = if self == Self::Base64NatsJs { Alphabet::Standard } else { Alphabet::Url };
        let decoded = base64::decode(token.as_bytes(), alphabet, bytes);
        let text = match (decoded, std::str::from_utf8(bytes)) {
            (Some(()), Ok(text)) if text.is_ascii() || self == Self::Base64 => Cow::Borrowed(text),
            (Some(()), _) if self == Self::Base64NatsJs => Cow::Owned(bytes.iter().copied().map(char::from).collect()),
            _ => return self.refuse("the stored key is not in the canonical encoding"),
        };
        key.push_str(&escape(&text));
        Ok(())
    }
}

/// Whether the key is one of this library's own.
fn is_reserved(key: &str) -> bool {
    key.strip_prefix(Key::RESERVED).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The text of bytes that a codec wrote. Each of them is ASCII, or from a text.
fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// The first segment of an absolute path.
const ROOT: &str = "_root_";

fn path_of(stored: &str) -> String {
    match stored.strip_prefix(ROOT) {
        Some("") => "/".to_owned(),
        Some(rest) if rest.starts_with('.') => rest.replace('.', "/"),
        _ => stored.replace('.', "/"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn key(segments: &[&str]) -> Key {
        Key::new(segments.iter().map(|text| escape(text)).collect::<Vec<_>>().join(".")).unwrap()
    }

    #[track_caller]
    fn stores(codec: KeyCodec, segments: &[&str], stored: &str) {
        let stored = Key::new(stored).unwrap();
        assert_eq!(codec.encode(&key(segments)).unwrap(), stored);
        assert_eq!(codec.decode(&stored).unwrap(), key(segments));
    }

    #[track_caller]
    fn refuses(codec: KeyCodec, segments: &[&str]) {
        let error = codec.encode(&key(segments)).unwrap_err();
        assert!(matches!(error, KeyError::Segment { .. } | KeyError::IllegalCharacter { .. }), "{error}");
    }

    #[track_caller]
    fn does_not_read(codec: KeyCodec, stored: &str) {
        let error = codec.decode(&Key::new(stored).unwrap()).unwrap_err();
        assert!(matches!(error, KeyError::Segment { .. }), "{error}");
    }

    #[test]
    fn base64_matches_orbit_test_vectors() {
        stores(KeyCodec::Base64, &["test", "key"], "dGVzdA.a2V5");
        stores(KeyCodec::Base64, &["chars!@#$%^&*()"], "Y2hhcnMhQCMkJV4mKigp");
        let filter = Pattern::new().literal("app").any().literal("config").open();
        assert_eq!(KeyCodec::Base64.encode_pattern(&filter).unwrap().to_string(), "YXBw.*.Y29uZmln.>");
    }

    #[test]
    fn base64_refuses_non_round_trip_keys() {
        refuses(KeyCodec::Base64, &["a.b"]);
        refuses(KeyCodec::Base64, &[""]);
        // Padding, the other alphabet, trailing bits, not base64, not UTF-8, an encoded dot.
        for stored in ["YQ==", "a/b/", "YR", "a", "_w", "YS5i"] {
            does_not_read(KeyCodec::Base64, stored);
        }
    }

    #[test]
    fn nats_js_codec_pads_and_writes_latin_1() {
        stores(KeyCodec::Base64NatsJs, &["a"], "YQ==");
        stores(KeyCodec::Base64NatsJs, &["test", "key"], "dGVzdA==.a2V5");
        stores(KeyCodec::Base64NatsJs, &["é"], "6Q==");
        stores(KeyCodec::Base64NatsJs, &["a?b?"], "YT9iPw==");
        stores(KeyCodec::Base64NatsJs, &["?\u{ff}"], "P/8=");
        for segment in ["€", "", "a.b", "\u{fb}\u{ef}"] {
            refuses(KeyCodec::Base64NatsJs, &[segment]);
        }
        for stored in ["YQ", "YR==", "plain"] {
            does_not_read(KeyCodec::Base64NatsJs, stored);
        }
    }

    #[test]
    fn path_codec_follows_orbit_rules() {
        stores(KeyCodec::Path, &["/"], "_root_");
        stores(KeyCodec::Path, &["/usr/lib"], "_root_.usr.lib");
        stores(KeyCodec::Path, &["usr/lib"], "usr.lib");
        stores(KeyCodec::Path, &["usr"], "usr");
        for path in ["", "//", "a//b", "a/", "/a/", "a.b", "_root_/a", "_root_", "=kvtyped/a", "a b"] {
            refuses(KeyCodec::Path, &[path]);
        }
        refuses(KeyCodec::Path, &["a", "b"]);
        does_not_read(KeyCodec::Path, "a/b");
        let below = Pattern::new().literal("/usr").open();
        assert_eq!(KeyCodec::Path.encode_pattern(&below).unwrap().to_string(), "_root_.usr.>");
    }

    #[test]
    fn encoded_key_length_is_limited() {
        for codec in [KeyCodec::Base64, KeyCodec::Base64NatsJs, KeyCodec::Path] {
            let text = |bytes: usize| format!("/{}", "a".repeat(bytes - 1));
            assert!(codec.encode(&key(&[&text(700)])).is_ok());
            let error = codec.encode(&key(&[&text(Key::MAX_BYTES)])).unwrap_err();
            assert!(matches!(error, KeyError::TooLong { bytes } if bytes > Key::MAX_BYTES), "{error}");
        }
    }

    #[test]
    fn reserved_keys_are_stored_unchanged() {
        let reserved = Key::new("=kvtyped.lock.a").unwrap();
        for codec in [KeyCodec::Escaped, KeyCodec::Base64, KeyCodec::Base64NatsJs, KeyCodec::Path] {
            assert_eq!(codec.encode(&reserved).unwrap(), reserved);
            assert_eq!(codec.decode(&reserved).unwrap(), reserved);
            let pattern = Pattern::new().literal(Key::RESERVED).open();
            assert_eq!(codec.encode_pattern(&pattern).unwrap(), pattern);
        }
    }
}
