//! The arguments of lookups. Their traits have no bound on the type of the field, so that a field of an unsuitable type is
//! reported once, where its values are written.

use std::ops::RangeBounds;

use super::{By, Indexable, Lookup, RangeField};
use crate::key::KeyBuilder;
use crate::model::KvModel;

/// A value of an index on a field of the type `F`. Called from generated code.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a value of a field of the type `{F}`",
    label = "cannot be converted to a value of the field with `Into`"
)]
pub trait IndexArgument<F> {
    /// Returns the escaped segment of the value.
    fn segment(self) -> String;
}

#[diagnostic::do_not_recommend]
impl<F: Indexable, V: Into<F::Value>> IndexArgument<F> for V {
    fn segment(self) -> String {
        let (mut text, value) = (KeyBuilder::new(), self.into());
        KeyBuilder::segment(&mut text, &value);
        text.as_str().to_owned()
    }
}

/// A range of values of a field of the type `F`. Called from generated code.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a range of values of a field of the type `{F}`",
    label = "not a range such as `first..last`"
)]
pub trait IndexRange<F> {
    /// Creates a lookup of the values in the range.
    fn lookup<T: KvModel, A>(self, index: usize, by: By, field: fn(&T) -> &F) -> Lookup<T, A>;
}

#[diagnostic::do_not_recommend]
impl<F: RangeField + 'static, R: RangeBounds<F::Value>> IndexRange<F> for R {
    fn lookup<T: KvModel, A>(self, index: usize, by: By, field: fn(&T) -> &F) -> Lookup<T, A> {
        Lookup::range(index, by, self, field)
    }
}
