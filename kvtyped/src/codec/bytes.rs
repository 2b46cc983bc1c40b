//! Raw bytes.

use super::{Codec, CodecError};
use crate::schema::Schema;

/// Stores the bytes unchanged: for `Vec<u8>`, `bytes::Bytes` and similar types.
#[derive(Debug, Clone, Copy)]
pub enum Bytes {}

#[diagnostic::do_not_recommend]
impl<V: AsRef<[u8]> + From<Vec<u8>>> Codec<V> for Bytes {
    const NAME: &'static str = "bytes";

    fn encode(value: &V) -> Result<Vec<u8>, CodecError> {
        Ok(value.as_ref().to_vec())
    }

    fn decode(bytes: &[u8]) -> Result<V, CodecError> {
        Ok(V::from(bytes.to_vec()))
    }

    fn verify(written: &V, read: &V) -> Result<(), CodecError> {
        if written.as_ref() == read.as_ref() { Ok(()) } else { Err(CodecError::changed("bytes")) }
    }

    fn schema() -> Schema {
        Schema::bytes()
    }
}
