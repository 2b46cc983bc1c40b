use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
struct Session {
    tenant: String,
    id: u64,
}

// A model without fields has no field for a key.
#[derive(Serialize, Deserialize, KvModel)]
struct Unit;

fn main() {}
