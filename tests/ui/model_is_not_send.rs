use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}")]
struct Session {
    id: u64,
    #[serde(skip)]
    user: std::marker::PhantomData<std::rc::Rc<str>>,
}

fn main() {}
