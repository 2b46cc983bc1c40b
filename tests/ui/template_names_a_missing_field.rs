use kvtyped::Filter;
use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{tenent}.{id}")]
struct Session {
    tenant: String,
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{account}.{id}")]
struct Visit {
    id: u64,
    day: u32,
}

// The code uses the generated items, and the compiler reports no further error.
fn main() {
    let key = SessionKey::new(7);
    let _: Filter<Session> = (&key).into();
    let _: Filter<Session> = SessionKey::filter().id(7).into();
    let _ = (key.id, key.to_string(), "acme.7".parse::<SessionKey>());
    let _ = Session { tenant: "acme".into(), id: 7 }.key();
}
