//! The deserializer that answers every request.

use std::any::type_name;

use serde::de::{Deserializer, Visitor};

use super::access::{Entries, Items};
use super::error::Error;
use super::node::{EnumNode, Kind, StructNode};
use super::slot::{Recorded, Slot};
use super::state::{BYTES, NUMBERS, State, TEXTS};
use super::{enums, structs};
use crate::schema::shape::{Int, Shape};

/// The largest length of a tuple. Longer ones are open.
const MAX_TUPLE: usize = 64;

impl Slot<'_> {
    fn leaf<'de, V: Visitor<'de>>(
        self,
        shape: Shape,
        visitor: V,
        visit: impl FnOnce(V, usize) -> Result<V::Value, Error>,
    ) -> Result<V::Value, Error> {
        match self.record(None, |_| Some(Kind::Leaf(shape.clone())))? {
            Recorded::Open => self.open(visitor),
            Recorded::Again(_) => Err(Error::stop()),
            Recorded::Fits => {
                self.check(|kind| matches!(kind, Kind::Leaf(known) if *known == shape))?;
                let attempt = self.probe.with(|state| state.nodes[self.node].attempt);
                visit(visitor, attempt)
            }
        }
    }

    pub(super) fn tuple<'de, V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        let create = |state: &mut State| {
            let items = (0..len).map(|_| state.create());
            if len > MAX_TUPLE { None } else { items.collect::<Option<_>>().map(Kind::Tuple) }
        };
        match self.record(Some(type_name::<V>()), create)? {
            Recorded::Again(target) => target.tuple(len, visitor),
            Recorded::Open => self.open(visitor),
            Recorded::Fits => {
                self.check(|kind| matches!(kind, Kind::Tuple(items) if items.len() == len))?;
                let items = self.probe.with(|state| match state.kind(self.node) {
                    Kind::Tuple(items) => items.clone(),
                    _ => Vec::new(),
                });
                self.enclosed::<V, _>(|| visitor.visit_seq(Items { parent: self, items: items.into_iter() }))
            }
        }
    }

    pub(super) fn fields<'de, V: Visitor<'de>>(
        self,
        listed: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.record(Some(type_name::<V>()), |state| structs::create(state, listed).map(Kind::Struct))? {
            Recorded::Again(target) => target.fields(listed, visitor),
            Recorded::Open => self.open(visitor),
            Recorded::Fits => {
                self.check(|kind| matches!(kind, Kind::Struct(StructNode { listed: known, .. }) if *known == listed))?;
                self.enclosed::<V, _>(|| structs::visit(self, visitor))
            }
        }
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ident $signed:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let bits = u8::try_from($type::BITS).unwrap_or(u8::MAX);
            self.leaf(Shape::Int(Int { signed: $signed, bits }), visitor, |visitor, attempt| {
                let number = NUMBERS.get(attempt).copied().unwrap_or(1);
                visitor.$visit($type::try_from(number).unwrap_or(1))
            })
        }
    )*};
}

