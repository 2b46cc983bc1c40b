use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", ttl = "30 minutes")]
struct Words {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", ttl = "30")]
struct NoUnit {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", ttl = "50ms")]
struct TooShort {
    id: u64,
}

fn main() {}
