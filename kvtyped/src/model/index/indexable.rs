//! The types of indexed fields.

use std::collections::{BTreeSet, HashSet};

use crate::key::{KeyBuilder, KeySegment};

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

    /// Calls `each` with the escaped segment of each value. Called from generated code: without a bound on the value, rustc
    /// reports a field of an unsuitable type once.
    #[doc(hidden)]
    fn each_segment(&self, each: &mut dyn FnMut(&str)) {
        self.each_value(&mut |value| {
            let mut text = KeyBuilder::new();
            text.segment(value);
            each(text.as_str());
        });
    }
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
