//! Schema versions: the stored shapes of the records of a model, and the upgrades between them.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use super::version_field::{VersionField, VersionOf};
use crate::codec::{Codec, CodecError, read_back};
use crate::schema::Schema;

/// A version of the stored shape of a model. `#[derive(KvVersion)]` implements it for an older version, and
/// `#[derive(KvModel)]` for the newest one.
///
/// ```
/// use kvtyped::prelude::*;
/// use kvtyped::KvVersion;
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
/// #[kv(bucket = "users", key = "{id}", version = 2, upgrade_from = UserV1)]
/// struct User { id: u64, first: String, last: String }
///
/// #[derive(Serialize, Deserialize, KvVersion)]
/// #[kv(version = 1)]
/// struct UserV1 { id: u64, name: String }
///
/// impl From<UserV1> for User {
///     fn from(old: UserV1) -> Self {
///         let (first, last) = old.name.split_once(' ').unwrap_or((&old.name, ""));
///         Self { id: old.id, first: first.into(), last: last.into() }
///     }
/// }
///
/// let user = <User as KvVersion>::decode(1, br#"{"id":7,"name":"Ada Lovelace"}"#).unwrap();
/// assert_eq!(user, User { id: 7, first: "Ada".into(), last: "Lovelace".into() });
/// ```
///
/// An upgrade is a pure function of the record: no clock, no I/O, and the same result in every process. Otherwise two
/// reads of one record differ. To change records with other data, write them with
/// [`modify`](crate::Bucket::modify).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a version of a model",
    label = "not a `KvVersion`",
    note = "add `#[derive(KvVersion)]` and `#[kv(version = 1)]` to `{Self}`"
)]
pub trait KvVersion: Sized {
    /// The codec of this version.
    type Codec: Codec<Self>;

    /// The number of this version, from 1.
    const VERSION: u32;

    /// The oldest version that can be upgraded to this one.
    const OLDEST: u32;

    /// The oldest version that this one can be written as.
    const WRITES: u32 = Self::VERSION;

    /// Whether the derive chose the codec, because the version does not name one.
    #[doc(hidden)]
    const __DEFAULT_CODEC: bool = false;

    /// Decodes a record of a version from [`OLDEST`](Self::OLDEST) to [`VERSION`](Self::VERSION), and upgrades it.
    ///
    /// # Errors
    ///
    /// Returns [`DecodeError`] if the version is outside of that range, if the bytes are not a record of that version,
    /// or if an upgrade fails.
    fn decode(version: u32, bytes: &[u8]) -> Result<Self, DecodeError>;

    /// Returns the schema of each version from [`OLDEST`](Self::OLDEST) to [`VERSION`](Self::VERSION).
    #[doc(hidden)]
    fn __schemas() -> Vec<VersionSchema>;

    /// Encodes the record as a version from [`WRITES`](Self::WRITES) to [`VERSION`](Self::VERSION).
    ///
    /// # Errors
    ///
    /// Returns [`CodecError`] if the version is outside of that range, or if the codec cannot express the value.
    fn encode(&self, version: u32) -> Result<Vec<u8>, CodecError> {
        encode_first::<Self::Codec, Self>(Self::VERSION, self, version)
    }
}

/// The conversion of a record of the previous version `P` to this version. Implemented for every type with
/// `From<P>` or `TryFrom<P>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be made of `{P}`",
    label = "no upgrade from `{P}`",
    note = "write `impl From<{P}> for {Self}`, or `impl TryFrom<{P}> for {Self}` if some records cannot be upgraded"
)]
pub trait UpgradeFrom<P>: Sized {
    /// Upgrades a record.
    ///
    /// # Errors
    ///
    /// Returns the error of the conversion.
    fn upgrade(previous: P) -> Result<Self, UpgradeError>;
}

#[diagnostic::do_not_recommend]
impl<P, T> UpgradeFrom<P> for T
where
    T: TryFrom<P>,
    T::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    fn upgrade(previous: P) -> Result<Self, UpgradeError> {
        T::try_from(previous).map_err(UpgradeError::new)
    }
}

