//! Structs: fields, aliases, required fields, unknown fields.
//!
//! The first runs offer all fields whose values are not explored yet. Afterwards a run offers the required fields only.
//! Each "missing field" error adds a field to them, until the type accepts the value. All other fields are optional.

use std::any::type_name;

use serde::de::{DeserializeSeed, MapAccess, Visitor};

use super::access::Name;
use super::error::{Cause, Error};
use super::node::{FieldNode, NodeId, StructNode};
use super::open::Answer;
use super::slot::Slot;
use super::state::State;

/// A field that no type has.
pub(super) const UNKNOWN: &str = "\u{1}kvtyped: unknown";

pub(super) fn create(state: &mut State, listed: &'static [&'static str]) -> Option<StructNode> {
    let field = |name: &&'static str| {
        Some(FieldNode { name, node: state.create()?, is_required: false, alias_of: None, is_first: false })
    };
    let fields = listed.iter().map(field).collect::<Option<_>>()?;
    Some(StructNode { listed, fields, denies_unknown: None, is_presence_known: false, needs_all: false })
}

pub(super) fn visit<'de, V: Visitor<'de>>(slot: Slot<'_>, visitor: V) -> Result<V::Value, Error> {
    let offer = slot.probe.with(|state| select(state, slot));
    let (names, explores, unknown) = (offer.names(), offer.explores, offer.unknown);
    let mut last = None;
    let result = visitor.visit_map(Fields { parent: slot, offer, last: &mut last });
    let error = match result {
        Ok(value) => {
            slot.probe.with(|state| accept(state, slot.node, explores, unknown));
            return Ok(value);
        }
        Err(error) => error,
    };
    slot.probe.with(|state| {
        let Some(it) = state.as_struct(slot.node) else { return };
        if unknown && last == Some(UNKNOWN) && !error.is_settled && !matches!(error.cause, Cause::MissingField(_)) {
            it.denies_unknown = Some(true);
            state.progress += 1;
            return;
        }
        let had_unknown = unknown && it.denies_unknown.replace(false).is_none();
        if learn(it, &names, last, explores, &error) || had_unknown {
            state.progress += 1;
        }
    });
    Err(Error { is_settled: true, ..error })
}

/// The fields of one run.
struct Offer {
    fields: std::vec::IntoIter<(&'static str, NodeId)>,
    explores: bool,
    /// Whether an unknown field precedes them.
    unknown: bool,
}

impl Offer {
    fn names(&self) -> Vec<&'static str> {
        self.fields.as_slice().iter().map(|(name, _)| *name).collect()
    }
}

fn select(state: &mut State, slot: Slot<'_>) -> Offer {
    let Some(it) = state.as_struct(slot.node) else {
        return Offer { fields: Vec::new().into_iter(), explores: false, unknown: false };
    };
    let needs_all = it.needs_all;
    let unknown = slot.is_exploring && it.denies_unknown.is_none();
    let mut own: Vec<_> =
        it.own_fields().map(|field| (!field.is_first, field.name, field.node, field.is_required)).collect();
    own.sort_by_key(|(is_later, ..)| *is_later);
    let wanted: Vec<_> = own
        .iter()
        .filter(|(_, _, node, _)| slot.is_exploring && state.wants(*node))
        .map(|(_, name, node, _)| (*name, *node))
        .collect();
    if !wanted.is_empty() {
        return Offer { fields: wanted.into_iter(), explores: true, unknown: false };
    }
    let required = own.into_iter().filter(|(.., is_required)| *is_required || needs_all);
    let fields: Vec<_> = required.map(|(_, name, node, _)| (name, node)).collect();
    Offer { fields: fields.into_iter(), explores: false, unknown }
}

fn accept(state: &mut State, node: NodeId, explores: bool, unknown: bool) {
    let Some(it) = state.as_struct(node) else { return };
    let mut is_new = unknown && it.denies_unknown.replace(false).is_none();
    if !explores && !it.needs_all {
        is_new |= !std::mem::replace(&mut it.is_presence_known, true);
    }
    if is_new {
        state.progress += 1;
    }
}

/// Learns from an error after the offered fields. Returns whether it is new.
fn learn(it: &mut StructNode, offered: &[&str], last: Option<&str>, explores: bool, error: &Error) -> bool {
    match error.cause {
        Cause::MissingField(name) if !offered.contains(&name) => {
            let field = it.fields.iter_mut().find(|field| field.name == name);
            field.is_some_and(|field| !std::mem::replace(&mut field.is_required, true))
        }
        Cause::DuplicateField(name) => {
            let second = it.fields.iter_mut().find(|field| Some(field.name) == last);
            match second {
                Some(field) if field.name != name => field.alias_of.replace(name).is_none(),
                Some(field) => !std::mem::replace(&mut field.is_first, true),
                None => false,
            }
        }
        // The type names no missing field: it may require any of them.
        _ if !explores && !error.is_settled => !std::mem::replace(&mut it.needs_all, true),
        _ => false,
    }
}

struct Fields<'p, 'l> {
    parent: Slot<'p>,
    offer: Offer,
    last: &'l mut Option<&'static str>,
}

impl<'de> MapAccess<'de> for Fields<'_, '_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        // An adjacently tagged enum: the shape of the content depends on the tag.
        let key = type_name::<S::Value>();
        if key.contains("TagOrContent") || key.contains("TagContentOther") {
            self.parent.probe.with(|state| state.make_open(self.parent.node));
            return Err(Error::stop());
        }
        let name = match self.offer.unknown && self.last.is_none() {
            true => Some(UNKNOWN),
            false => self.offer.fields.as_slice().first().map(|(name, _)| *name),
        };
        let Some(name) = name else {
            // Errors from here on are no complaints about the last field.
            *self.last = Some("");
            return Ok(None);
        };
        *self.last = Some(name);
        seed.deserialize(Name(name)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        if *self.last == Some(UNKNOWN) {
            return seed.deserialize(Answer::Unit);
        }
        let (_, node) = self.offer.fields.next().ok_or_else(Error::stop)?;
        let is_exploring = self.offer.explores && self.parent.explores(node);
        self.parent.child(node, is_exploring).read(|slot| seed.deserialize(slot))
    }
}
