use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", max_value_size = "64 kilobytes", max_bytes = 1.5)]
struct Words {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", max_value_size = "4GiB", max_bytes = 0)]
struct OutOfRange {
    id: u64,
}

fn main() {}
