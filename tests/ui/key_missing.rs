use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
struct Session {
    tenant: String,
    id: u64,
}

// Without a field there is nothing to make a key of either.
#[derive(Serialize, Deserialize, KvModel)]
struct Unit;

fn main() {}
