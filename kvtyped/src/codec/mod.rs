//! Values as bytes and back.
//!
//! A codec knows nothing of keys, buckets or I/O. Bytes come from strangers: a codec answers with an error to whatever
//! is not the whole encoding of one value, bounds its recursion, allocates in proportion to its input, and never puts
//! content into an error.

mod bounded;
mod bytes;
mod fingerprint;
mod json;
mod msgpack;
mod redact;
mod text;

pub use self::bytes::Bytes;
pub use self::json::Json;
pub use self::msgpack::MsgPack;
pub use self::text::Text;

use std::fmt;

/// How deep a value may nest when it is read: as deep as `serde_json` goes.
const MAX_DEPTH: usize = 127;

/// A way to write values of `V` as bytes.
///
/// Any type can be one:
///
/// ```
/// use kvtyped::codec::{Codec, CodecError};
///
/// /// One byte a flag.
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
    label = "this codec does not fit the value",
    note = "`Json` and `MsgPack` need `#[derive(Serialize, Deserialize)]` on it; `Text` needs `Display + FromStr`; `Bytes` needs a byte string"
)]
pub trait Codec<V>: 'static {
    /// The name of the format, for errors and for whoever reads a bucket's metadata.
    const NAME: &'static str;

    /// Writes a value.
    ///
    /// # Errors
    ///
    /// [`CodecError`] if the format cannot express the value.
    fn encode(value: &V) -> Result<Vec<u8>, CodecError>;

    /// Reads a value from exactly these bytes.
    ///
    /// # Errors
    ///
    /// [`CodecError`] if they are not, from the first to the last, the encoding of one value.
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
}

/// Decodes what [`Codec::encode`] has just written.
///
/// # Errors
///
/// Returns [`CodecError`] if the codec does not read what it wrote.
pub(crate) fn read_back<C: Codec<V>, V>(bytes: &[u8]) -> Result<V, CodecError> {
    C::decode(bytes).map_err(|error| {
        let detail = format!("the value cannot be read back: {}", error.detail);
        CodecError { detail, ..error }
    })
}

/// Why a value could not be written or read; shows none of its content.
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
    /// An error of the codec called `codec`. The detail is shown in logs: keep content out of it.
    pub fn new(codec: &'static str, detail: impl Into<String>) -> Self {
        Self { codec, detail: detail.into(), newer: None }
    }

    /// The error of a record whose format is newer than this version.
    pub(crate) fn newer(codec: &'static str, newer: Newer) -> Self {
        Self { newer: Some(newer), ..Self::new(codec, "the record has a newer format") }
    }

    /// The format of the record, if it is newer than this version.
    pub(crate) fn newer_format(&self) -> Option<Newer> {
        self.newer
    }

    /// The error of a value that would not be read back equal.
    fn changed(codec: &'static str) -> Self {
        Self::new(codec, "the value differs when it is read back")
    }

    /// The name of the codec.
    pub fn codec(&self) -> &'static str {
        self.codec
    }

    /// The reason, without the codec's name.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }
}

impl fmt::Debug for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CodecError({self})")
    }
}
