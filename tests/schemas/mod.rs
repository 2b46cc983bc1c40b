//! Schemas: the probe, the canonical JSON, comparisons, golden files.

mod compare;
mod golden;
mod json;
mod json_schema;
mod probe;

use kvtyped::schema::Schema;
use serde::de::DeserializeOwned;

/// Returns the JSON of the shape of a type, without the format number around it.
fn shape<V: DeserializeOwned>() -> String {
    inner(&Schema::probe::<V>())
}

fn inner(schema: &Schema) -> String {
    let json = schema.to_json();
    json["{\"kvtyped_schema\":1,\"shape\":".len()..json.len() - 1].to_owned()
}
