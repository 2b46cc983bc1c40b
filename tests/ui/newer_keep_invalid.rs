use kvtyped::UnknownFields;
use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", newer = "keep")]
struct Missing {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", newer = "keep")]
struct Nested {
    id: u64,
    rest: UnknownFields,
}

#[derive(KvModel)]
#[kv(key = "{id}", newer = "keep")]
struct Value {
    id: u64,
    #[kv(value)]
    value: String,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", newer = "keep")]
struct Twice {
    id: u64,
    #[serde(flatten)]
    rest: UnknownFields,
    #[serde(flatten)]
    inner: Inner,
}

#[derive(Serialize, Deserialize)]
struct Inner {
    text: String,
}

fn main() {}
