use kvtyped::Filter;
use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{tenant}-{id}")]
struct Session {
    tenant: String,
    id: u64,
}

// The code uses the generated items, and the compiler reports no further error.
fn main() {
    let key = SessionKey::new("acme", 7);
    let _: Filter<Session> = (&key).into();
    let _: Filter<Session> = SessionKey::filter().tenant("acme").into();
    let _ = (key.tenant.clone(), key.to_string(), "acme.7".parse::<SessionKey>());
    let _ = Session { tenant: "acme".into(), id: 7 }.key();
}
