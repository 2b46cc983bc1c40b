//! What a model says about itself: its key, its codec, its bucket's settings.

mod filter;

pub use self::filter::Filter;

use crate::codec::Codec;
use crate::config::BucketConfig;
use crate::key::{KeyCodec, ModelKey};

/// A type whose values are the records of a bucket. `#[derive(KvModel)]` writes it.
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
    note = "add `#[derive(KvModel)]` and say its key: `#[kv(key = \"{{id}}\")]`, or `#[kv(key)]` on a field"
)]
pub trait KvModel: Sized + Send + Sync + 'static {
    /// The type of its keys.
    type Key: ModelKey;

    /// What is stored: the model itself, or the field that is marked `#[kv(value)]`.
    type Value;

    /// How that is written.
    type Codec: Codec<Self::Value>;

    /// How its keys are stored, unless the bucket is opened with another key codec.
    const KEY_CODEC: KeyCodec = KeyCodec::Escaped;

    /// What its bucket is called and how it is set up; what is not said here is left to the bucket that is found.
    fn settings() -> BucketConfig;

    /// The key under which this record is stored.
    fn key(&self) -> Self::Key;

    /// What is stored of it.
    fn stored(&self) -> &Self::Value;

    /// The record of this key and this stored value.
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
}

/// A model whose buckets keep one revision of each key (`history = 1`, the default), so that a single key may have a
/// TTL of its own.
///
/// With more history a server would raise the TTL without a word and, when the value expires, bring the value before it
/// back to life. `#[derive(KvModel)]` writes this for models that qualify.
#[diagnostic::on_unimplemented(
    message = "a single record of `{Self}` cannot have a TTL: that needs `history = 1`",
    label = "this model keeps more than one revision of each key",
    note = "with more history the previous value would come back to life when the newest one expires",
    note = "write `history = 1` in the model's `#[kv(..)]`, or give the bucket a TTL with `#[kv(ttl = \"..\")]`"
)]
pub trait SingleRevision: KvModel {}
