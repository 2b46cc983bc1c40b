//! A value that a type requests.

use std::any::type_name;

use serde::de::Visitor;

use super::error::Error;
use super::node::{Kind, NodeId};
use super::open::Guess;
use super::state::{Probe, State};
use crate::schema::shape::MAX_DEPTH;

/// The deserializer of the value of a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot<'p> {
    pub(super) probe: &'p Probe,
    pub(super) node: NodeId,
    pub(super) depth: usize,
    /// Whether the run looks for unknown parts of the value. Otherwise the answer is the smallest known value.
    pub(super) is_exploring: bool,
}

/// The answer to a request, after the node has recorded it.
pub(super) enum Recorded<'p> {
    /// The request is the same as in earlier runs, or the first one.
    Fits,
    /// The value has no fixed shape.
    Open,
    /// The value has the type of an enclosing value, whose smallest value is the answer.
    Again(Slot<'p>),
}

impl<'p> Slot<'p> {
    /// Reads the value of the slot, and records whether the type accepted it.
    pub(super) fn read<T>(self, read: impl FnOnce(Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.is_exploring {
            self.probe.with(|state| state.start(self.node));
        }
        let result = read(self);
        self.probe.with(|state| match &result {
            Ok(_) => state.accept(self.node),
            Err(error) if !error.is_settled => state.refuse(self.node, error.cause, self.is_exploring),
            Err(_) => {}
        });
        result.map_err(|error| Error { is_settled: true, ..error })
    }

    pub(super) fn child(self, node: NodeId, is_exploring: bool) -> Self {
        Self { node, depth: self.depth + 1, is_exploring, ..self }
    }

    /// Records a request. `create` returns `None` if there are too many nodes.
    pub(super) fn record(
        self,
        visitor: Option<&'static str>,
        create: impl FnOnce(&mut State) -> Option<Kind>,
    ) -> Result<Recorded<'p>, Error> {
        self.probe.with(|state| {
            state.count()?;
            match state.kind(self.node) {
                Kind::Open(_) => return Ok(Recorded::Open),
                Kind::Again(target) => return self.again(*target),
                Kind::New if !self.is_exploring => return Err(Error::stop()),
                Kind::New => {}
                _ => return Ok(Recorded::Fits),
            }
            if visitor.is_some() && self.depth >= MAX_DEPTH {
                state.make_open(self.node);
                return Ok(Recorded::Open);
            }
            let enclosing = state.enclosing.iter().rev().find(|(name, _)| visitor == Some(*name));
            if let Some((_, target)) = enclosing.copied() {
                *state.kind(self.node) = Kind::Again(target);
                state.progress += 1;
                return self.again(target);
            }
            match create(state) {
                Some(kind) => *state.kind(self.node) = kind,
                None => {
                    state.make_open(self.node);
                    return Ok(Recorded::Open);
                }
            }
            state.progress += 1;
            Ok(Recorded::Fits)
        })
    }

    fn again(self, target: NodeId) -> Result<Recorded<'p>, Error> {
        if self.is_too_deep() {
            return Err(Error::stop());
        }
        Ok(Recorded::Again(self.child(target, false)))
    }

    /// Makes the value open if a run requests another kind than the runs before.
    pub(super) fn check(self, is_same: impl FnOnce(&Kind) -> bool) -> Result<(), Error> {
        self.probe.with(|state| {
            if is_same(state.kind(self.node)) {
                return Ok(());
            }
            state.make_open(self.node);
            Err(Error::stop())
        })
    }

    /// Answers a request for a value of any kind.
    pub(super) fn open<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let guess = self.probe.with(|state| {
            state.count()?;
            match state.kind(self.node) {
                Kind::Open(guess) => Ok(guess.clone()),
                Kind::New if !self.is_exploring => Err(Error::stop()),
                _ => {
                    state.make_open(self.node);
                    Ok(Guess::default())
                }
            }
        })?;
        guess.answer(visitor)
    }

    /// Runs `visit` below the node, so that the type of `V` counts as enclosing.
    pub(super) fn enclosed<V, R>(self, visit: impl FnOnce() -> R) -> R {
        if self.is_exploring {
            self.probe.with(|state| state.enclosing.push((type_name::<V>(), self.node)));
        }
        let result = visit();
        if self.is_exploring {
            self.probe.with(|state| state.enclosing.pop());
        }
        result
    }

    /// Returns whether to explore a child.
    pub(super) fn explores(self, child: NodeId) -> bool {
        self.is_exploring && self.probe.with(|state| state.wants(child))
    }

    /// Gives an item to a type that refuses an empty sequence or map, from the next run on.
    pub(super) fn after_items(self, was_empty: bool, error: Error) -> Error {
        if was_empty && !error.is_settled {
            self.probe.with(|state| state.refuse(self.node, error.cause, true));
            return Error { is_settled: true, ..error };
        }
        error
    }

    /// Returns whether the recursion must end.
    pub(super) fn is_too_deep(self) -> bool {
        self.depth >= 2 * MAX_DEPTH
    }
}
