//! Counters that the backend adds up itself.

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::Deadline;
use crate::error::Result;
use crate::key::{Key, Pattern};

/// Counters that the backend adds up itself, each under a key. The [contract](super#contract) says what each method
/// promises.
///
/// They have no limit that matters: what lies outside of `i128` is told as its end.
pub trait RawCounters: fmt::Debug + Send + Sync + 'static {
    /// Adds, and tells the new total, in which later additions may be counted too if the acknowledgement was lost.
    fn add<'a>(&'a self, key: &'a Key, delta: i128, deadline: Deadline) -> BoxFuture<'a, Result<i128>>;

    /// The total, as fresh as can be; nothing if nothing was added since the counter was made or removed.
    fn read<'a>(&'a self, key: &'a Key, deadline: Deadline) -> BoxFuture<'a, Result<Option<i128>>>;

    /// The totals of many counters, as they are about now.
    ///
    /// Errors are as of [`RawBucket::scan`](super::RawBucket::scan).
    fn scan(&self, pattern: Pattern, patience: Duration) -> BoxStream<'static, Result<(Key, i128)>>;

    /// Removes a counter: the next addition begins at zero. Where there is none, nothing happens.
    fn remove<'a>(&'a self, key: &'a Key, deadline: Deadline) -> BoxFuture<'a, Result<()>>;
}
