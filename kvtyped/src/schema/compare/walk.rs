//! The state of a comparison: the place in both shapes, and the findings.

use std::collections::{BTreeMap, BTreeSet};

use crate::schema::report::{Effect, Finding};
use crate::schema::shape::Shape;

/// The enclosing shapes of a shape, for recursion.
#[derive(Clone, Copy)]
pub(super) struct Env<'a, 'e> {
    /// `None` outside of the whole shape.
    shape: Option<&'a Shape>,
    outer: Option<&'e Env<'a, 'e>>,
}

impl<'a, 'e> Env<'a, 'e> {
    pub(super) const EMPTY: Self = Self { shape: None, outer: None };

    /// Returns the environment of the children of a shape.
    pub(super) fn inside(&'e self, shape: &'a Shape) -> Self {
        Self { shape: Some(shape), outer: Some(self) }
    }

    /// Returns the target of a recursion, with its own environment.
    pub(super) fn resolve(&'e self, shape: &'a Shape) -> (&'a Shape, &'e Self) {
        let Shape::Again(distance) = shape else { return (shape, self) };
        let mut env = self;
        for _ in 1..*distance {
            env = env.outer.unwrap_or(env);
        }
        (env.shape.unwrap_or(&Shape::Open), env.outer.unwrap_or(env))
    }
}

#[derive(Default)]
pub(super) struct Walk {
    path: Vec<String>,
    pub(super) levels: usize,
    pub(super) is_key: bool,
    /// Whether both shapes are directly inside of an option. An option of an option is encoded like one option.
    pub(super) are_optional: bool,
    /// Whether readers ignore the value: backward, forward.
    pub(super) ignored: (bool, bool),
    /// The compared pairs, by address: a recursion leads back to a pair.
    pub(super) pairs: BTreeSet<(usize, usize, (bool, bool))>,
    /// The findings by path.
    pub(super) findings: BTreeMap<String, Finding>,
}

impl Walk {
    /// Runs a comparison below a path element.
    pub(super) fn enter(&mut self, element: &str, compare: impl FnOnce(&mut Self)) {
        self.path.push(element.to_owned());
        compare(self);
        self.path.pop();
    }

    pub(super) fn add_pair(&mut self, stored: &Shape, program: &Shape, backward: Effect, forward: Effect) {
        let (stored, program) = (stored.to_string(), program.to_string());
        self.add(Finding { path: String::new(), stored, program, backward, forward, lacks_default: false });
    }

    /// Adds a finding at the current path. A second finding at the same path joins the first one.
    pub(super) fn add(&mut self, mut finding: Finding) {
        if self.ignored.0 {
            finding.backward = Effect::yes();
        }
        if self.ignored.1 {
            finding.forward = Effect::yes();
        }
        let mut path = String::new();
        for element in &self.path {
            let is_joined = path.is_empty() || element.starts_with('[') || element.starts_with('{');
            path += if is_joined { "" } else { "." };
            path += element;
        }
        match self.findings.get_mut(&path) {
            Some(known) => {
                known.backward = known.backward.clone().and(finding.backward);
                known.forward = known.forward.clone().and(finding.forward);
                known.lacks_default |= finding.lacks_default;
            }
            None => _ = self.findings.insert(path.clone(), Finding { path, ..finding }),
        }
    }
}
