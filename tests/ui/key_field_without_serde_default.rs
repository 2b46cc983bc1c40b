use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{left_out}.{sometimes}.{renamed}.{both}")]
struct Session {
    #[serde(skip_serializing)]
    left_out: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sometimes: String,
    #[serde(rename(serialize = "name"))]
    renamed: u64,
    #[serde(rename(serialize = "a", deserialize = "b"), alias = "c")]
    both: u64,
}

fn main() {}