/// The conversion of a record back to the previous version `P`. Implemented for every type with `Into<P>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be written as `{P}`",
    label = "no conversion back to `{P}`",
    note = "write `impl From<{Self}> for {P}`, or remove `writes`"
)]
pub trait DowngradeTo<P> {
    /// Converts the record.
    fn downgrade(self) -> P;
}

#[diagnostic::do_not_recommend]
impl<V: Into<P>, P> DowngradeTo<P> for V {
    fn downgrade(self) -> P {
        self.into()
    }
}

/// The error of a failed upgrade. The error of the conversion is its `source()`, and its text contains nothing of it.
#[derive(Debug, Clone)]
pub struct UpgradeError(Arc<dyn StdError + Send + Sync>);

impl UpgradeError {
    /// Creates the error from the error of the conversion.
    pub fn new(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(cause.into().into())
    }
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the record cannot be upgraded")
    }
}

impl StdError for UpgradeError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

/// The reason why a stored record is not a record of a model.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are not a record of the stored version.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The record has a newer version than this program.
    #[error("the record has schema version {found}, and this program knows {knows}")]
    Newer {
        /// The version of the record.
        found: u32,
        /// The newest version of the program.
        knows: u32,
    },
    /// The record has an older version than the program can upgrade.
    #[error("the record has schema version {found}, and this program reads {oldest} and later")]
    TooOld {
        /// The version of the record.
        found: u32,
        /// The oldest version that the program reads.
        oldest: u32,
    },
    /// The conversion to the next version failed.
    #[error("a record of schema version {from} cannot be upgraded to version {to}")]
    Upgrade {
        /// The version before the conversion.
        from: u32,
        /// The version after it.
        to: u32,
        /// The error of the conversion.
        source: UpgradeError,
    },
}

/// The schema of one version of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionSchema {
    /// The version.
    pub version: u32,
    /// The name of its codec.
    pub codec: &'static str,
    /// The shape of its records.
    pub schema: Schema,
}

impl VersionSchema {
    /// Asks the codec for the schema of the type `V`.
    pub(super) fn new<C: Codec<V>, V>(version: u32) -> Self {
        Self { version, codec: C::NAME, schema: C::schema() }
    }
}

/// Reads the version from the bytes of a record.
pub(crate) type ReadVersionField = fn(&[u8]) -> Result<Option<u32>, CodecError>;

/// The versions of a model: how to decode and encode each, and the rules for records without a version and for newer
/// records. `#[derive(KvModel)]` creates it from the attributes.
///
/// `V` is the stored type, [`KvModel::Value`](super::KvModel::Value).
pub struct ModelSchema<V> {
    pub(crate) name: &'static str,
    pub(crate) version: u32,
    pub(crate) oldest: u32,
    /// The oldest version that the program can write. Written until the bucket is switched to a newer one.
    pub(crate) writes: u32,
    pub(crate) unversioned: u32,
    pub(crate) keeps_newer: bool,
    pub(crate) codec: &'static str,
    pub(crate) decode: fn(u32, &[u8]) -> Result<V, DecodeError>,
    pub(crate) encode: fn(&V, u32) -> Result<Vec<u8>, CodecError>,
    /// Returns the schema of each version from `oldest` to `version`. It probes the types, which takes some time.
    pub(crate) schemas: fn() -> Vec<VersionSchema>,
    /// Reads the version from the record, if the version is a field.
    pub(crate) version_field: Option<ReadVersionField>,
}

impl<V> ModelSchema<V> {
    /// Creates the schema of a model whose first version is `VERSION`. A model with an empty name has no card in the
    /// metadata of its bucket.
    pub const fn first<C: Codec<V>, const VERSION: u32>(name: &'static str) -> Self {
        Self {
            name,
            version: VERSION,
            oldest: VERSION,
            writes: VERSION,
            unversioned: 1,
            keeps_newer: false,
            codec: C::NAME,
            decode: |version, bytes| first::<C, V>(VERSION, version, bytes),
            encode: |value, version| encode_first::<C, V>(VERSION, value, version),
            schemas: || vec![VersionSchema::new::<C, V>(VERSION)],
            version_field: None,
        }
    }

