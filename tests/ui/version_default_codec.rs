use kvtyped::KvVersion;
use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", version = 3, upgrade_from = UserV2, codec = MsgPack)]
struct User {
    id: u64,
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 2, upgrade_from = UserV1, codec = MsgPack)]
struct UserV2 {
    id: u64,
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 1)]
struct UserV1 {
    id: u64,
}

#[derive(KvModel)]
#[kv(key = "{id}", version = 2, upgrade_from = UserV1, codec = MsgPack)]
struct Setting {
    id: u64,
    #[kv(value)]
    value: UserV2,
}

// The codec of version 1 is named.
#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", version = 2, upgrade_from = NamedV1, codec = MsgPack)]
struct Named {
    id: u64,
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 1, codec = kvtyped::codec::Json)]
struct NamedV1 {
    id: u64,
}

impl From<UserV2> for User {
    fn from(old: UserV2) -> Self {
        Self { id: old.id }
    }
}

impl From<UserV1> for UserV2 {
    fn from(old: UserV1) -> Self {
        Self { id: old.id }
    }
}

impl From<NamedV1> for Named {
    fn from(old: NamedV1) -> Self {
        Self { id: old.id }
    }
}

fn main() {}
