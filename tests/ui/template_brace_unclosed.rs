use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{tenant.{id}")]
struct Session {
    tenant: String,
    id: u64,
}

// What the model would have brought is used, and nothing more is reported.
fn main() {
    let key = SessionKey::new("acme", 7);
    let _: Filter<Session> = (&key).into();
    let _: Filter<Session> = SessionKey::filter().tenant("acme").into();
    let _ = (key.tenant.clone(), key.to_string(), "acme.7".parse::<SessionKey>());
    let _ = Session { tenant: "acme".into(), id: 7 }.key();
}
