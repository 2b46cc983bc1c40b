use kvtyped::codec::Text;
use kvtyped::prelude::*;

#[derive(KvModel)]
#[kv(key = "{id}", codec = Text)]
struct Setting {
    id: u64,
    #[kv(value)]
    first: String,
    #[kv(value)]
    second: String,
    #[kv(value)]
    third: String,
}

fn main() {}
