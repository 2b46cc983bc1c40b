//! Plain text.

use std::fmt::{Display, Write as _};
use std::str::FromStr;

use super::{Codec, CodecError};
use crate::schema::Schema;

/// The text of the value: for `String`, and for types with `Display` and `FromStr` (`42`, `true`, an address).
#[derive(Debug, Clone, Copy)]
pub enum Text {}

#[diagnostic::do_not_recommend]
impl<V: Display + FromStr> Codec<V> for Text {
    const NAME: &'static str = "text";

    fn encode(value: &V) -> Result<Vec<u8>, CodecError> {
        let mut text = String::new();
        // `to_string` panics if the `Display` implementation of a type returns an error.
        write!(text, "{value}").map_err(|_| CodecError::new("text", "the value cannot be displayed"))?;
        Ok(text.into_bytes())
    }

    fn decode(bytes: &[u8]) -> Result<V, CodecError> {
        let text = std::str::from_utf8(bytes).map_err(|_| CodecError::new("text", "the bytes are not UTF-8"))?;
        text.parse().map_err(|_| {
            CodecError::new("text", format!("the text is not a value of `{}`", std::any::type_name::<V>()))
        })
    }
    fn verify(written: &V, read: &V) -> Result<(), CodecError> {
        if Self::encode(written)? == Self::encode(read)? { Ok(()) } else { Err(CodecError::changed("text")) }
    }

    fn schema() -> Schema {
        Schema::text()
    }
}
