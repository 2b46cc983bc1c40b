//! The typed bucket and its operations.
//!
//! Most operations return a small builder, and awaiting the builder runs it. [`ReadBucket`] has the reading operations,
//! and [`Bucket`] adds the writing ones.

// Each module imports only from modules above it. Exceptions: `handle` imports `modify/key_queue.rs`, and `write` imports
// `modify/decision.rs` and `modify/retry.rs`.
//
// | file | content |
// |---|---|
// | `recent`, `tombstones`, `seen` | bounded memory of delete markers and revisions |
// | `content` | the content of a write |
// | `schema_state` | the write epoch and the schema versions that the bucket takes |
// | `clock` | the server's clock |
// | `encoded`, `entry`, `decode` | stored entries as typed records |
// | `verb` | the macros that build awaitable operations |
// | `precondition` | preconditions on another record |
// | `handle` | `Bucket`, `ReadBucket` and the state that their clones share |
// | `epochs` | writes in the current write epoch |
// | `stored_schema` | the schemas of the program and of the bucket |
// | `indexes` | the indexes of the program and of the card |
// | `model_card` | the card of a model in the metadata of its bucket |
// | `identity` | detection of a replaced bucket |
// | `open`, `open_raw` | creation of a bucket, or comparison with the model; a bucket without a model |
// | `get`, `get_many`, `resolve`, `history`, `count`, `list` | reads |
// | `index` | the index entries and claims of written records |
// | `write`, `modify`, `delete`, `touch`, `put_many`, `write_raw` | writes |
// | `copy_window`, `copy` | a copy in another store |
// | `compact` | removal of old delete markers |
// | `check_schema` | the report on a program and the records of its bucket |
// | `counters` | counters of the backend |
mod recent;
pub(crate) mod content;
mod schema_state;
pub(crate) mod clock;
mod encoded;
mod entry;
pub(crate) mod decode;
mod tombstones;
mod seen;
pub(crate) mod verb;
pub(crate) mod precondition;
mod handle;
mod epochs;
pub(crate) mod stored_schema;
mod indexes;
mod model_card;
mod identity;
mod open;
mod open_raw;
mod get;
mod get_many;
mod resolve;
mod history;
mod count;
mod list;
pub(crate) mod index;
mod write;
mod modify;
mod delete;
mod touch;
mod put_many;
mod write_raw;
mod copy_window;
mod copy;
mod compact;
mod check_schema;
mod counters;

#[doc(inline)]
pub use crate::backend::BucketStatus;

pub use self::check_schema::{CheckSchema, SchemaReport, VersionReport};
pub use self::compact::{Compact, Compacted};
pub use self::copy::{Copied, CopyBucket, CopyProgress, CopyTarget, copy_bucket};
pub use self::count::Count;
pub use self::delete::{Delete, Purge};
pub use self::entry::{Entry, Removed, Version};
pub use self::get::Get;
pub use self::get_many::{GetMany, GetManyResults};
pub use self::handle::{Bucket, ReadBucket};
pub use self::history::History;
pub use self::list::{Cursor, Entries, KeyStream, Keys, List, ListProgress};
pub use self::modify::{Change, Modify, ModifyError, Transform, TryModify};
pub use self::open::{OpenBucket, OpenReadBucket};
pub use self::open_raw::{CreateRawBucket, OpenRawBucket};
pub use self::put_many::{DeleteMany, PutMany, WriteManyResults, WriteProgress};
pub use self::resolve::{Resolve, Resolved};
pub use self::touch::Touch;
pub use self::write::{Create, Put, Update};
pub use self::write_raw::RawWrite;

pub(crate) use self::counters::CounterBucket;
pub(crate) use self::indexes::{read_claim, stored_claim};
pub(crate) use self::modify::retry::CasAttempts;
pub(crate) use self::precondition::{FencePrecondition, FenceResult};
pub(crate) use self::schema_state::{BucketSchema, CARD_LIFE, IndexBuild};
pub(crate) use self::write::{check_ttl, parse_marker_ttl};
