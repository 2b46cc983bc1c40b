use kvtyped::Filter;
use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{kind}.{id}", history = 65)]
struct Versioned<K: KeySegment, T> {
    kind: K,
    id: u64,
    value: T,
}

fn uses<T: KvModel>(model: T) -> Filter<T> {
    Filter::of_key(&model.key())
}

fn main() {
    let key: VersionedKey<String> = VersionedKey::new("a", 7);
    let _: Filter<Versioned<String, bool>> = key.into();
    uses(Versioned { kind: String::new(), id: 7, value: true });
}
