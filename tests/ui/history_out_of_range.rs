use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", history = 0)]
struct Zero {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", history = 65, replicas = 6)]
struct TooMuch {
    id: u64,
}

fn main() {}
