use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", index(by_missing = "{team}.{rol}"), index(by_literal = "{team}.x"), index(by_rest = "{team}.{role..}"))]
#[kv(index(by_affix = "{team}.r-{role}"), index(by_one = "{team}"), index(by_twice = "{team}.{team}"), index(by_none = ""))]
#[kv(index(by_many = "{a}.{b}.{c}.{d}.{e}.{f}.{g}.{team}.{role}"))]
struct User {
    id: u64,
    team: String,
    role: String,
    a: u8,
    b: u8,
    c: u8,
    d: u8,
    e: u8,
    f: u8,
    g: u8,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", index(by_lists = "{a}.{b}"))]
struct Lists {
    id: u64,
    a: Vec<String>,
    b: Vec<String>,
}

fn main() {
    let _ = Lists::by_lists("a").b("b");
}
