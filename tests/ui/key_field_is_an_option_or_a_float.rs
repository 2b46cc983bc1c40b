use kvtyped::Filter;
use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{tenant}.{price}.{page}")]
struct Visit {
    tenant: Option<String>,
    price: f64,
    page: &'static str,
}

fn main() {
    let key = VisitKey::new(None, 1.0, "page");
    let _: Filter<Visit> = key.clone().into();
}
