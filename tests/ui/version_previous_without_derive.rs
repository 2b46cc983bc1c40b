use kvtyped::KvVersion;
use kvtyped::prelude::*;

#[derive(Clone, Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", version = 3, upgrade_from = UserV2, writes = 2)]
struct User {
    id: u64,
}

#[derive(Clone, Serialize, Deserialize)]
struct UserV2 {
    id: u64,
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 2, upgrade_from = String)]
struct Text {
    text: String,
}

impl From<UserV2> for User {
    fn from(old: UserV2) -> Self {
        Self { id: old.id }
    }
}

impl From<User> for UserV2 {
    fn from(new: User) -> Self {
        Self { id: new.id }
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self { text }
    }
}

fn main() {}
