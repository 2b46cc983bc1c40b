use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key "{tenant}.{id}", bucket, codec = , history = "5", ttl = 30, compression = "yes", crate = "a b")]
struct Session {
    tenant: String,
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv]
struct Bare {
    #[kv(key = "id")]
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", key = "{id}", value)]
struct Twice {
    id: u64,
}

fn main() {}
