//! Lists of records and keys.
//!
//! A list is one scan of the backend with a filter, a limit and a cursor. The cursor continues a list after its last
//! entry, also in another process.

mod cursor;
mod list_stream;
mod verbs;

pub use self::cursor::{Cursor, ListProgress};
pub use self::verbs::{Entries, KeyStream, Keys, List};
