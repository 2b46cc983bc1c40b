//! JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, CodecError, redact};

/// Plain JSON, as every other client and `nats kv get` read it. The default.
///
/// Nesting is read to a depth of 127. A float that JSON cannot express (`NaN`, infinities) is written as `null`, and a
/// field of type `f64` does not read `null`: such a value comes back as an error.
#[derive(Debug, Clone, Copy)]
pub enum Json {}

#[diagnostic::do_not_recommend]
impl<V: Serialize + DeserializeOwned> Codec<V> for Json {
    const NAME: &'static str = "json";

    fn encode(value: &V) -> Result<Vec<u8>, CodecError> {
        serde_json::to_vec(value).map_err(|_| CodecError::new("json", "the value cannot be written as JSON"))
    }

    fn decode(bytes: &[u8]) -> Result<V, CodecError> {
        serde_json::from_slice(bytes).map_err(|error| {
            let place = format!(" at line {} column {}", error.line(), error.column());
            let text = error.to_string();
            let detail = match error.classify() {
                serde_json::error::Category::Data => redact::message(text.strip_suffix(&*place).unwrap_or(&text)),
                serde_json::error::Category::Eof => "the value ends too early".to_owned(),
                _ => "this is not JSON".to_owned(),
            };
            CodecError::new("json", detail + &place)
        })
    }
}
