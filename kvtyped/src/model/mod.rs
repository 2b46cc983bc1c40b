//! The properties of a model: its key, its codec and the settings of its bucket.

mod card;
mod raw;
mod filter;
mod unknown_fields;
mod version_field;
mod version;
pub(crate) mod upgraded;
mod golden;
mod refusal;
mod reference;
pub mod index;

pub use self::card::ModelCard;
pub(crate) use self::card::RESERVED_METADATA;
pub use self::filter::Filter;
pub use self::golden::{golden, golden_with};
pub use self::index::{Indexable, Indexed, Lookup};
pub use self::raw::RawRecord;
pub use self::reference::Ref;
pub use self::refusal::Refusal;
pub use self::unknown_fields::UnknownFields;
pub use self::version::{DecodeError, DowngradeTo, KvVersion, ModelSchema, UpgradeError, UpgradeFrom, VersionSchema};
pub use self::version_field::{VersionField, VersionOf};

use self::index::{IndexInfo, IndexValues};
use crate::codec::Codec;
use crate::config::BucketConfig;
use crate::key::{KeyCodec, ModelKey};

/// A type whose values are the records of a bucket. `#[derive(KvModel)]` implements it.
///
/// ```
/// use kvtyped::prelude::*;
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
/// #[kv(bucket = "sessions", key = "{tenant}.{id}", history = 1, ttl = "30m")]
/// struct Session { tenant: String, id: u64, user: String }
///
/// let session = Session { tenant: "acme".into(), id: 7, user: "ada".into() };
/// assert_eq!(session.key(), SessionKey::new("acme", 7));
/// assert_eq!(session.key().to_string(), "acme.7");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a model",
    label = "not a `KvModel`",
    note = "add `#[derive(KvModel)]` and define the key with `#[kv(key = \"{{id}}\")]`, or with `#[kv(key)]` on a field"
)]
pub trait KvModel: Sized + Send + Sync + 'static {
    /// The type of its keys.
    type Key: ModelKey;

    /// The stored type: the model itself, or the type of the field with `#[kv(value)]`.
    type Value;

    /// The codec of the stored value.
    type Codec: Codec<Self::Value>;

    /// The key codec of the model, unless the bucket is opened with another one.
    const KEY_CODEC: KeyCodec = KeyCodec::Escaped;

    /// Whether the key is a secret. The `Display` and `Debug` output of errors, the events and the spans then show a
    /// hash of it, which is valid for one process.
    const SENSITIVE_KEY: bool = false;

    /// The name of the model and its schema versions. Default: version 1 of a model without a name.
    const SCHEMA: ModelSchema<Self::Value> = ModelSchema::first::<Self::Codec, 1>("");

    /// Whether the record is its stored bytes, of any schema version and encoding.
    #[doc(hidden)]
    const __IS_RAW: bool = false;

    /// The indexes of the model.
    #[doc(hidden)]
    const __INDEXES: &'static [IndexInfo] = &[];

    /// Returns the name and the settings of the bucket. Unset settings of an existing bucket stay as they are.
    fn settings() -> BucketConfig;

    /// Returns the key of this record.
    fn key(&self) -> Self::Key;

    /// Returns the stored value of this record.
    fn stored(&self) -> &Self::Value;

    /// Creates the record from its key and its stored value.
    fn from_stored(key: Self::Key, stored: Self::Value) -> Self;

    /// [`from_stored`](Self::from_stored), without a copy of the key where the record takes nothing from it.
    #[doc(hidden)]
    fn __from_stored(key: &Self::Key, stored: Self::Value) -> Self {
        Self::from_stored(key.clone(), stored)
    }

    /// Whether this is the [`key`](Self::key), without a copy of the key.
    #[doc(hidden)]
    fn __has_key(&self, key: &Self::Key) -> bool {
        self.key() == *key
    }

    /// Checks the record with the function of the attribute `validate`.
    #[doc(hidden)]
    fn __validate(&self) -> Result<(), Refusal> {
        Ok(())
    }

    /// Appends the index values of the record.
    #[doc(hidden)]
    fn __index_values(&self, _: &mut IndexValues) {}
}

/// A model whose buckets keep one revision of each key (`history = 1`, the default), so that a single key may have its
/// own TTL.
///
/// With more history, a server would silently raise the TTL, and the previous value would become visible again when the
/// newest one expires. `#[derive(KvModel)]` implements this trait for models that qualify.
#[diagnostic::on_unimplemented(
    message = "a record of `{Self}` cannot have its own TTL, which requires `history = 1`",
    label = "this model keeps more than one revision of each key",
    note = "with a longer history, the previous value would reappear when the newest value expires",
    note = "set `history = 1` in `#[kv(..)]` of the model, or set a TTL for the whole bucket with `#[kv(ttl = \"..\")]`"
)]
pub trait SingleRevision: KvModel {}
