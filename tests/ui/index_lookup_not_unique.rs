use kvtyped::model::Indexed;
use kvtyped::model::index::UniqueLookup;
use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", index(by_role = "{team}.{role}"))]
struct User {
    id: u64,
    #[kv(index)]
    team: String,
    role: String,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}")]
struct Plain {
    id: u64,
}

fn find<T: Indexed>(_: impl UniqueLookup<T>) {}

fn is_indexed<T: Indexed>() {}

fn main() {
    find::<User>(User::by_team("core"));
    find::<User>(User::by_role("core"));
    is_indexed::<Plain>();
}