impl<'de> Deserializer<'de> for Slot<'_> {
    type Error = Error;

    integers! {
        deserialize_i8 visit_i8 i8 true; deserialize_i16 visit_i16 i16 true; deserialize_i32 visit_i32 i32 true;
        deserialize_i64 visit_i64 i64 true; deserialize_i128 visit_i128 i128 true;
        deserialize_u8 visit_u8 u8 false; deserialize_u16 visit_u16 u16 false; deserialize_u32 visit_u32 u32 false;
        deserialize_u64 visit_u64 u64 false; deserialize_u128 visit_u128 u128 false;
    }

    fn is_human_readable(&self) -> bool {
        self.probe.is_human_readable
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.open(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.open(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.open(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.leaf(Shape::Bool, visitor, |visitor, attempt| visitor.visit_bool(attempt > 0))
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.leaf(Shape::Float(32), visitor, |visitor, attempt| {
            visitor.visit_f32(NUMBERS.get(attempt).copied().unwrap_or(1).into())
        })
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.leaf(Shape::Float(64), visitor, |visitor, attempt| {
            visitor.visit_f64(NUMBERS.get(attempt).copied().unwrap_or(1).into())
        })
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.leaf(Shape::Char, visitor, |visitor, attempt| visitor.visit_char(if attempt > 0 { '1' } else { 'a' }))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.leaf(Shape::Text, visitor, |visitor, attempt| {
            visitor.visit_str(TEXTS.get(attempt).copied().unwrap_or_default())
        })
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.leaf(Shape::Bytes, visitor, |visitor, attempt| {
            visitor.visit_bytes(BYTES.get(attempt).copied().unwrap_or_default())
        })
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.leaf(Shape::Unit, visitor, |visitor, _| visitor.visit_unit())
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        // MessagePack writes an empty array.
        let shape = if self.probe.is_human_readable { Shape::Unit } else { Shape::Tuple(Vec::new()) };
        self.leaf(shape, visitor, |visitor, _| visitor.visit_unit())
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.record(Some(type_name::<V>()), |state| state.create().map(Kind::Option))? {
            Recorded::Again(target) => target.deserialize_option(visitor),
            Recorded::Open => self.open(visitor),
            Recorded::Fits => {
                let inner = self.probe.with(|state| match state.kind(self.node) {
                    Kind::Option(inner) => Some(*inner),
                    _ => None,
                });
                self.check(|_| inner.is_some())?;
                match inner.filter(|inner| self.explores(*inner)) {
                    Some(inner) => {
                        self.enclosed::<V, _>(|| self.child(inner, true).read(|inner| visitor.visit_some(inner)))
                    }
                    None => visitor.visit_none(),
                }
            }
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        if self.is_too_deep() {
            return Err(Error::stop());
        }
        visitor.visit_newtype_struct(Self { depth: self.depth + 1, ..self })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let create = |state: &mut State| Some(Kind::Seq { item: state.create()?, needs_item: false });
        match self.record(Some(type_name::<V>()), create)? {
            Recorded::Again(target) => target.deserialize_seq(visitor),
            Recorded::Open => self.open(visitor),
            Recorded::Fits => {
                let known = self.probe.with(|state| match state.kind(self.node) {
                    Kind::Seq { item, needs_item } => Some((*item, *needs_item)),
                    _ => None,
                });
                self.check(|_| known.is_some())?;
                let item = known.filter(|(item, needs_item)| *needs_item || self.explores(*item)).map(|(item, _)| item);
                let items = Vec::from_iter(item).into_iter();
                self.enclosed::<V, _>(|| visitor.visit_seq(Items { parent: self, items }))
                    .map_err(|error| self.after_items(item.is_none(), error))
            }
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let create =
            |state: &mut State| Some(Kind::Map { key: state.create()?, value: state.create()?, needs_item: false });
        match self.record(Some(type_name::<V>()), create)? {
            Recorded::Again(target) => target.deserialize_map(visitor),
            Recorded::Open => self.open(visitor),
            Recorded::Fits => {
                let known = self.probe.with(|state| match state.kind(self.node) {
                    Kind::Map { key, value, needs_item } => Some((*key, *value, *needs_item)),
                    _ => None,
                });
                self.check(|_| known.is_some())?;
                let entry = known
                    .filter(|(key, value, needs_item)| *needs_item || self.explores(*key) || self.explores(*value))
                    .map(|(key, value, _)| (key, value));
                self.enclosed::<V, _>(|| visitor.visit_map(Entries { parent: self, next: entry, value: None }))
                    .map_err(|error| self.after_items(entry.is_none(), error))
            }
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.tuple(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.tuple(len, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.fields(fields, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.record(Some(type_name::<V>()), |_| Some(Kind::Enum(enums::create(variants))))? {
            Recorded::Again(target) => target.deserialize_enum(name, variants, visitor),
            Recorded::Open => self.open(visitor),
            Recorded::Fits => {
                self.check(|kind| matches!(kind, Kind::Enum(EnumNode { listed, .. }) if *listed == variants))?;
                self.enclosed::<V, _>(|| enums::visit(self, visitor))
            }
        }
    }
}
