use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", key_codec = "base46")]
struct Unknown {
    id: String,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "files.{path..}", key_codec = "path")]
struct File {
    path: String,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "a=b.{id}", key_codec = "base64")]
struct Sign {
    id: String,
}

fn main() {}
