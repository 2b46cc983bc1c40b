//! Secondary and unique indexes of a model, as data: definitions, values, lookups, and the layout of the stored entries.

mod info;
mod card;
mod range;
mod text;
mod indexable;
mod values;
mod layout;
mod claim;
mod lookup;
mod argument;

#[doc(hidden)]
pub use self::argument::{IndexArgument, IndexRange};
pub use self::card::{IndexCard, IndexState};
pub use self::claim::Claim;
pub use self::indexable::Indexable;
pub use self::info::{IndexInfo, IndexKind};
pub use self::layout::{claim_key, claims, entries, entries_of_record, entry_key, parse_claim, parse_entry};
pub use self::lookup::{Lookup, Many, One, UniqueLookup};
pub use self::range::{By, RangeField, RangeValue, Scale};
pub use self::text::ValueText;
pub use self::values::{IndexValue, IndexValues};

use super::KvModel;

/// A model with at least one index. `#[derive(KvModel)]` implements it for a model with `#[kv(index)]` or
/// `#[kv(unique)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no index",
    label = "a model without an index",
    note = "add `#[kv(index)]` or `#[kv(unique)]` to a field of the model"
)]
pub trait Indexed: KvModel {}

/// Returns the index values of a record.
pub fn values_of<T: KvModel>(record: &T) -> IndexValues {
    let mut values = IndexValues::new(T::__INDEXES);
    record.__index_values(&mut values);
    values.finish()
}
