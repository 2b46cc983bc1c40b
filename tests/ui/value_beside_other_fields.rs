use kvtyped::codec::Text;
use kvtyped::prelude::*;

#[derive(KvModel)]
#[kv(key = "{name}", codec = Text)]
struct Setting {
    name: String,
    #[kv(value)]
    text: String,
    author: String,
    changes: u32,
}

#[derive(KvModel)]
#[kv(key = "{name}", codec = Text)]
struct InTheKey {
    #[kv(value)]
    name: String,
}

fn main() {}
