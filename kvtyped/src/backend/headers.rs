//! The headers of a record that describe its bytes.

use std::fmt;

use bytes::Bytes;

use crate::revision::Revision;

/// The headers of a record that describe its bytes: plain data that a backend stores with the value and returns with it.
///
/// A write that stores the bytes of an existing record again, such as [`touch`](crate::Bucket::touch), writes the headers
/// that it found. Its `Debug` output does not contain the signature.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct RecordHeaders {
    /// `Kvtyped-Version`: the schema version of the record. `None` without the header. Zero if the header is present
    /// and is no version, which no program can read.
    pub version: Option<u32>,
    /// `Kvtyped-Indexes`: the indexes whose entries the writer of the record has kept. Zero if the header is present and
    /// is no such number.
    indexes: Option<u32>,
    /// The headers that few records have. Boxed, because every entry in memory has room for this type.
    rare: Option<Box<RareHeaders>>,
}

#[derive(Clone, PartialEq, Eq, Default)]
struct RareHeaders {
    encoding: Option<Box<str>>,
    key_id: Option<Box<str>>,
    signature: Option<Bytes>,
    cause: Option<Box<str>>,
}

impl RecordHeaders {
    /// The name of the header for `version`.
    pub const VERSION: &str = "Kvtyped-Version";
    /// The name of the header for [`encoding`](Self::encoding).
    pub const ENCODING: &str = "Kvtyped-Encoding";
    /// The name of the header for [`key_id`](Self::key_id).
    pub const KEY_ID: &str = "Kvtyped-Key-Id";
    /// The name of the header for [`signature`](Self::signature).
    pub const SIGNATURE: &str = "Kvtyped-Signature";
    /// The name of the header for [`cause`](Self::cause).
    pub const CAUSE: &str = "Kvtyped-Cause";

    /// The name of the header for the indexes that a writer kept: 8 hexadecimal digits.
    pub const INDEXES: &str = "Kvtyped-Indexes";

    /// The first word of the [`cause`](Self::cause) of a record that a migration wrote. The second word is the revision
    /// of the last write that was not a rewrite: `rewrite 17`.
    pub const REWRITE: &str = "rewrite";

    /// No headers.
    pub const NONE: Self = Self { version: None, indexes: None, rare: None };

    /// Creates the headers of a record of this schema version. Version 1 is the version of a record without the header,
    /// so `None` writes no header.
    pub fn of_version(version: Option<u32>) -> Self {
        Self { version, ..Self::default() }
    }

    /// Returns the encodings of the body, in the order of their application: `Kvtyped-Encoding`.
    pub fn encoding(&self) -> Option<&str> {
        self.rare.as_ref()?.encoding.as_deref()
    }

    /// Returns the id of the key that sealed or signed the body: `Kvtyped-Key-Id`.
    pub fn key_id(&self) -> Option<&str> {
        self.rare.as_ref()?.key_id.as_deref()
    }

    /// Returns the signature of the body: `Kvtyped-Signature`.
    pub fn signature(&self) -> Option<&Bytes> {
        self.rare.as_ref()?.signature.as_ref()
    }

    /// Returns the reason of a write that no caller asked for, such as [`REWRITE`](Self::REWRITE): `Kvtyped-Cause`.
    pub fn cause(&self) -> Option<&str> {
        self.rare.as_ref()?.cause.as_deref()
    }

    /// Sets or removes the encodings of the body.
    #[must_use]
    pub fn with_encoding(self, encoding: Option<&str>) -> Self {
        self.with(|rare| rare.encoding = encoding.map(Into::into))
    }

    /// Sets or removes the id of the key that sealed or signed the body.
    #[must_use]
    pub fn with_key_id(self, key_id: Option<&str>) -> Self {
        self.with(|rare| rare.key_id = key_id.map(Into::into))
    }

    /// Sets or removes the signature of the body.
    #[must_use]
    pub fn with_signature(self, signature: Option<Bytes>) -> Self {
        self.with(|rare| rare.signature = signature)
    }

    /// Sets or removes the reason of the write.
    #[must_use]
    pub fn with_cause(self, cause: Option<&str>) -> Self {
        self.with(|rare| rare.cause = cause.map(Into::into))
    }

    /// Returns the fingerprint of the indexes whose entries the writer of the record has kept. `None` if the writer knew no
    /// indexes.
    pub(crate) fn indexes(&self) -> Option<u32> {
        self.indexes
    }

    /// Sets or removes the fingerprint of the indexes whose entries the writer keeps.
    #[must_use]
    pub(crate) fn with_indexes(self, indexes: Option<u32>) -> Self {
        Self { indexes, ..self }
    }

    /// Returns the headers that describe the bytes of a record, for a copy of the record: all but the headers that
    /// describe its write.
    #[must_use]
    pub(crate) fn of_bytes(self) -> Self {
        self.with_cause(None).with_indexes(None)
    }

    fn with(mut self, set: impl FnOnce(&mut RareHeaders)) -> Self {
        let mut rare = self.rare.take().unwrap_or_default();
        set(&mut rare);
        self.rare = Some(rare).filter(|rare| **rare != RareHeaders::default());
        self
    }

    /// Returns the [cause](Self::cause) of a rewrite. `source` is the revision of the last write of the record that was
    /// not a rewrite.
    pub(crate) fn rewrite_cause(source: Revision) -> String {
        format!("{} {source}", Self::REWRITE)
    }

