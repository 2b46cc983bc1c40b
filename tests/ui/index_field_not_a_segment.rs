use kvtyped::prelude::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Place {
    x: u64,
    y: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}")]
struct Visit {
    id: u64,
    #[kv(index)]
    place: Place,
}

fn main() {}
