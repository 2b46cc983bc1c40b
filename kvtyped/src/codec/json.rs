//! JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::error::{Category, Error};

use super::{Codec, CodecError, INEXACT_NUMBER, fingerprint, redact};
use crate::schema::Schema;

/// Plain JSON, which every other client and `nats kv get` can read. The default.
///
/// Decodes nesting to a depth of 127. JSON has no text for `NaN` and infinities, and `None`, `Some(None)` and
/// `Some(())` are all `null`. [`verify`](Codec::verify) refuses values that would not be read back equal.
#[derive(Debug, Clone, Copy)]
pub enum Json {}

#[diagnostic::do_not_recommend]
impl<V: Serialize + DeserializeOwned> Codec<V> for Json {
    const NAME: &'static str = "json";

    fn encode(value: &V) -> Result<Vec<u8>, CodecError> {
        if let Some(depth) = fingerprint::excessive_depth(value, true) {
            return Err(CodecError::new("json", depth));
        }
        serde_json::to_vec(value).map_err(|error| CodecError::new("json", unwritable(&error)))
    }

    fn decode(bytes: &[u8]) -> Result<V, CodecError> {
        serde_json::from_slice(bytes).map_err(|error| CodecError::new("json", detail(&error)))
    }

    fn verify(written: &V, read: &V) -> Result<(), CodecError> {
        fingerprint::difference(written, read, true).map_or(Ok(()), |detail| Err(CodecError::new("json", detail)))
    }

    fn schema() -> Schema {
        Schema::probe::<V>()
    }
}

/// Returns the reason why a value cannot be encoded, without any content of the value and without messages of its type.
fn unwritable(error: &Error) -> String {
    let what = "the value cannot be written as JSON";
    match error.classify() {
        Category::Data if error.to_string() == INEXACT_NUMBER => format!("{what}: {INEXACT_NUMBER}"),
        // These are fixed texts: `key must be a string`.
        Category::Syntax => format!("{what}: {error}"),
        Category::Data | Category::Io | Category::Eof => what.to_owned(),
    }
}

fn detail(error: &Error) -> String {
    // An error that a type returns after the end of its value has no position.
    let place = match error.line() {
        0 => String::new(),
        line => format!(" at line {line} column {}", error.column()),
    };
    let text = error.to_string();
    let text = text.strip_suffix(&*place).unwrap_or(&text);
    let what = match error.classify() {
        Category::Data | Category::Io => redact::message(text),
        Category::Eof => "the value ends too early".to_owned(),
        // These are fixed texts: `trailing characters`, `recursion limit exceeded`.
        Category::Syntax => text.to_owned(),
    };
    what + &place
}
