//! The schemas of a model: the ones of the program, and the ones that the metadata of a bucket stores.
//!
//! The schema of each version is a metadata entry of its own, `kvtyped.schema.<model>.<version>`, so that a program can
//! compare itself with every version whose records may be stored.

use std::any::TypeId;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use crate::config::BucketConfig;
use crate::model::{KvModel, VersionSchema};
use crate::schema::Schema;

/// The largest schema that is stored, in bytes.
const MAX_SCHEMA: usize = 16 * 1_024;

/// The largest metadata that schemas are added to, in bytes. A server accepts 128 KiB.
const MAX_METADATA: usize = 96 * 1_024;

/// The schemas of the program, from the oldest version to the newest.
pub(crate) type ProgramSchemas = Arc<[VersionSchema]>;

/// Returns the schemas of a model. The first call in a process probes its types.
pub(crate) fn program_schemas<T: KvModel>() -> ProgramSchemas {
    static KNOWN: LazyLock<Mutex<HashMap<TypeId, ProgramSchemas>>> = LazyLock::new(Mutex::default);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let found = known().get(&TypeId::of::<T>()).cloned();
    // The types are probed without the lock, because their code may open a bucket too.
    found.unwrap_or_else(|| Arc::clone(known().entry(TypeId::of::<T>()).or_insert((T::SCHEMA.schemas)().into())))
}

/// Returns the schema of the newest version of the program.
pub(super) fn newest<T: KvModel>() -> Option<Schema> {
    program_schemas::<T>().last().map(|version| version.schema.clone())
}

fn metadata_key(model: &str, version: u32) -> String {
    format!("kvtyped.schema.{model}.{version}")
}

/// Returns the stored schemas of a model by version. An entry that is not a schema is left out: a later version of this
/// crate may have written it.
pub(crate) fn stored(config: &BucketConfig, model: &str) -> BTreeMap<u32, Schema> {
    let prefix = format!("kvtyped.schema.{model}.");
    let parse = |(key, text): (&String, &String)| {
        let version = key.strip_prefix(&prefix)?.parse().ok()?;
        Some((version, Schema::from_json(text).ok()?))
    };
    config.metadata.iter().filter_map(parse).collect()
}

/// Adds the schemas of the program to the metadata of `update`, for the versions from `oldest` to `newest`. Stored
/// schemas stay, unless `replace` is set. A schema without promises is not stored, and neither is one that does not fit.
pub(super) fn insert<T: KvModel>(
    update: &mut BucketConfig,
    found: &BucketConfig,
    (oldest, newest): (u32, u32),
    replace: bool,
) {
    let size = |config: &BucketConfig| config.metadata.iter().map(|(key, text)| key.len() + text.len()).sum::<usize>();
    let mut used = size(found) + size(update);
    for VersionSchema { version, schema, .. } in program_schemas::<T>().iter() {
        let key = metadata_key(T::SCHEMA.name, *version);
        let is_wanted = (oldest..=newest).contains(version) && !schema.is_open();
        if !is_wanted || !replace && found.metadata.contains_key(&key) {
            continue;
        }
        let text = schema.to_json();
        if text.len() <= MAX_SCHEMA && used + key.len() + text.len() <= MAX_METADATA {
            used += key.len() + text.len();
            update.metadata.insert(key, text);
        }
    }
}
