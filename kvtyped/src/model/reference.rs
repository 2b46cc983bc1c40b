//! References to records of a model.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{self, Serialize, Serializer};

use super::KvModel;
use crate::key::{KeyError, KeySegment, ModelKey, SegmentError, SegmentWriter};

/// A reference to a record of another model: its key, with the model as a type.
///
/// It is stored as the text of the key. A field with a reference can be [indexed](crate::finding_records) and can be a
/// field of a key. A reference may dangle: deleting a record does not change the references to it.
/// [`Transaction::exists`](crate::txn::Transaction::exists) checks a reference in the write that stores it, and
/// [`resolve`](crate::ReadBucket::resolve) reads many referenced records at once.
///
/// ```
/// use kvtyped::model::Ref;
/// use kvtyped::prelude::*;
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
/// #[kv(bucket = "teams", key = "{name}")]
/// struct Team { name: String }
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
/// #[kv(bucket = "users", key = "{id}")]
/// struct User { id: u64, #[kv(index)] team: Option<Ref<Team>> }
///
/// let core = Team { name: "core".into() };
/// let ada = User { id: 1, team: Some(Ref::to(&core)) };
/// assert_eq!(ada.team.as_ref().map(Ref::key), Some(&TeamKey::new("core")));
/// assert!(User::by_team(TeamKey::new("core")).matches(&ada));
/// ```
pub struct Ref<T: KvModel> {
    key: T::Key,
}

impl<T: KvModel> Ref<T> {
    /// Creates a reference to the record of a key.
    pub fn new(key: T::Key) -> Self {
        Self { key }
    }

    /// Creates a reference to a record.
    pub fn to(record: &T) -> Self {
        Self::new(record.key())
    }

    /// Returns the key of the record.
    pub fn key(&self) -> &T::Key {
        &self.key
    }

    /// Converts the reference into the key of the record.
    pub fn into_key(self) -> T::Key {
        self.key
    }
}

impl<T: KvModel> Clone for Ref<T> {
    fn clone(&self) -> Self {
        Self::new(self.key.clone())
    }
}

/// Hides a [sensitive](KvModel::SENSITIVE_KEY) key.
impl<T: KvModel> fmt::Debug for Ref<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if T::SENSITIVE_KEY { f.write_str("Ref(..)") } else { write!(f, "Ref({})", self.key) }
    }
}

impl<T: KvModel> PartialEq for Ref<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<T: KvModel> Eq for Ref<T> {}

impl<T: KvModel> PartialOrd for Ref<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: KvModel> Ord for Ref<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}

impl<T: KvModel> Hash for Ref<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

/// The text of the key. A dot between its segments is escaped.
impl<T: KvModel> KeySegment for Ref<T> {
    fn write_segment(&self, out: &mut SegmentWriter<'_>) -> fmt::Result {
        fmt::Write::write_fmt(out, format_args!("{}", self.key))
    }

    fn parse_segment(text: &str) -> Result<Self, SegmentError> {
        text.parse().map_err(|_| SegmentError::Value { expected: "a key of the referenced model" })
    }
}

/// Parses the text of a key.
impl<T: KvModel> FromStr for Ref<T> {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        T::Key::decode(text).map(Self::new)
    }
}

impl<T: KvModel> Serialize for Ref<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A key that is too long for a record has no record.
        let key = self.key.encode().map_err(ser::Error::custom)?;
        serializer.serialize_str(key.as_str())
    }
}

impl<'de, T: KvModel> Deserialize<'de> for Ref<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor<T>(std::marker::PhantomData<fn() -> T>);

        impl<T: KvModel> Visitor<'_> for KeyVisitor<T> {
            type Value = Ref<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a key of the form `{}`", T::Key::TEMPLATE)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Ref<T>, E> {
                // The text is content of the record, so the message does not contain it.
                text.parse()
                    .map_err(|_| E::custom(format_args!("a text is not a key of the form `{}`", T::Key::TEMPLATE)))
            }
        }

        deserializer.deserialize_str(KeyVisitor(std::marker::PhantomData))
    }
}
