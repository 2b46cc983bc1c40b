//! Enums whose variants are named from outside: variants, aliases, `#[serde(other)]`.

use std::any::type_name;
use std::hash::{Hash, Hasher};
use std::mem::discriminant;

use serde::de::{DeserializeSeed, EnumAccess, VariantAccess, Visitor};

use super::access::Name;
use super::error::Error;
use super::node::{Content, EnumNode, Kind, NodeId, VariantNode};
use super::slot::Slot;
use super::state::State;
use super::structs::UNKNOWN;
use crate::schema::json::fnv1a;

pub(super) fn create(listed: &'static [&'static str]) -> EnumNode {
    let variant =
        |name: &&'static str| VariantNode { name, content: Content::New, alias_of: None, tag: None, tried_at: None };
    EnumNode { listed, variants: listed.iter().map(variant).collect(), other: None, accepted: None }
}

pub(super) fn visit<'de, V: Visitor<'de>>(slot: Slot<'_>, visitor: V) -> Result<V::Value, Error> {
    let choice = slot.probe.with(|state| select(state, slot)).ok_or_else(Error::stop)?;
    let value = visitor.visit_enum(Choice { slot, choice }).map_err(|error| Error { is_settled: true, ..error })?;
    slot.probe.with(|state| {
        let at = match choice {
            Selected::Known(at) | Selected::New(at) => at,
            Selected::Unknown => return,
        };
        if state.as_enum(slot.node).is_some_and(|it| it.accepted.replace(at).is_none()) {
            state.progress += 1;
        }
    });
    Ok(value)
}

#[derive(Clone, Copy)]
enum Selected {
    /// A known variant, as a small value.
    Known(usize),
    /// A variant to explore.
    New(usize),
    /// An unknown variant.
    Unknown,
}

/// Selects the variant of a run.
fn select(state: &mut State, slot: Slot<'_>) -> Option<Selected> {
    let now = Some(state.progress);
    let it = state.as_enum(slot.node)?;
    if slot.is_exploring {
        let candidates: Vec<_> = it
            .variants
            .iter()
            .map(|variant| (variant.content, variant.tried_at != now && variant.alias_of.is_none()))
            .collect();
        let is_left = |state: &mut State, content| match content {
            Content::New => true,
            Content::Unit | Content::Refused => false,
            Content::Node(node) => !state.is_done(node),
        };
        let new = candidates.into_iter().position(|(content, is_new)| is_new && is_left(state, content));
        if let Some(at) = new {
            state.tries += 1;
            state.as_enum(slot.node)?.variants.get_mut(at)?.tried_at = now;
            return Some(Selected::New(at));
        }
        if state.as_enum(slot.node)?.other.is_none() {
            return Some(Selected::Unknown);
        }
    }
    state.as_enum(slot.node)?.accepted.map(Selected::Known)
}

struct Choice<'p> {
    slot: Slot<'p>,
    choice: Selected,
}

impl<'de, 'p> EnumAccess<'de> for Choice<'p> {
    type Error = Error;
    type Variant = Variant<'p>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Variant<'p>), Error> {
        let Self { slot, choice } = self;
        let (at, is_new) = match choice {
            Selected::Known(at) => (Some(at), false),
            Selected::New(at) => (Some(at), true),
            Selected::Unknown => (None, true),
        };
        let name = slot.probe.with(|state| match at {
            Some(at) => state.as_enum(slot.node).and_then(|it| it.variants.get(at)).map(|variant| variant.name),
            None => Some(UNKNOWN),
        });
        let result = seed.deserialize(Name(name.ok_or_else(Error::stop)?));
        // Derived types read the name as a `__Field`, with one value for all names of a variant.
        let tag = result.as_ref().ok().filter(|_| type_name::<S::Value>().contains("__Field")).map(tag);
        if is_new {
            slot.probe.with(|state| {
                if let Some(it) = state.as_enum(slot.node) {
                    let is_new = record(it, at, result.is_ok(), tag);
                    state.progress += u64::from(is_new);
                }
            });
        }
        match result {
            Ok(value) => Ok((value, Variant { slot, at, is_new })),
            Err(error) => Err(Error { is_settled: true, ..error }),
        }
    }
}

/// Records how the type reads the name of a variant. Returns whether that is new.
fn record(it: &mut EnumNode, at: Option<usize>, is_read: bool, tag: Option<u64>) -> bool {
    let Some(at) = at else { return it.other.replace(is_read).is_none() };
    let first = it.variants.iter().take(at).position(|variant| tag.is_some() && variant.tag == tag);
    let Some(variant) = it.variants.get_mut(at) else { return false };
    let was_new = variant.tag.is_none() && tag.is_some();
    (variant.tag, variant.alias_of) = (tag, first);
    let is_refused = (first.is_some() || !is_read) && variant.content != Content::Refused;
    if is_refused {
        variant.content = Content::Refused;
    }
    was_new || is_refused
}

/// Returns a hash of the discriminant of a value.
fn tag<T>(value: &T) -> u64 {
    struct Fnv(u64);

    impl Hasher for Fnv {
        fn finish(&self) -> u64 {
            self.0
        }

        fn write(&mut self, bytes: &[u8]) {
            self.0 = self.0.rotate_left(1) ^ fnv1a(bytes);
        }
    }

    let mut hasher = Fnv(0);
    discriminant(value).hash(&mut hasher);
    hasher.finish()
}

struct Variant<'p> {
    slot: Slot<'p>,
    /// `None` is the unknown variant.
    at: Option<usize>,
    is_new: bool,
}

impl<'p> Variant<'p> {
    fn record_unit(&self) {
        let (node, Some(at)) = (self.slot.node, self.at.filter(|_| self.is_new)) else { return };
        self.slot.probe.with(|state| {
            let variant = state.as_enum(node).and_then(|it| it.variants.get_mut(at));
            if let Some(variant) = variant.filter(|variant| variant.content == Content::New) {
                variant.content = Content::Unit;
                state.progress += 1;
            }
        });
    }

    /// Returns the slot of the content.
    fn content(&self) -> Result<Slot<'p>, Error> {
        let at = self.at.ok_or_else(Error::stop)?;
        let node = self.slot.probe.with(|state| content_node(state, self.slot.node, at)).ok_or_else(Error::stop)?;
        Ok(self.slot.child(node, self.is_new && self.slot.explores(node)))
    }
}

fn content_node(state: &mut State, node: NodeId, at: usize) -> Option<NodeId> {
    match state.as_enum(node)?.variants.get(at)?.content {
        Content::Node(content) => Some(content),
        Content::Unit | Content::Refused => None,
        Content::New => {
            let content = state.create();
            if content.is_none() {
                *state.kind(node) = Kind::Open(Default::default());
            }
            state.as_enum(node)?.variants.get_mut(at)?.content = Content::Node(content?);
            state.progress += 1;
            content
        }
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        self.record_unit();
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        self.content()?.read(|slot| seed.deserialize(slot))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.content()?.read(|slot| slot.tuple(len, visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.content()?.read(|slot| slot.fields(fields, visitor))
    }
}
