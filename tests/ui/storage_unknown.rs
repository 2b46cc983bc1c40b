use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", storage = "memroy")]
struct Session {
    id: u64,
}

fn main() {}
