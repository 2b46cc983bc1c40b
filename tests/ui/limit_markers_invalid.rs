use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", limit_markers = "none")]
struct Word {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", limit_markers = "500ms")]
struct TooShort {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", limit_markers)]
struct Missing {
    id: u64,
}

fn main() {}
