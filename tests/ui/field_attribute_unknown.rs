use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
struct Session {
    #[kv(key)]
    tenant: String,
    #[kv(kye)]
    id: u64,
    #[kv(ttl = "30m")]
    user: String,
    #[kv(indx)]
    mail: String,
}

fn main() {}
