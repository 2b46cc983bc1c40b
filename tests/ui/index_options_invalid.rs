use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", index, unique())]
struct Unnamed {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", index(by_a = 7), index(evental), index(by_b = "{a}.{b}" hash))]
struct OfStruct {
    id: u64,
    a: u64,
    b: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}")]
struct OfField {
    id: u64,
    #[kv(index = "a")]
    a: u64,
    #[kv(index(uniqe))]
    b: u64,
    #[kv(index(hash = true))]
    c: u64,
    #[kv(index(by = "week"))]
    d: u64,
    #[kv(index(by = 25))]
    e: u64,
    #[kv(index(by = 10, by = 10))]
    f: u64,
    #[kv(index(with))]
    g: u64,
    #[kv(index(name = "two words"))]
    h: u64,
    #[kv(index)]
    größe: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", unique(by_pair = "{a}.{b}", eventual))]
struct Combined {
    id: u64,
    #[kv(unique(eventual))]
    a: u64,
    #[kv(unique(by = 10))]
    b: u64,
    #[kv(index(by = 10, hash))]
    c: u64,
    #[kv(index(by = 10, with = half))]
    d: u64,
    #[kv(index)]
    #[serde(skip)]
    e: u64,
}

fn half(number: &u64) -> u64 {
    number / 2
}

fn main() {
    let _ = Combined::by_a(7);
}