    /// Returns the revision that a rewrite names. `None` for a write that is not a rewrite.
    pub(crate) fn rewrite_of(&self) -> Option<Revision> {
        let source = self.cause()?.strip_prefix(Self::REWRITE)?.strip_prefix(' ')?;
        source.parse().ok().map(Revision::new)
    }

    /// Calls `line` with each header that is set.
    pub fn for_each(&self, mut line: impl FnMut(&'static str, &str)) {
        // Destructured, so that a new header cannot be forgotten.
        let Self { version, indexes, rare } = self;
        if let Some(version) = version {
            line(Self::VERSION, Digits::of(*version).as_str());
        }
        if let Some(indexes) = indexes {
            line(Self::INDEXES, &format!("{indexes:08x}"));
        }
        let Some(rare) = rare else { return };
        let RareHeaders { encoding, key_id, signature, cause } = &**rare;
        if let Some(encoding) = encoding {
            line(Self::ENCODING, encoding);
        }
        if let Some(key_id) = key_id {
            line(Self::KEY_ID, key_id);
        }
        if let Some(signature) = signature {
            line(Self::SIGNATURE, &hex(signature));
        }
        if let Some(cause) = cause {
            line(Self::CAUSE, cause);
        }
    }

    /// Sets the header of this name from its stored text. Returns `false` for the name of another header.
    pub fn set(&mut self, name: &str, text: &str) -> bool {
        if name == Self::VERSION {
            self.version = Some(parse_version(text));
            return true;
        }
        if name == Self::INDEXES {
            self.indexes = Some(u32::from_str_radix(text, 16).unwrap_or_default());
            return true;
        }
        let set: fn(&mut RareHeaders, &str) = match name {
            Self::ENCODING => |rare, text| rare.encoding = Some(text.into()),
            Self::KEY_ID => |rare, text| rare.key_id = Some(text.into()),
            Self::SIGNATURE => |rare, text| rare.signature = Some(unhex(text)),
            Self::CAUSE => |rare, text| rare.cause = Some(text.into()),
            _ => return false,
        };
        set(self.rare.get_or_insert_default(), text);
        true
    }
}

impl fmt::Debug for RecordHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut headers = f.debug_struct("RecordHeaders");
        self.for_each(|name, text| {
            match name {
                Self::SIGNATURE => headers.field(name, &format_args!("{} bytes", text.len() / 2)),
                _ => headers.field(name, &text),
            };
        });
        headers.finish()
    }
}

/// Parses a version. Returns zero for any text that this crate does not write, such as `007` and `+7`.
fn parse_version(text: &str) -> u32 {
    let is_canonical = !text.starts_with(['0', '+']);
    if is_canonical { text.parse().unwrap_or_default() } else { 0 }
}

/// The decimal digits of a number, without an allocation.
struct Digits {
    text: [u8; 10],
    start: usize,
}

impl Digits {
    fn of(mut number: u32) -> Self {
        let mut digits = Self { text: [b'0'; 10], start: 10 };
        loop {
            digits.start -= 1;
            digits.text[digits.start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return digits;
            }
        }
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[self.start..]).unwrap_or_default()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads hexadecimal digits. A text that is not hexadecimal is kept as its bytes, so that it matches no signature.
fn unhex(text: &str) -> Bytes {
    let digits = text.as_bytes();
    let byte = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok().filter(|text| text.len() == 2 && !text.starts_with('+'))?;
        u8::from_str_radix(text, 16).ok()
    };
    match digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>() {
        Some(bytes) => bytes.into(),
        None => digits.to_vec().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_read_as_they_were_written() {
        let full = RecordHeaders::of_version(Some(u32::MAX))
            .with_encoding(Some("zstd, aead"))
            .with_key_id(Some("2026-11"))
            .with_signature(Some(vec![0, 127, 255].into()))
            .with_indexes(Some(0x00c0_ffee))
            .with_cause(Some(RecordHeaders::REWRITE));
        assert_eq!(full.cause(), Some("rewrite"));
        for headers in [full, RecordHeaders::default(), RecordHeaders::of_version(Some(1))] {
            let mut read = RecordHeaders::default();
            headers.for_each(|name, text| assert!(read.set(name, text), "{name}"));
            assert_eq!(read, headers);
        }
        assert!(!RecordHeaders::default().set("Nats-Msg-Id", "7"));
    }

    #[test]
    fn invalid_version_is_zero() {
        for text in ["0", "00", "03", "+3", "-1", "", " 3", "three", "4294967296"] {
            assert_eq!(parse_version(text), 0, "{text:?}");
        }
        assert_eq!((parse_version("1"), parse_version("4294967295")), (1, u32::MAX));
    }

    #[test]
    fn rewrite_names_its_source() {
        let source = |cause: &str| RecordHeaders::default().with_cause(Some(cause)).rewrite_of();
        assert_eq!(source(&RecordHeaders::rewrite_cause(Revision::new(17))), Some(Revision::new(17)));
        for other in ["rewrite", "rewrites 7", "rewrite x", "rewrite -1", "repair 7", ""] {
            assert_eq!(source(other), None, "{other:?}");
        }
    }

    #[test]
    fn debug_output_hides_the_signature() {
        let headers = RecordHeaders::of_version(Some(3)).with_signature(Some(vec![0xab; 4].into()));
        let text = format!("{headers:?}");
        assert!(text.contains("4 bytes") && text.contains('3') && !text.contains("abab"), "{text}");
    }
}
