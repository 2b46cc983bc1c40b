//! Discovers the shape of a type by its `Deserialize`.
//!
//! A deserializer answers every request of the type with an invented value, and records the requests in a tree of nodes.
//! One run cannot show everything: an enum requests the content of one variant, and an error ends the run. Each run
//! therefore explores some unknown part of the tree, and gives small known values for the rest. Runs repeat until none of
//! them finds anything new. The numbers of requests and of nodes are limited, and parts beyond the limit are open.

mod error;
mod open;
mod node;
mod state;
mod slot;
mod access;
mod structs;
mod enums;
mod answer;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::DeserializeOwned;

use self::node::{Content, EnumNode, Kind, Node, NodeId, StructNode};
use self::slot::Slot;
use self::state::Probe;
use super::shape::{Enum, Field, Presence, Shape, Struct, Variant};

/// Returns the shape of a type. A type that panics on an invented value is open.
pub(super) fn probe<V: DeserializeOwned>(is_human_readable: bool) -> Shape {
    let run = || {
        let probe = Probe::new(is_human_readable);
        loop {
            let before = probe.with(|state| (state.progress, state.tries));
            let root = Slot { probe: &probe, node: Probe::ROOT, depth: 0, is_exploring: true };
            // The outcome of a run is in the nodes.
            let _ = root.read(V::deserialize);
            if probe.with(|state| state.is_done(Probe::ROOT) || (state.progress, state.tries) == before) {
                break probe;
            }
        }
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(probe) => shape(&probe.into_nodes(), Probe::ROOT, &mut Vec::new()),
        Err(_) => Shape::Open,
    }
}

/// Converts a node to a shape.
fn shape(nodes: &[Node], id: NodeId, enclosing: &mut Vec<NodeId>) -> Shape {
    let Some(node) = nodes.get(id) else { return Shape::Open };
    match &node.kind {
        Kind::New | Kind::Open(_) => return Shape::Open,
        Kind::Leaf(Shape::Text) if node.attempt > 0 => return Shape::ParsedText,
        Kind::Leaf(shape) => return shape.clone(),
        // The type never accepted a sequence or map: it has requirements that the probe does not know.
        Kind::Seq { .. } | Kind::Map { .. } if !node.is_accepted => return Shape::Open,
        Kind::Again(target) => {
            let distance = enclosing.iter().rev().position(|enclosing| enclosing == target);
            return distance.map_or(Shape::Open, |distance| Shape::Again(distance + 1));
        }
        _ => {}
    }
    enclosing.push(id);
    let mut child = |id: &NodeId| shape(nodes, *id, enclosing);
    let shape = match &node.kind {
        Kind::Option(inner) => Shape::Option(Box::new(child(inner))),
        Kind::Seq { item, .. } => Shape::Seq(Box::new(child(item))),
        Kind::Map { key, value, .. } => Shape::Map(Box::new(child(key)), Box::new(child(value))),
        Kind::Tuple(items) => Shape::Tuple(items.iter().map(child).collect()),
        Kind::Struct(it) => Shape::Struct(fields(it, child)),
        Kind::Enum(it) => Shape::Enum(variants(it, child)),
        _ => Shape::Open,
    };
    enclosing.pop();
    shape
}

fn fields(it: &StructNode, mut child: impl FnMut(&NodeId) -> Shape) -> Struct {
    let aliases = |name| it.fields.iter().filter(move |field| field.alias_of == Some(name));
    let fields = it.own_fields().map(|field| {
        let presence = match (field.is_required, it.is_presence_known) {
            (true, _) => Presence::Required,
            (false, true) => Presence::Optional,
            (false, false) => Presence::Unknown,
        };
        let aliases = aliases(field.name).map(|alias| alias.name.to_owned()).collect();
        (field.name.to_owned(), Field { shape: child(&field.node), presence, aliases })
    });
    Struct { fields: fields.collect(), deny_unknown: it.denies_unknown == Some(true) }
}

fn variants(it: &EnumNode, mut child: impl FnMut(&NodeId) -> Shape) -> Enum {
    let own = it.variants.iter().enumerate().filter(|(_, variant)| variant.alias_of.is_none());
    let variants = own.filter_map(|(at, variant)| {
        let content = match &variant.content {
            Content::Refused => return None,
            Content::New => Some(Shape::Open),
            Content::Unit => None,
            Content::Node(node) => Some(child(node)),
        };
        let aliases = it.variants.iter().filter(|alias| alias.alias_of == Some(at));
        let aliases: BTreeSet<_> = aliases.map(|alias| alias.name.to_owned()).collect();
        Some((variant.name.to_owned(), Variant { content, aliases }))
    });
    Enum { variants: variants.collect(), other: it.other == Some(true), tag: None }
}
