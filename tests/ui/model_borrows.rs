use kvtyped::codec::Text;
use kvtyped::prelude::*;

#[derive(KvModel)]
#[kv(key = "{id}", codec = Text)]
struct Setting<'a> {
    id: u64,
    #[kv(value)]
    text: &'a str,
}

fn main() {}
