use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", history = 5)]
struct Session {
    id: u64,
}

fn expires<T: kvtyped::model::SingleRevision>() {}

fn main() {
    expires::<Session>();
}
