use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "")]
struct Empty {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "a..{id}")]
struct EmptySegment {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{{id}}")]
struct DoubledBraces {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "a}.{id}")]
struct StrayBrace {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{}.{id:05}")]
struct NoName {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "a b.{id}.ü")]
struct Illegal {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}.{id}")]
struct Repeated {
    id: u64,
}

fn main() {}
