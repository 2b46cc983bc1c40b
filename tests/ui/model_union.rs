use kvtyped::prelude::*;

#[derive(KvModel)]
#[kv(key = "{id}")]
union Bits {
    id: u64,
    bytes: [u8; 8],
}

fn main() {}
