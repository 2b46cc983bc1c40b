//! Codecs between values and bytes.
//!
//! A codec does no I/O and does not depend on keys or buckets. Its input is untrusted: a codec returns an error unless
//! the bytes are the complete encoding of one value. It limits its recursion, allocates in proportion to its input, and
//! never puts content into an error.

mod redact;
mod fingerprint;
mod bounded;
mod bytes;
mod text;
mod json;
#[cfg(feature = "schemars")]
mod described_json;
mod msgpack;

pub use self::bytes::Bytes;
#[cfg(feature = "schemars")]
pub use self::described_json::DescribedJson;
pub use self::json::Json;
pub use self::msgpack::MsgPack;
pub use self::text::Text;

use std::fmt;

use crate::schema::Schema;

/// The nesting limit of decoded values: the limit of `serde_json`.
const MAX_DEPTH: usize = 127;

/// The message of a value that refuses to be written in another form than it was read.
pub(crate) const INEXACT_NUMBER: &str =
    "a number of an unknown field is too large to be kept exactly; deploy a program that knows the field";

/// A conversion of values of `V` to bytes and back.
///
/// Any type can be a codec:
///
/// ```
/// use kvtyped::codec::{Codec, CodecError};
///
/// /// One byte per flag.
/// enum Flag {}
///
/// impl Codec<bool> for Flag {
///     const NAME: &'static str = "flag";
///
///     fn encode(value: &bool) -> Result<Vec<u8>, CodecError> {
///         Ok(vec![u8::from(*value)])
///     }
///
///     fn decode(bytes: &[u8]) -> Result<bool, CodecError> {
///         match bytes {
///             [0] => Ok(false),
///             [1] => Ok(true),
///             _ => Err(CodecError::new(Self::NAME, "expected one byte, 0 or 1")),
///         }
///     }
/// }
///
/// assert!(Flag::decode(&Flag::encode(&true).unwrap()).unwrap());
/// assert!(Flag::decode(b"yes").is_err());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot encode and decode `{V}`",
    label = "this codec does not support the value type",
    note = "`Json` and `MsgPack` require `Serialize` and `Deserialize`, `Text` requires `Display` and `FromStr`, and `Bytes` requires a byte string"
)]
pub trait Codec<V>: 'static {
    /// The name of the format, for errors.
    const NAME: &'static str;

    /// Encodes a value.
    ///
    /// # Errors
    ///
    /// Returns [`CodecError`] if the format cannot express the value.
    fn encode(value: &V) -> Result<Vec<u8>, CodecError>;

    /// Decodes a value from exactly these bytes.
    ///
    /// # Errors
    ///
    /// Returns [`CodecError`] if the bytes are not the complete encoding of one value.
    fn decode(bytes: &[u8]) -> Result<V, CodecError>;

    /// Checks that `read`, the decoded encoding of `written`, is equal to it.
    ///
    /// Buckets check each record before they write it. By default the encodings of the two values must consist of the
    /// same bytes in any order, because the order of a hash map may differ. Override this method if encodings of equal
    /// values differ otherwise (compression, encryption), or if the values can be compared with `==`.
    ///
    /// # Errors
    ///
    /// Returns [`CodecError`] if the values differ.
    fn verify(written: &V, read: &V) -> Result<(), CodecError> {
        let (mut written, mut read) = (Self::encode(written)?, Self::encode(read)?);
        if written != read {
            written.sort_unstable();
            read.sort_unstable();
        }
        if written == read { Ok(()) } else { Err(CodecError::changed(Self::NAME)) }
    }

    /// Returns the shape of the encoded values, for comparisons of the versions of a model.
    ///
    /// By default the schema is [open](Schema::open): every change of the type counts as compatible. `Json` and `MsgPack`
    /// [probe](Schema::probe) the type, which takes microseconds. A codec that encodes with another one and changes only
    /// the bytes (compression, encryption) returns the schema of the inner codec.
    fn schema() -> Schema {
        Schema::open()
    }
}

/// Decodes the output of [`Codec::encode`].
///
/// # Errors
///
/// Returns [`CodecError`] if the codec cannot read its own output.
pub(crate) fn read_back<C: Codec<V>, V>(bytes: &[u8]) -> Result<V, CodecError> {
    C::decode(bytes).map_err(|error| {
        let detail = format!("the value cannot be read back: {}", error.detail);
        CodecError { detail, ..error }
    })
}

/// The reason why a value could not be encoded or decoded, without any content of the value.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{codec}: {detail}")]
pub struct CodecError {
    codec: &'static str,
    detail: String,
    newer: Option<Newer>,
}

/// The format of a record that a newer version of this crate wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Newer {
    /// The format that the record declares.
    pub(crate) found: u64,
    /// The newest format that this version reads.
    pub(crate) known: u64,
}

impl CodecError {
    /// Creates an error of the codec `codec`. The detail appears in logs: do not put content into it.
    pub fn new(codec: &'static str, detail: impl Into<String>) -> Self {
        Self { codec, detail: detail.into(), newer: None }
    }

    /// Creates the error of a record whose format is newer than this version.
    pub(crate) fn newer(codec: &'static str, newer: Newer) -> Self {
        Self { newer: Some(newer), ..Self::new(codec, "the record has a newer format") }
    }

    /// Returns the format of the record, if it is newer than this version.
    pub(crate) fn newer_format(&self) -> Option<Newer> {
        self.newer
    }

    /// Creates the error of a value that would not be read back equal.
    fn changed(codec: &'static str) -> Self {
        Self::new(codec, "the value differs when it is read back")
    }

    /// Returns the name of the codec.
    pub fn codec(&self) -> &'static str {
        self.codec
    }

    /// Returns the reason, without the codec's name.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }
}

impl fmt::Debug for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CodecError({self})")
    }
}
