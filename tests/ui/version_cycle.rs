use kvtyped::KvVersion;
use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 2, upgrade_from = UserV1)]
struct UserV2 {
    id: u64,
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 1, upgrade_from = UserV2)]
struct UserV1 {
    id: u64,
}

impl From<UserV1> for UserV2 {
    fn from(old: UserV1) -> Self {
        Self { id: old.id }
    }
}

impl From<UserV2> for UserV1 {
    fn from(old: UserV2) -> Self {
        Self { id: old.id }
    }
}

fn main() {}
