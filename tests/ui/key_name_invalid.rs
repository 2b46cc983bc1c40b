use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", key_name = "session key", filter_name = Sessions)]
struct Session {
    id: u64,
}

fn main() {}
