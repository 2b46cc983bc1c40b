use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{tenant}.{id}")]
struct Session {
    #[kv(index)]
    tenant: String,
    // A field of a longer key may be unique.
    #[kv(unique)]
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}")]
struct User {
    #[kv(unique)]
    id: u64,
}

#[derive(KvModel)]
struct Setting {
    #[kv(key)]
    name: String,
    #[kv(value, index)]
    text: String,
}

fn main() {
    let _ = Session::by_tenant("acme");
}
