//! Lists of records and keys.

mod cursor;
mod list_stream;
mod verbs;

pub use self::cursor::{Cursor, ListProgress};
pub use self::verbs::{Entries, KeyStream, Keys, List};
