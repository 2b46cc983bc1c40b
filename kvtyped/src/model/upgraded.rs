//! The functions and traits for generated code of schema versions.
//!
//! Generated code reaches the previous version only through [`Upgraded`] and [`Downgraded`]. A missing conversion is
//! therefore one error, at the implementation of the trait, and not one error for each use.

use super::KvModel;
use super::version::{
    DecodeError, DowngradeTo, KvVersion, ModelSchema, UpgradeError, UpgradeFrom, VersionSchema, encode_next, first,
    next,
};
use crate::codec::{Codec, CodecError};

#[diagnostic::do_not_recommend]
impl<M: KvModel<Value = M>> KvVersion for M {
    type Codec = M::Codec;

    const VERSION: u32 = M::SCHEMA.version;
    const OLDEST: u32 = M::SCHEMA.oldest;
    const WRITES: u32 = M::SCHEMA.writes;

    fn decode(version: u32, bytes: &[u8]) -> Result<Self, DecodeError> {
        (M::SCHEMA.decode)(version, bytes)
    }

    fn encode(&self, version: u32) -> Result<Vec<u8>, CodecError> {
        (M::SCHEMA.encode)(self, version)
    }

    fn __schemas() -> Vec<VersionSchema> {
        (M::SCHEMA.schemas)()
    }
}

/// A model or a version with `upgrade_from`.
pub trait Upgraded {
    /// The previous version.
    type Previous: KvVersion;

    /// The stored type of this version.
    type Value: UpgradeFrom<Self::Previous>;

    /// Upgrades a record of the previous version.
    ///
    /// # Errors
    ///
    /// Returns the error of the conversion.
    fn upgrade(previous: Self::Previous) -> Result<Self::Value, UpgradeError> {
        UpgradeFrom::upgrade(previous)
    }
}

/// A model or a version with `writes`.
pub trait Downgraded: Upgraded {
    /// The stored type of this version.
    type Written: Clone + DowngradeTo<Self::Previous>;

    /// Converts a record to the previous version.
    fn downgrade(value: &Self::Written) -> Self::Previous {
        value.clone().downgrade()
    }
}

/// Decodes a version without `upgrade_from`.
///
/// # Errors
///
/// Returns the errors of [`KvVersion::decode`].
pub fn decode_first<T: KvVersion>(version: u32, bytes: &[u8]) -> Result<T, DecodeError> {
    first::<T::Codec, T>(T::VERSION, version, bytes)
}

/// Decodes a version with `upgrade_from`.
///
/// # Errors
///
/// Returns the errors of [`KvVersion::decode`].
pub fn decode_next<T>(version: u32, bytes: &[u8]) -> Result<T, DecodeError>
where
    T: KvVersion + Upgraded<Value = T>,
{
    const {
        assert!(version_names_codec::<T>(), "`upgrade_from` must name its codec, because this version has another");
    }
    next::<T::Codec, T::Previous, T>(T::VERSION, version, bytes, <T as Upgraded>::upgrade)
}

/// Returns the schema of a version without `upgrade_from`.
pub fn schemas_first<T: KvVersion>() -> Vec<VersionSchema> {
    vec![VersionSchema::new::<T::Codec, T>(T::VERSION)]
}

/// Returns the schemas of a version with `upgrade_from`, and of the versions before.
pub fn schemas_next<T: KvVersion + Upgraded>() -> Vec<VersionSchema> {
    let mut schemas = T::Previous::__schemas();
    schemas.extend(schemas_first::<T>());
    schemas
}

/// Encodes a version with `writes`.
///
/// # Errors
///
/// Returns the errors of [`KvVersion::encode`].
pub fn encode_version<T>(value: &T, version: u32) -> Result<Vec<u8>, CodecError>
where
    T: KvVersion + Downgraded<Written = T>,
{
    const {
        assert!(is_version::<T>(T::WRITES), "`writes` must not be above the version of `upgrade_from`");
        assert!(can_write::<T>(T::WRITES), "`writes` must not be below `writes` of `upgrade_from`");
    }
    encode_next::<T::Codec, T::Previous, T>(T::VERSION, value, version, <T as Downgraded>::downgrade)
}

/// Returns the oldest version that can be upgraded to `T`, whose own version is `version`.
pub const fn oldest<T: Upgraded>(version: u32) -> u32 {
    // Generated code checks this with a better message, unless the type is generic.
    assert!(is_older::<T>(version), "`version` must be above the version of `upgrade_from`");
    T::Previous::OLDEST
}

/// Creates the schema of a model without `upgrade_from`.
pub const fn schema_first<M: KvModel, const VERSION: u32>(name: &'static str) -> ModelSchema<M::Value> {
    ModelSchema::first::<M::Codec, VERSION>(name)
}

