use kvtyped::KvVersion;
use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", version = 3, upgrade_from = UserV2)]
struct User {
    id: u64,
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 2, upgrade_from = UserV1)]
struct UserV2 {
    id: u64,
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 1)]
struct UserV1 {
    id: u64,
}

#[derive(KvModel)]
#[kv(key = "{id}", version = 2, upgrade_from = UserV1)]
struct Setting {
    id: u64,
    #[kv(value)]
    value: u32,
}

fn main() {}
