//! Counters that the server adds up.

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::Deadline;
use crate::error::Result;
use crate::key::{Key, Pattern};

/// Counters that the server adds up, one per key. The [contract](super#contract) defines each method.
///
/// Totals outside of `i128` are returned as its minimum or maximum.
pub trait RawCounters: fmt::Debug + Send + Sync + 'static {
    /// Increments a counter and returns the new total. If the acknowledgement was lost, the total may include later
    /// increments.
    fn add<'a>(&'a self, key: &'a Key, delta: i128, deadline: Deadline) -> BoxFuture<'a, Result<i128>>;

    /// Returns the total as fresh as possible, or `None` if there was no increment since the counter was created or
    /// removed.
    fn read<'a>(&'a self, key: &'a Key, deadline: Deadline) -> BoxFuture<'a, Result<Option<i128>>>;

    /// Returns the totals of many counters, about as fresh as [`Read::Any`](super::Read::Any).
    ///
    /// Errors follow the rules of [`RawBucket::scan`](super::RawBucket::scan).
    fn scan(&self, pattern: Pattern, idle_timeout: Duration) -> BoxStream<'static, Result<(Key, i128)>>;

    /// Removes a counter: the next increment starts at zero. Does nothing if the counter does not exist.
    fn remove<'a>(&'a self, key: &'a Key, deadline: Deadline) -> BoxFuture<'a, Result<()>>;
}
