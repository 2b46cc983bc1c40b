//! The fields of a record that its type does not know.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::ser::{self, Serialize, SerializeMap, Serializer};

use crate::codec::INEXACT_NUMBER;

/// The fields of a record that no other field of the struct consumes. A write stores them again, in the same order and
/// with the same values.
///
/// A program can therefore change a record of a newer schema version without loss:
///
/// ```
/// use kvtyped::prelude::*;
/// use kvtyped::UnknownFields;
/// use kvtyped::codec::{Codec, Json};
///
/// #[derive(Serialize, Deserialize)]
/// struct User {
///     id: u64,
///     name: String,
///     #[serde(flatten)]
///     rest: UnknownFields,
/// }
///
/// let mut user: User = Json::decode(br#"{"id":7,"email":"ada@acme.test","name":"Ada"}"#)?;
/// assert_eq!(user.rest.names().collect::<Vec<_>>(), ["email"]);
///
/// user.name = "Ada Lovelace".into();
/// assert_eq!(Json::encode(&user)?, br#"{"id":7,"name":"Ada Lovelace","email":"ada@acme.test"}"#);
/// # Ok::<(), kvtyped::codec::CodecError>(())
/// ```
///
/// To decode newer records of a model in this way, set `#[kv(newer = "keep")]` on the model. A struct inside the record
/// keeps its unknown fields only if it has a field of this type too.
///
/// The codec needs named fields, such as [`Json`](crate::codec::Json) and [`MsgPack`](crate::codec::MsgPack). The field
/// is the last one with `#[serde(flatten)]`, because a flattened field after it would find the same fields again.
///
/// The values are kept exactly, with two limits of JSON:
///
/// * JSON has one type of numbers. An integer beyond 64 bits is read as a float, which may be another number. The codec
///   refuses to write back a float from 2⁶⁴, or to -2⁶³.
/// * A number with a fraction is a 64-bit float. More digits than it has are lost.
///
/// Two values are equal if they have equal fields in the same order. Floats are compared by their bits.
/// `Debug` shows the number of fields and no content.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct UnknownFields(Vec<(Content, Content)>);

impl UnknownFields {
    /// Whether the record has no unknown fields.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of unknown fields.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the names of the unknown fields, in the order of the record. Names belong to the schema, so they may
    /// appear in logs. A name that is not a string is left out; [`MsgPack`](crate::codec::MsgPack) allows such names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|(name, _)| match name {
            Content::Text(name) => Some(&**name),
            _ => None,
        })
    }
}

impl fmt::Debug for UnknownFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnknownFields").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Serialize for UnknownFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        entries(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for UnknownFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = UnknownFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("named fields")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<UnknownFields, A::Error> {
                read_entries(map).map(UnknownFields)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// A value of any type. Values that a codec reads alike have one form here: a positive integer is always `Unsigned`,
/// and an absent option is `Unit`.
#[derive(Clone, PartialEq, Eq)]
enum Content {
    Unit,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    /// An integer above 64 bits.
    Unsigned128(u128),
    /// An integer below 64 bits.
    Signed128(i128),
    /// The bits of a float.
    F32(u32),
    /// The bits of a float.
    F64(u64),
    Text(String),
    Bytes(Vec<u8>),
    Seq(Vec<Content>),
    Map(Vec<(Content, Content)>),
    /// An extension type of MessagePack, such as a timestamp.
    Extension(i8, Vec<u8>),
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unit => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Unsigned(value) => serializer.serialize_u64(*value),
            Self::Signed(value) => serializer.serialize_i64(*value),
            Self::Unsigned128(value) => serializer.serialize_u128(*value),
            Self::Signed128(value) => serializer.serialize_i128(*value),
            Self::F32(bits) => serializer.serialize_f32(f32::from_bits(*bits)),
            Self::F64(bits) => {
                let value = f64::from_bits(*bits);
                if serializer.is_human_readable() && may_be_an_integer(value) {
                    return Err(ser::Error::custom(INEXACT_NUMBER));
                }
                serializer.serialize_f64(value)
            }
            Self::Text(text) => serializer.serialize_str(text),
            Self::Bytes(bytes) => serializer.serialize_bytes(bytes),
            Self::Seq(items) => serializer.collect_seq(items),
            Self::Map(map) => entries(map, serializer),
            Self::Extension(tag, bytes) => {
                serializer.serialize_newtype_struct(rmp_serde::MSGPACK_EXT_STRUCT_NAME, &(tag, AsBytes(bytes)))
            }
        }
    }
}

/// Whether a text format may have read the float from an integer beyond 64 bits.
fn may_be_an_integer(value: f64) -> bool {
    const ABOVE: f64 = 18_446_744_073_709_551_616.0;
    const BELOW: f64 = -9_223_372_036_854_775_808.0;
    value >= ABOVE || value <= BELOW
}

struct AsBytes<'a>(&'a [u8]);

impl Serialize for AsBytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

fn entries<S: Serializer>(entries: &[(Content, Content)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(entries.len()))?;
    for (key, value) in entries {
        map.serialize_entry(key, value)?;
    }
    map.end()
}

/// Reads all entries, with repeated ones. The claimed length is not trusted.
fn read_entries<'de, A: MapAccess<'de>>(mut map: A) -> Result<Vec<(Content, Content)>, A::Error> {
    let mut entries = Vec::new();
    while let Some(entry) = map.next_entry()? {
        entries.push(entry);
    }
    Ok(entries)
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyContent)
    }
}

struct AnyContent;

impl<'de> Visitor<'de> for AnyContent {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Content, E> {
        Ok(Content::Unit)
    }

    fn visit_none<E: Error>(self) -> Result<Content, E> {
        Ok(Content::Unit)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Unsigned(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Content, E> {
        Ok(u64::try_from(value).map_or(Content::Signed(value), Content::Unsigned))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Content, E> {
        Ok(u64::try_from(value).map_or(Content::Unsigned128(value), Content::Unsigned))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Content, E> {
        match (u128::try_from(value), i64::try_from(value)) {
            (Ok(value), _) => self.visit_u128(value),
            (_, Ok(value)) => self.visit_i64(value),
            _ => Ok(Content::Signed128(value)),
        }
    }

    fn visit_f32<E: Error>(self, value: f32) -> Result<Content, E> {
        Ok(Content::F32(value.to_bits()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Content, E> {
        Ok(Content::F64(value.to_bits()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Text(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Content, E> {
        Ok(Content::Text(value))
    }

    fn visit_bytes<E: Error>(self, value: &[u8]) -> Result<Content, E> {
        Ok(Content::Bytes(value.to_vec()))
    }

    fn visit_byte_buf<E: Error>(self, value: Vec<u8>) -> Result<Content, E> {
        Ok(Content::Bytes(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Content::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Content, A::Error> {
        read_entries(map).map(Content::Map)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        let content = Content::deserialize(deserializer)?;
        Ok(match content {
            Content::Seq(items) => extension(items),
            other => other,
        })
    }
}

/// Returns an extension type of MessagePack, which is read as its tag and its bytes.
fn extension(mut items: Vec<Content>) -> Content {
    let tag = match items.as_slice() {
        [Content::Unsigned(tag), Content::Bytes(_)] => i8::try_from(*tag).ok(),
        [Content::Signed(tag), Content::Bytes(_)] => i8::try_from(*tag).ok(),
        _ => None,
    };
    match (tag, items.pop()) {
        (Some(tag), Some(Content::Bytes(bytes))) => Content::Extension(tag, bytes),
        (_, last) => {
            items.extend(last);
            Content::Seq(items)
        }
    }
}
