//! The types of indexed fields.

use std::collections::{BTreeSet, HashSet};

use crate::key::KeySegment;

/// A type whose values can be indexed: a [`KeySegment`], or an `Option`, a `Vec` or a set of one.
///
/// A record has one entry for each value of the field. A `None` and an empty list have no entry.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be indexed",
    label = "not a key segment, or an `Option`, `Vec` or set of one",
    note = "index a function of the field: `#[kv(index(with = function))]`",
    note = "key segments are strings, integers, `bool`, `char`, `Uuid` (feature `uuid`) and types with `#[derive(KeySegment)]`"
)]
pub trait Indexable {
    /// The type of a single value, which a lookup names.
    type Value: KeySegment;

    /// Calls `each` with each value of the field.
    fn each_value(&self, each: &mut dyn FnMut(&Self::Value));
}

#[diagnostic::do_not_recommend]
impl<S: KeySegment> Indexable for S {
    type Value = S;

    fn each_value(&self, each: &mut dyn FnMut(&S)) {
        each(self);
    }
}

/// Implements the trait for types with an iterator over their values.
macro_rules! by_iterator {
    ($($type:ty),* $(,)?) => {$(
        #[diagnostic::do_not_recommend]
        impl<S: KeySegment> Indexable for $type {
            type Value = S;

            fn each_value(&self, each: &mut dyn FnMut(&S)) {
                self.iter().for_each(each);
            }
        }
    )*};
}

by_iterator!(Option<S>, Vec<S>, BTreeSet<S>, HashSet<S>);

/// Calls `each` with each value of a field. Called from generated code.
#[doc(hidden)]
pub fn each_value<F: Indexable>(field: &F, each: &mut dyn FnMut(&F::Value)) {
    field.each_value(each);
}
