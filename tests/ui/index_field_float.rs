use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", index(by_place = "{x}.{id}"))]
struct Visit {
    id: u64,
    x: f64,
    #[kv(index)]
    y: Option<f32>,
}

fn main() {
    let _ = Visit::by_y(1.0);
    let _ = Visit::by_place(1.0).id(7);
}
