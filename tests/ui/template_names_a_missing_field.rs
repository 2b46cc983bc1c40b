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

// What the model would have brought is used, and nothing more is reported.
fn main() {
    let key = SessionKey::new(7);
    let _: Filter<Session> = (&key).into();
    let _: Filter<Session> = SessionKey::filter().id(7).into();
    let _ = (key.id, key.to_string(), "acme.7".parse::<SessionKey>());
    let _ = Session { tenant: "acme".into(), id: 7 }.key();
}
