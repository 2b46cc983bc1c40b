//! The tree of requests that the runs discover.

use super::open::Guess;
use crate::schema::shape::Shape;

/// The index of a node.
pub(super) type NodeId = usize;

/// A place in the tree: a value that the type requests.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) kind: Kind,
    /// Whether the type accepted an answer.
    pub(super) is_accepted: bool,
    /// Whether the type refused all answers.
    pub(super) is_exhausted: bool,
    /// The number of refused answers.
    pub(super) attempt: usize,
    /// The progress of the probe when a run last explored the node.
    pub(super) tried_at: Option<u64>,
    /// Whether nothing below the node is left to explore. Never reverts.
    pub(super) is_done: bool,
}

#[derive(Debug, Default)]
pub(super) enum Kind {
    #[default]
    New,
    Leaf(Shape),
    Open(Guess),
    Option(NodeId),
    Seq {
        item: NodeId,
        needs_item: bool,
    },
    Map {
        key: NodeId,
        value: NodeId,
        needs_item: bool,
    },
    Tuple(Vec<NodeId>),
    Struct(StructNode),
    Enum(EnumNode),
    /// The same type as that of the enclosing node.
    Again(NodeId),
}

#[derive(Debug)]
pub(super) struct StructNode {
    /// The list that the type passes: fields and aliases.
    pub(super) listed: &'static [&'static str],
    pub(super) fields: Vec<FieldNode>,
    pub(super) denies_unknown: Option<bool>,
    /// Whether no more aliases are to be found.
    pub(super) are_aliases_known: bool,
    /// Whether all fields without `is_required` are optional.
    pub(super) is_presence_known: bool,
    /// Whether the type refused a value of the required fields alone.
    pub(super) needs_all: bool,
}

#[derive(Debug)]
pub(super) struct FieldNode {
    pub(super) name: &'static str,
    pub(super) node: NodeId,
    pub(super) is_required: bool,
    pub(super) alias_of: Option<&'static str>,
    /// Whether the field is offered before others, so that an alias is the second of the two.
    pub(super) is_first: bool,
}

#[derive(Debug)]
pub(super) struct EnumNode {
    /// The list that the type passes: variants and aliases.
    pub(super) listed: &'static [&'static str],
    pub(super) variants: Vec<VariantNode>,
    /// Whether an unknown variant is accepted.
    pub(super) other: Option<bool>,
    /// A variant that the type accepted.
    pub(super) accepted: Option<usize>,
}

#[derive(Debug)]
pub(super) struct VariantNode {
    pub(super) name: &'static str,
    pub(super) content: Content,
    pub(super) alias_of: Option<usize>,
    /// A hash of the discriminant that the name is read as.
    pub(super) tag: Option<u64>,
    pub(super) tried_at: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    New,
    Refused,
    Unit,
    Node(NodeId),
}

impl StructNode {
    /// Returns the fields without their aliases.
    pub(super) fn own_fields(&self) -> impl Iterator<Item = &FieldNode> {
        self.fields.iter().filter(|field| field.alias_of.is_none())
    }
}
