use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}")]
struct User {
    id: u64,
    #[kv(index(with = half))]
    name: String,
    #[kv(index(with = ratio))]
    score: u64,
    #[kv(index(with = missing))]
    other: u64,
}

fn half(number: &u64) -> u64 {
    number / 2
}

fn ratio(number: &u64) -> f64 {
    *number as f64
}

fn main() {}
