//! JSON with the schema of `schemars`.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, CodecError, Json};
use crate::schema::Schema;

/// [`Json`] for types with `JsonSchema`, whose schema describes tagged enums and flattened structs too.
///
/// The stored bytes and the name in the card are those of `Json`, so a model can change from one to the other.
///
/// ```
/// use kvtyped::codec::DescribedJson;
/// use kvtyped::prelude::*;
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema, KvModel)]
/// #[kv(bucket = "shapes", key = "{id}", codec = DescribedJson)]
/// struct Stored { id: u64, shape: Shape }
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
/// #[serde(tag = "kind")]
/// enum Shape { Circle { radius: u32 }, Point }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), kvtyped::Error> {
/// let shapes: Bucket<Stored> = Store::memory().bucket().await?;
/// let schema = &shapes.config().metadata["kvtyped.schema.stored.1"];
/// assert!(schema.contains(r#""tag":"kind""#));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub enum DescribedJson {}

#[diagnostic::do_not_recommend]
impl<V: Serialize + DeserializeOwned + JsonSchema> Codec<V> for DescribedJson {
    const NAME: &'static str = <Json as Codec<V>>::NAME;

    fn encode(value: &V) -> Result<Vec<u8>, CodecError> {
        Json::encode(value)
    }

    fn decode(bytes: &[u8]) -> Result<V, CodecError> {
        Json::decode(bytes)
    }

    fn verify(written: &V, read: &V) -> Result<(), CodecError> {
        Json::verify(written, read)
    }

    fn schema() -> Schema {
        Schema::of_json_schema::<V>()
    }
}
