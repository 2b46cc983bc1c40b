//! Structs: fields, aliases, required fields, unknown fields.
//!
//! The first runs offer all fields whose values are not explored yet. The next ones offer all fields, until no "duplicate
//! field" error reports another alias. Afterwards a run offers the required fields only. Each "missing field" error adds
//! a field to them, until the type accepts the value. All other fields are optional.

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
    Some(StructNode {
        listed,
        fields,
        denies_unknown: None,
        are_aliases_known: false,
        is_presence_known: false,
        needs_all: false,
    })
}

pub(super) fn visit<'de, V: Visitor<'de>>(slot: Slot<'_>, visitor: V) -> Result<V::Value, Error> {
    let offer = slot.probe.with(|state| select(state, slot));
    let (names, purpose) = (offer.names(), offer.purpose);
    let mut last = None;
    let result = visitor.visit_map(Fields { parent: slot, offer, last: &mut last });
    slot.probe.with(|state| {
        let Some(it) = state.as_struct(slot.node) else { return };
        let is_new = match &result {
            Ok(_) => accept(it, names.len(), purpose),
            Err(error) => learn(it, &names, last, purpose, error),
        };
        state.progress += u64::from(is_new);
    });
    result.map_err(|error| Error { is_settled: true, ..error })
}

/// The fields of one run.
struct Offer {
    fields: std::vec::IntoIter<(&'static str, NodeId)>,
    purpose: Purpose,
}

/// The aim of a run, as far as a struct is concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To explore the values of fields.
    Values,
    /// To find aliases.
    Aliases,
    /// To find whether unknown fields are denied, and which fields are required. An unknown field precedes the others.
    Unknown,
    /// To find required fields, or only to create a value.
    Presence,
}

impl Offer {
    fn names(&self) -> Vec<&'static str> {
        self.fields.as_slice().iter().map(|(name, _)| *name).collect()
    }
}

fn select(state: &mut State, slot: Slot<'_>) -> Offer {
    let offer = |fields: Vec<_>, purpose| Offer { fields: fields.into_iter(), purpose };
    let Some(it) = state.as_struct(slot.node) else { return offer(Vec::new(), Purpose::Presence) };
    let (needs_all, known_aliases, known_unknown) = (it.needs_all, it.are_aliases_known, it.denies_unknown.is_some());
    let mut own: Vec<_> =
        it.own_fields().map(|field| (!field.is_first, field.name, field.node, field.is_required)).collect();
    own.sort_by_key(|(is_later, ..)| *is_later);
    if slot.is_exploring {
        let wanted = own.iter().filter(|(_, _, node, _)| state.wants(*node));
        let wanted: Vec<_> = wanted.map(|(_, name, node, _)| (*name, *node)).collect();
        if !wanted.is_empty() {
            return offer(wanted, Purpose::Values);
        }
        if !known_aliases {
            // A value that the type never accepts would hide the aliases after it.
            own.sort_by_key(|(is_later, _, node, _)| (!state.nodes[*node].is_accepted, *is_later));
            return offer(own.into_iter().map(|(_, name, node, _)| (name, node)).collect(), Purpose::Aliases);
        }
    }
    let required = own.into_iter().filter(|(.., is_required)| *is_required || needs_all);
    let is_unknown = slot.is_exploring && !known_unknown;
    offer(
        required.map(|(_, name, node, _)| (name, node)).collect(),
        if is_unknown { Purpose::Unknown } else { Purpose::Presence },
    )
}

/// Learns from an accepted value. Returns whether something is new.
fn accept(it: &mut StructNode, offered: usize, purpose: Purpose) -> bool {
    let is_whole = offered == it.own_fields().count();
    match purpose {
        Purpose::Values | Purpose::Aliases => is_whole && !std::mem::replace(&mut it.are_aliases_known, true),
        Purpose::Unknown | Purpose::Presence => {
            let had_unknown = purpose == Purpose::Unknown && it.denies_unknown.replace(false).is_none();
            let had_presence = !it.needs_all && !std::mem::replace(&mut it.is_presence_known, true);
            had_unknown | had_presence
        }
    }
}

/// Learns from an error. Returns whether something is new.
fn learn(
    it: &mut StructNode,
    offered: &[&'static str],
    last: Option<&'static str>,
    purpose: Purpose,
    error: &Error,
) -> bool {
    if purpose == Purpose::Unknown {
        let is_denied = last == Some(UNKNOWN) && !error.is_settled;
        it.denies_unknown = Some(is_denied);
        if is_denied {
            return true;
        }
    }
    let was_new = purpose == Purpose::Unknown;
    was_new
        | match error.cause {
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
            _ if purpose == Purpose::Aliases => !std::mem::replace(&mut it.are_aliases_known, true),
            // The type names no missing field: it may require any of them.
            _ if purpose == Purpose::Presence && !error.is_settled => !std::mem::replace(&mut it.needs_all, true),
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
        let name = match self.offer.purpose == Purpose::Unknown && self.last.is_none() {
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
        let is_exploring = self.offer.purpose == Purpose::Values && self.parent.explores(node);
        self.parent.child(node, is_exploring).read(|slot| seed.deserialize(slot))
    }
}
