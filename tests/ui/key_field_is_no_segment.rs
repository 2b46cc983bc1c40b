use kvtyped::Filter;
use kvtyped::prelude::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Place {
    x: f64,
    y: f64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{place}.{id}")]
struct Visit {
    place: Place,
    id: u64,
}

fn main() {
    let _ = VisitKey::new(Place { x: 0.0, y: 0.0 }, 7);
    let _: Filter<Visit> = VisitKey::filter().id(7).into();
}
