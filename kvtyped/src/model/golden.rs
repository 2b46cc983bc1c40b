//! Golden tests: a program's own test that its stored records stay readable.

use std::error::Error;
use std::path::Path;

use super::{DecodeError, KvModel};
use crate::schema::golden::{Golden, GoldenVersion};

/// Checks in a test that the program reads the records of all schema versions in its source as they were stored.
///
/// The directory has a file with the schema of each version. With the environment variable `KVTYPED_GOLDEN=write`, the
/// test adds missing files, and it never changes one. Keep the files in the repository: they show which shapes are
/// stored.
///
/// ```
/// # use kvtyped::prelude::*;
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
/// #[kv(bucket = "users", key = "{id}", version = 3)]
/// struct User { id: u64, first: String, last: String }
///
/// # let directory = std::env::temp_dir().join(format!("golden-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory).unwrap();
/// # let schema = kvtyped::schema::Schema::probe::<User>();
/// # std::fs::write(directory.join("user.3.schema.json"), format!("{}\n", schema.to_json())).unwrap();
/// // in a `#[test]`: kvtyped::golden::<User>("tests/golden");
/// kvtyped::golden::<User>(&directory);
/// # std::fs::remove_dir_all(directory).unwrap();
/// ```
///
/// [`golden_with`] also checks examples of records.
///
/// # Panics
///
/// Panics with a list of all problems: the schema of a version differs from its file, an example cannot be read, a file
/// is missing, or a file belongs to a newer version than the source. The message shows the differences and the remedy.
#[track_caller]
pub fn golden<T: KvModel>(directory: impl AsRef<Path>) {
    golden_with::<T>(directory, &[]);
}

/// Works like [`golden`](golden()), with examples of records of the newest version.
///
/// Each example has a file with its stored bytes. The examples of older versions must stay readable. A record with a
/// `HashMap` has no stable bytes, so do not use it as an example.
///
/// # Panics
///
/// Panics like `golden`. Also panics if the encoding of an example differs from its file, or an example cannot be
/// encoded.
#[track_caller]
#[allow(clippy::panic, reason = "it is an assertion of a test")]
pub fn golden_with<T: KvModel>(directory: impl AsRef<Path>, examples: &[T]) {
    let schema = T::SCHEMA;
    let schemas = (schema.schemas)();
    let version = |version: &super::VersionSchema| GoldenVersion {
        version: version.version,
        codec: version.codec,
        schema: version.schema.clone(),
    };
    let golden = Golden { model: schema.name, versions: schemas.iter().map(version).collect(), decode: read::<T> };
    let encode = |example: &T| match (schema.encode)(example.stored(), schema.version) {
        Ok(bytes) => bytes,
        Err(error) => panic!("an example of model `{}` cannot be encoded: {error}", schema.name),
    };
    golden.check(directory, &examples.iter().map(encode).collect::<Vec<_>>());
}

fn read<T: KvModel>(version: u32, bytes: &[u8]) -> Result<(), String> {
    (T::SCHEMA.decode)(version, bytes).map(drop).map_err(|error| match &error {
        DecodeError::Upgrade { source, .. } => {
            let cause = source.source().map(ToString::to_string).unwrap_or_default();
            format!("{error}: {cause}")
        }
        _ => error.to_string(),
    })
}
