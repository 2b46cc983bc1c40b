use kvtyped::prelude::*;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Path(Vec<String>);

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{path..}")]
struct File {
    path: Path,
}

fn main() {}