    /// Sets the version of a record without one. Default: 1.
    #[must_use]
    pub const fn unversioned(mut self, version: u32) -> Self {
        self.unversioned = version;
        self
    }

    /// Decodes newer records by the shape of this version, and writes them back under the version that they had. The
    /// model needs a field of the type [`UnknownFields`](crate::UnknownFields), which keeps the fields of the newer
    /// version.
    #[must_use]
    pub const fn keep_newer(mut self) -> Self {
        self.keeps_newer = true;
        self
    }

    /// Stores the version in the field that `F` names, in place of a header.
    #[must_use]
    pub const fn version_field<C: Codec<VersionOf<F>>, F: VersionField>(mut self) -> Self {
        self.version_field = Some(|bytes| C::decode(bytes).map(|found| found.0));
        self
    }
}

impl<V> fmt::Debug for ModelSchema<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelSchema")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("oldest", &self.oldest)
            .field("writes", &self.writes)
            .finish_non_exhaustive()
    }
}

/// Decodes a record of the oldest version.
///
/// # Errors
///
/// Returns `Newer` or `TooOld` for another version, and the error of the codec.
pub(super) fn first<C: Codec<V>, V>(own: u32, version: u32, bytes: &[u8]) -> Result<V, DecodeError> {
    match version {
        0 => Err(invalid_version(C::NAME)),
        _ if version > own => Err(DecodeError::Newer { found: version, knows: own }),
        _ if version < own => Err(DecodeError::TooOld { found: version, oldest: own }),
        _ => Ok(C::decode(bytes)?),
    }
}

/// Decodes a record of the version `own` or of an earlier one, and upgrades it.
///
/// # Errors
///
/// Returns the errors of [`KvVersion::decode`].
pub(super) fn next<C: Codec<V>, P: KvVersion, V>(
    own: u32,
    version: u32,
    bytes: &[u8],
    upgrade: fn(P) -> Result<V, UpgradeError>,
) -> Result<V, DecodeError> {
    if version >= own {
        return first::<C, V>(own, version, bytes);
    }
    let previous = P::decode(version, bytes)?;
    upgrade(previous).map_err(|source| DecodeError::Upgrade { from: P::VERSION, to: own, source })
}

fn invalid_version(codec: &'static str) -> DecodeError {
    let detail = "the schema version of the record is not a number from 1 to 4294967295";
    CodecError::new(codec, detail).into()
}

/// Encodes a record of the oldest version that can be written.
///
/// # Errors
///
/// Returns an error for another version, and the error of the codec.
pub(super) fn encode_first<C: Codec<V>, V>(own: u32, value: &V, version: u32) -> Result<Vec<u8>, CodecError> {
    if version == own {
        return C::encode(value);
    }
    let detail = format!("version {own} cannot be written as version {version}; add `writes = {version}`");
    Err(CodecError::new(C::NAME, detail))
}

/// Encodes a record as the version `own`, or as an earlier one after `downgrade`. The encoding of an earlier version is
/// read back and compared, because the caller cannot compare it with the record.
///
/// # Errors
///
/// Returns the errors of [`KvVersion::encode`].
pub(super) fn encode_next<C: Codec<V>, P: KvVersion, V>(
    own: u32,
    value: &V,
    version: u32,
    downgrade: fn(&V) -> P,
) -> Result<Vec<u8>, CodecError> {
    if version >= own {
        return encode_first::<C, V>(own, value, version);
    }
    let previous = downgrade(value);
    let bytes = previous.encode(version)?;
    if version == P::VERSION {
        let read = read_back::<P::Codec, P>(&bytes)?;
        P::Codec::verify(&previous, &read)?;
    }
    Ok(bytes)
}
