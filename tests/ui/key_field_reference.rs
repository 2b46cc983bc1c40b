use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{page}")]
struct Visit {
    page: &str,
    count: u32,
}

fn main() {
    let key = VisitKey::new("page");
    let _ = key.clone().to_string();
}
