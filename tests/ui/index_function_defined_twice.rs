use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", index(by_role = "{email}.{role}"))]
struct User {
    id: u64,
    #[kv(unique)]
    email: String,
    role: String,
}

impl User {
    fn by_email() {}
}

struct UserByRole;

fn main() {}
