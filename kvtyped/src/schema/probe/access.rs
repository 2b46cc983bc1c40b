//! Items of sequences and entries of maps.

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::error::Error;
use super::node::NodeId;
use super::slot::Slot;

/// The items of a sequence or tuple.
#[derive(Debug)]
pub(super) struct Items<'p> {
    pub(super) parent: Slot<'p>,
    pub(super) items: std::vec::IntoIter<NodeId>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let slot = self.parent.child(item, self.parent.explores(item));
        slot.read(|slot| seed.deserialize(slot)).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

/// At most one entry of a map.
#[derive(Debug)]
pub(super) struct Entries<'p> {
    pub(super) parent: Slot<'p>,
    pub(super) next: Option<(NodeId, NodeId)>,
    pub(super) value: Option<NodeId>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some((key, value)) = self.next.take() else { return Ok(None) };
        self.value = Some(value);
        let slot = self.parent.child(key, self.parent.explores(key));
        slot.read(|slot| seed.deserialize(Key { slot, map: self.parent.node })).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let value = self.value.take().ok_or_else(Error::stop)?;
        let slot = self.parent.child(value, self.parent.explores(value));
        slot.read(|slot| seed.deserialize(slot))
    }
}

/// The key of a map. A type that requests an identifier is a struct with flattened fields, or similar.
#[derive(Debug)]
struct Key<'p> {
    slot: Slot<'p>,
    map: NodeId,
}

macro_rules! forward {
    ($($method:ident($($name:ident: $type:ty),*);)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, Error> {
            self.slot.$method($($name,)* visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Key<'_> {
    type Error = Error;

    forward! {
        deserialize_any(); deserialize_bool(); deserialize_char(); deserialize_f32(); deserialize_f64();
        deserialize_i8(); deserialize_i16(); deserialize_i32(); deserialize_i64(); deserialize_i128();
        deserialize_u8(); deserialize_u16(); deserialize_u32(); deserialize_u64(); deserialize_u128();
        deserialize_str(); deserialize_string(); deserialize_bytes(); deserialize_byte_buf();
        deserialize_option(); deserialize_unit(); deserialize_seq(); deserialize_map(); deserialize_ignored_any();
        deserialize_unit_struct(name: &'static str);
        deserialize_tuple(len: usize);
        deserialize_tuple_struct(name: &'static str, len: usize);
        deserialize_struct(name: &'static str, fields: &'static [&'static str]);
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        let slot = Slot { depth: self.slot.depth + 1, ..self.slot };
        if slot.is_too_deep() {
            return Err(Error::stop());
        }
        visitor.visit_newtype_struct(Self { slot, ..self })
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        self.slot.probe.with(|state| state.make_open(self.map));
        Err(Error::stop())
    }

    fn is_human_readable(&self) -> bool {
        self.slot.probe.is_human_readable
    }
}

/// The name of a field or variant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name(pub(super) &'static str);

impl<'de> Deserializer<'de> for Name {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.0)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any option enum
    }
}
