use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{path..}.{id}")]
struct First {
    path: String,
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}.x-{path..}")]
struct Beside {
    path: String,
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}.{paht..}")]
struct Missing {
    path: String,
    id: u64,
}

fn main() {}
