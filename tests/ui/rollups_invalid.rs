use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", rollups = "off")]
struct Text {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", rollups = false, limit_markers = "5m")]
struct WithMarkers {
    id: u64,
}

fn main() {}
