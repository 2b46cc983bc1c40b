use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{0}")]
struct Session(String, u64);

fn takes_a_model<T: KvModel>(_: T) {}

fn main() {
    takes_a_model(Session("acme".into(), 7));
}
