//! The schema version as a field of the record.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// The stored name of the field with `#[kv(version)]`. The derive implements it.
pub trait VersionField: 'static {
    /// The name of the field in the stored record.
    const NAME: &'static str;
}

/// The version field of a record. Decoding ignores every other field.
pub struct VersionOf<F>(pub(crate) Option<u32>, PhantomData<F>);

impl<F> fmt::Debug for VersionOf<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VersionOf").field(&self.0).finish()
    }
}

impl<F: VersionField> Serialize for VersionOf<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(F::NAME, &self.0)?;
        map.end()
    }
}

impl<'de, F: VersionField> Deserialize<'de> for VersionOf<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<F>(PhantomData<F>);

        impl<'de, F: VersionField> Visitor<'de> for Fields<F> {
            type Value = VersionOf<F>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a record with the version field `{}`", F::NAME)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = None;
                while let Some(name) = map.next_key::<String>()? {
                    if name == F::NAME {
                        found = map.next_value::<Option<u32>>()?;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(VersionOf(found, PhantomData))
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}
