use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}")]
enum Event {
    Created { id: u64 },
    Removed { id: u64 },
}

fn main() {}
