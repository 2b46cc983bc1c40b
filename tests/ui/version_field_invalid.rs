use kvtyped::KvVersion;
use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}")]
struct Wide {
    id: u64,
    #[kv(version)]
    version: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}")]
struct Two {
    id: u64,
    #[kv(version)]
    version: u32,
    #[kv(version)]
    schema: u32,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}")]
struct Skipped {
    id: u64,
    #[kv(version)]
    #[serde(skip)]
    version: u32,
}

#[derive(KvModel)]
#[kv(key = "{id}.{version}")]
struct Value {
    id: u64,
    #[kv(version)]
    version: u32,
    #[kv(value)]
    value: String,
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 1)]
struct Old {
    #[kv(version = 1)]
    version: u32,
}

fn main() {}
