//! MessagePack.

use rmp_serde::decode::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::bounded::{Bounded, TOO_DEEP};
use super::{Codec, CodecError, MAX_DEPTH, fingerprint, redact};
use crate::schema::Schema;

/// MessagePack with named fields: smaller than JSON, and equally tolerant of added and removed fields.
///
/// Decodes nesting to a depth of 127. Bytes after the value are an error.
#[derive(Debug, Clone, Copy)]
pub enum MsgPack {}

#[diagnostic::do_not_recommend]
impl<V: Serialize + DeserializeOwned> Codec<V> for MsgPack {
    const NAME: &'static str = "msgpack";

    fn encode(value: &V) -> Result<Vec<u8>, CodecError> {
        if let Some(depth) = fingerprint::excessive_depth(value, false) {
            return Err(CodecError::new("msgpack", depth));
        }
        rmp_serde::to_vec_named(value)
            .map_err(|_| CodecError::new("msgpack", "the value cannot be written as MessagePack"))
    }

    fn decode(bytes: &[u8]) -> Result<V, CodecError> {
        let mut rest = bytes;
        let mut deserializer = rmp_serde::Deserializer::new(&mut rest);
        // `rmp_serde` does not count enums as levels and trusts every length. `Bounded` fixes both.
        let value = V::deserialize(Bounded::new(&mut deserializer))
            .map_err(|error| CodecError::new("msgpack", detail(&error)))?;
        match rest.len() {
            0 => Ok(value),
            more => Err(CodecError::new("msgpack", format!("{more} bytes follow the value"))),
        }
    }

    fn verify(written: &V, read: &V) -> Result<(), CodecError> {
        fingerprint::difference(written, read, false).map_or(Ok(()), |detail| Err(CodecError::new("msgpack", detail)))
    }

    fn schema() -> Schema {
        Schema::probe_binary::<V>()
    }
}

fn detail(error: &Error) -> String {
    match error {
        Error::Syntax(text) if text == TOO_DEEP => format!("it nests deeper than {MAX_DEPTH}"),
        Error::Syntax(text) | Error::Uncategorized(text) => redact::message(text),
        Error::InvalidMarkerRead(_) | Error::InvalidDataRead(_) => "the value ends too early".to_owned(),
        Error::Utf8Error(_) => "a string is not UTF-8".to_owned(),
        _ => "the bytes are not MessagePack of this type".to_owned(),
    }
}
