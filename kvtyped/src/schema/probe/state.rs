//! The findings of the runs, and the bounds of their work.

use std::cell::RefCell;

use super::error::{Cause, Error};
use super::node::{Content, EnumNode, Kind, Node, NodeId, StructNode};
use super::open::Guess;
use crate::schema::shape::Shape;

/// The largest number of places in the tree. Places beyond it are open.
const MAX_NODES: usize = 4_000;

/// The largest number of requests of all runs.
const MAX_REQUESTS: u32 = 300_000;

/// Texts for types that parse them.
pub(super) const TEXTS: [&str; 16] = [
    "a",
    "1",
    "2024-01-01T00:00:00Z",
    "2024-01-01",
    "00000000-0000-0000-0000-000000000000",
    "127.0.0.1",
    "127.0.0.1:80",
    "127.0.0.0/8",
    "::1",
    "[::1]:80",
    "https://example.com/",
    "a@example.com",
    "12:00:00",
    "1s",
    "1.0.0",
    "",
];

pub(super) const BYTES: [&[u8]; 8] = [b"a", b"", &[0; 16], &[0; 4], &[0; 8], &[0; 12], &[0; 32], &[0; 64]];

/// Numbers that every integer type holds.
pub(super) const NUMBERS: [i8; 5] = [1, 0, 2, 10, 100];

#[derive(Debug)]
pub(super) struct Probe {
    pub(super) is_human_readable: bool,
    state: RefCell<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) nodes: Vec<Node>,
    /// The types of the enclosing values, for recursion.
    pub(super) enclosing: Vec<(&'static str, NodeId)>,
    /// The number of facts that the runs found.
    pub(super) progress: u64,
    /// The number of explored nodes, over all runs.
    pub(super) tries: u64,
    requests: u32,
}

impl Probe {
    pub(super) const ROOT: NodeId = 0;

    pub(super) fn new(is_human_readable: bool) -> Self {
        let state = State {
            nodes: vec![Node::default()],
            enclosing: Vec::new(),
            progress: 0,
            tries: 0,
            requests: MAX_REQUESTS,
        };
        Self { is_human_readable, state: RefCell::new(state) }
    }

    /// Gives access to the state. The closure must not call code of a type.
    pub(super) fn with<R>(&self, access: impl FnOnce(&mut State) -> R) -> R {
        access(&mut self.state.borrow_mut())
    }

    pub(super) fn into_nodes(self) -> Vec<Node> {
        self.state.into_inner().nodes
    }
}

impl State {
    /// Counts a request.
    pub(super) fn count(&mut self) -> Result<(), Error> {
        self.requests = self.requests.checked_sub(1).ok_or_else(Error::stop)?;
        Ok(())
    }

    /// Creates a node, or returns `None` if there are too many.
    pub(super) fn create(&mut self) -> Option<NodeId> {
        (self.nodes.len() < MAX_NODES).then(|| {
            self.nodes.push(Node::default());
            self.nodes.len() - 1
        })
    }

    pub(super) fn kind(&mut self, node: NodeId) -> &mut Kind {
        &mut self.nodes[node].kind
    }

    pub(super) fn as_struct(&mut self, node: NodeId) -> Option<&mut StructNode> {
        match self.kind(node) {
            Kind::Struct(it) => Some(it),
            _ => None,
        }
    }

    pub(super) fn as_enum(&mut self, node: NodeId) -> Option<&mut EnumNode> {
        match self.kind(node) {
            Kind::Enum(it) => Some(it),
            _ => None,
        }
    }

    pub(super) fn make_open(&mut self, node: NodeId) {
        *self.kind(node) = Kind::Open(Guess::default());
        self.progress += 1;
    }

    pub(super) fn start(&mut self, node: NodeId) {
        let now = Some(self.progress);
        if self.nodes[node].tried_at != now {
            self.nodes[node].tried_at = now;
            self.tries += 1;
        }
    }

    pub(super) fn accept(&mut self, node: NodeId) {
        if !self.nodes[node].is_accepted {
            self.nodes[node].is_accepted = true;
            self.progress += 1;
        }
    }

    /// Selects another answer after a refusal that no inner value has caused.
    pub(super) fn refuse(&mut self, node: NodeId, cause: Cause, is_exploring: bool) {
        let it = &mut self.nodes[node];
        let is_container = matches!(it.kind, Kind::Struct(_) | Kind::Seq { .. } | Kind::Map { .. });
        if it.is_exhausted || !is_exploring && !is_container {
            return;
        }
        it.attempt += 1;
        let is_left = match &mut it.kind {
            Kind::Leaf(Shape::Text) => it.attempt < TEXTS.len(),
            Kind::Leaf(Shape::Bytes) => it.attempt < BYTES.len(),
            Kind::Leaf(Shape::Bool | Shape::Char) => it.attempt < 2,
            Kind::Leaf(Shape::Int(_) | Shape::Float(_)) => it.attempt < NUMBERS.len(),
            Kind::Open(guess) => guess.learn(cause),
            Kind::Struct(it) => !std::mem::replace(&mut it.needs_all, true),
            Kind::Seq { needs_item, .. } | Kind::Map { needs_item, .. } => !std::mem::replace(needs_item, true),
            _ => false,
        };
        self.nodes[node].is_exhausted = !is_left;
        self.progress += 1;
    }

    /// Returns whether a run should explore the node: something is left, and there was progress since the last try.
    pub(super) fn wants(&mut self, node: NodeId) -> bool {
        self.nodes[node].tried_at != Some(self.progress) && !self.is_done(node)
    }

    /// Returns whether nothing below the node is left to explore.
    pub(super) fn is_done(&mut self, node: NodeId) -> bool {
        if !self.nodes[node].is_done {
            self.nodes[node].is_done = self.compute_done(node);
        }
        self.nodes[node].is_done
    }

    fn compute_done(&mut self, node: NodeId) -> bool {
        let it = &self.nodes[node];
        let children: Vec<NodeId> = match &it.kind {
            Kind::New => return false,
            Kind::Leaf(_) | Kind::Open(_) => return it.is_accepted || it.is_exhausted,
            Kind::Again(_) => return true,
            Kind::Option(inner) => vec![*inner],
            Kind::Seq { item, .. } => vec![*item],
            Kind::Map { key, value, .. } => vec![*key, *value],
            Kind::Tuple(items) => items.clone(),
            Kind::Struct(it) if it.is_presence_known => it.own_fields().map(|field| field.node).collect(),
            Kind::Enum(it) if it.other.is_some() => {
                let contents = it.variants.iter().map(|variant| match variant.content {
                    Content::New => None,
                    Content::Unit | Content::Refused => Some(None),
                    Content::Node(node) => Some(Some(node)),
                });
                match contents.collect::<Option<Vec<_>>>() {
                    Some(contents) => contents.into_iter().flatten().collect(),
                    None => return false,
                }
            }
            Kind::Struct(_) | Kind::Enum(_) => return false,
        };
        children.into_iter().all(|child| self.is_done(child))
    }
}
