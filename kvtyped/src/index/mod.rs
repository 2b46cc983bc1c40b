//! Lookups by the indexes of a model: `get_by`, `list_by` and `count_by`.
//!
//! A bucket that fits in memory does not need a stored index: [`Cache::index_by`](crate::Cache::index_by) builds an index in
//! the process, from a watch. A stored index is for buckets that are larger, and for unique values.
//!
//! A lookup reads the entries of the index, and then the records. An entry may name a record that no longer has the value:
//! a writer stores the entry first and erases it later. So every record is compared with the lookup, and a record that is
//! absent or does not match is read again at the leader before it is dropped.

// | file | content |
// |---|---|
// | `order` | the order of the results: by value, then by key |
// | `cursor` | a position in the results |
// | `options` | the options that the lookups share |
// | `candidates` | the entries of a lookup |
// | `page` | the records of some candidates |
// | `get_by`, `list_by`, `count_by`, `synced_revision` | the verbs |
mod order;
mod cursor;
mod options;
mod candidates;
mod page;
mod get_by;
mod list_by;
mod count_by;
mod synced_revision;

pub use self::count_by::CountBy;
pub use self::cursor::IndexCursor;
pub use self::get_by::GetBy;
pub use self::list_by::{EntriesBy, ListBy};
