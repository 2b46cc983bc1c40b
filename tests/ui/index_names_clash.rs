use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", index(by_team = "{team}.{role}"), index(role = "{role}.{team}"))]
struct User {
    id: u64,
    #[kv(index, index)]
    team: String,
    #[kv(index)]
    role: String,
    #[kv(index(name = "team"))]
    other: String,
}

fn main() {}
