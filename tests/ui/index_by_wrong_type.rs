use std::time::SystemTime;

use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}")]
struct User {
    id: u64,
    #[kv(index(by = "day"))]
    name: String,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}")]
struct Event {
    id: u64,
    #[kv(index(by = "day"))]
    age: u64,
    #[kv(index(by = 10))]
    at: SystemTime,
    #[kv(index(by = 1000))]
    small: Option<u8>,
}

fn main() {}
