use kvtyped::KvVersion;
use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", version = 0)]
struct Zero {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", version = 4294967296)]
struct TooLarge {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", version = "two")]
struct Text {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", version = 2, version = 3)]
struct Twice {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", upgrade_from = Old)]
struct Unnumbered {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", version = 2, writes = 3)]
struct WritesNewer {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", version = 2, writes = 1)]
struct WritesWithoutUpgrade {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", version = 2, unversioned = 3)]
struct UnversionedNewer {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", unversioned = 2)]
struct UnversionedWithoutVersion {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", name = "User", newer = "kep")]
struct Names {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", write_epochs = "shut")]
struct Epochs {
    id: u64,
}

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", name = "")]
struct NoName {
    id: u64,
}

#[derive(Serialize, Deserialize, KvVersion)]
struct Missing {}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(verzion = 1, version = 1, bucket = "old", sealed)]
struct Unknown {
    #[kv(key)]
    id: u64,
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 0)]
struct Old {}

#[derive(KvVersion)]
#[kv(version = 1)]
union Either {
    a: u8,
    b: u8,
}

#[derive(KvVersion)]
#[kv(version = 1)]
struct Borrowed<'a> {
    text: &'a str,
}

// The next version of an invalid version has no further error.
#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 2, upgrade_from = Unnumbered, sealed)]
struct Next {}

#[derive(Clone, Serialize, Deserialize, KvModel)]
#[kv(key = "app", version = 3, upgrade_from = Next, writes = 2)]
struct App {}

impl From<Next> for App {
    fn from(_: Next) -> Self {
        Self {}
    }
}

impl From<App> for Next {
    fn from(_: App) -> Self {
        Self {}
    }
}

fn main() {}
