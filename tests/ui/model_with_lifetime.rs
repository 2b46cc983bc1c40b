use kvtyped::prelude::*;
use kvtyped::codec::Text;

#[derive(KvModel)]
#[kv(key = "{id}", codec = Text)]
struct Setting<'a> {
    id: u64,
    #[kv(value)]
    text: &'a str,
}

fn main() {}