/// Creates the schema of a model with `upgrade_from`.
pub const fn schema_next<M, const VERSION: u32>(name: &'static str) -> ModelSchema<<M as KvModel>::Value>
where
    M: KvModel + Upgraded<Value = <M as KvModel>::Value>,
{
    assert!(model_names_codec::<M>(), "`upgrade_from` must name its codec, because the model has another");
    let mut schema = schema_first::<M, VERSION>(name);
    schema.oldest = oldest::<M>(VERSION);
    schema.decode =
        |version, bytes| next::<M::Codec, M::Previous, _>(VERSION, version, bytes, <M as Upgraded>::upgrade);
    schema.schemas = || {
        let mut schemas = M::Previous::__schemas();
        schemas.push(VersionSchema::new::<M::Codec, <M as KvModel>::Value>(VERSION));
        schemas
    };
    schema
}

/// Sets the oldest version that a model with `writes` can write.
pub const fn schema_writes<M, const VERSION: u32>(
    mut schema: ModelSchema<<M as KvModel>::Value>,
    oldest: u32,
) -> ModelSchema<<M as KvModel>::Value>
where
    M: KvModel + Downgraded<Written = <M as KvModel>::Value>,
{
    assert!(is_version::<M>(oldest), "`writes` must not be above the version of `upgrade_from`");
    assert!(can_write::<M>(oldest), "`writes` must not be below `writes` of `upgrade_from`");
    schema.writes = oldest;
    schema.encode =
        |value, version| encode_next::<M::Codec, M::Previous, _>(VERSION, value, version, <M as Downgraded>::downgrade);
    schema
}

/// Whether the previous version is older than `version`.
pub const fn is_older<T: Upgraded>(version: u32) -> bool {
    T::Previous::VERSION < version
}

/// Whether `oldest` is at most the previous version.
pub const fn is_version<T: Upgraded>(oldest: u32) -> bool {
    oldest <= T::Previous::VERSION
}

/// Whether the previous version can write the version `oldest`.
pub const fn can_write<T: Upgraded>(oldest: u32) -> bool {
    T::Previous::WRITES <= oldest
}

/// Whether the previous version names its codec, or has the codec of this model.
pub const fn model_names_codec<M: KvModel + Upgraded>() -> bool {
    names_codec::<M::Previous>(M::Codec::NAME)
}

/// Whether the previous version names its codec, or has the codec of this version.
pub const fn version_names_codec<T: KvVersion + Upgraded>() -> bool {
    names_codec::<T::Previous>(T::Codec::NAME)
}

const fn names_codec<P: KvVersion>(codec: &str) -> bool {
    !P::__DEFAULT_CODEC || same(P::Codec::NAME, codec)
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::same;
    use crate::prelude::*;
    use crate::{KvVersion, UnknownFields};

    #[derive(Serialize, Deserialize, KvModel)]
    #[kv(key = "{id}", name = "note", version = 2, unversioned = 2, newer = "keep", codec = MsgPack)]
    #[serde(rename_all(serialize = "camelCase", deserialize = "camelCase"))]
    struct Note {
        id: u64,
        #[kv(version)]
        schema_version: u32,
        #[serde(flatten)]
        rest: UnknownFields,
    }

    #[derive(Serialize, Deserialize, KvModel)]
    #[kv(key = "{id}")]
    struct Plain {
        id: u64,
        #[kv(version)]
        #[serde(rename = "v")]
        version: u32,
    }

    #[test]
    fn attributes_set_the_schema() {
        let schema = Note::SCHEMA;
        assert_eq!((schema.name, schema.version, schema.oldest, schema.writes), ("note", 2, 2, 2));
        assert_eq!((schema.unversioned, schema.keeps_newer, schema.codec), (2, true, "msgpack"));
        let schema = Plain::SCHEMA;
        assert_eq!((schema.name, schema.version, schema.unversioned), ("plain", 1, 1));
        assert_eq!((schema.keeps_newer, schema.codec), (false, "json"));
    }

    #[test]
    fn version_field_has_its_stored_name() {
        let note = Note { id: 1, schema_version: 7, rest: UnknownFields::default() };
        let read = Note::SCHEMA.version_field.unwrap();
        assert_eq!(read(&note.encode(2).unwrap()), Ok(Some(7)));
        let read = Plain::SCHEMA.version_field.unwrap();
        assert_eq!(read(br#"{"id":1,"v":7}"#), Ok(Some(7)));
        assert_eq!(read(br#"{"id":1}"#), Ok(None));
        assert!(read(br#"{"id":1,"v":-7}"#).is_err());
    }

    #[test]
    fn codec_names_are_compared_by_their_text() {
        assert!(same("json", "json") && !same("json", "jso") && !same("json", "jsom"));
        const { assert!(!<Note as KvVersion>::__DEFAULT_CODEC) };
    }
}
