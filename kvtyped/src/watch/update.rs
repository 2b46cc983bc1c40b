//! The items of a watch below its typed events.

use futures::stream::BoxStream;

use crate::backend::RawEntry;
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// An item of a watch. It does not depend on the sessions of the watch.
#[derive(Debug)]
pub(crate) enum WatchUpdate {
    /// An entry, and the number of matching entries that are pending after it.
    Entry(RawEntry, u64),
    /// All current entries were delivered.
    Ready,
    /// Delivered entries may have been removed without an item. All current entries follow, and then `Ready`.
    Resync,
    /// The number of entries that are pending for the reader.
    Lagging(u64),
    /// A heartbeat: everything up to this revision was delivered.
    Alive(Revision),
    /// The session was lost for this reason, and another one is tried. Reported once until the watch has caught up
    /// (`Alive`, `Ready`).
    Interrupted(Error),
}

/// A stream of the items of a watch. An error with a key replaces one entry.
pub(crate) type UpdateStream = BoxStream<'static, Result<WatchUpdate>>;

/// Returns the error of a handle whose task was dropped before it ended.
pub(crate) fn runtime_ended() -> Error {
    Error::new(ErrorKind::Closed).caused_by("the tokio runtime of the handle has ended")
}
