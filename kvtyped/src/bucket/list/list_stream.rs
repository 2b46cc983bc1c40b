//! The common part of lists: a scan with its progress and its limit.

use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures::stream::{BoxStream, StreamExt};

use super::cursor::{Cursor, ListProgress};
use crate::backend::Deadline;
use crate::backend::{RawEntry, ScanItem, ScanRequest};
use crate::bucket::handle::ReadBucket;
use crate::error::Result;
use crate::key::Patterns;
use crate::model::{Filter, KvModel};
use crate::revision::Revision;

impl<T: KvModel> ReadBucket<T> {
    /// Returns a scan of the newest entry of each key, with values.
    pub(crate) fn scan_request(&self, patterns: Patterns, timeout: Option<Duration>) -> ScanRequest {
        ScanRequest {
            patterns,
            history: false,
            headers_only: false,
            after: Revision::ZERO,
            limit: None,
            idle_timeout: timeout.unwrap_or(self.inner.timeout),
        }
    }

    pub(crate) fn scan(
        &self,
        operation: &'static str,
        scan: ScanRequest,
    ) -> Result<BoxStream<'static, Result<ScanItem>>> {
        let entries = self.raw(operation)?.scan(scan);
        let name = self.name().to_owned();
        Ok(entries.map(move |entry| entry.map_err(|error| error.with_context(operation, &name, None))).boxed())
    }
}

/// The options of a list.
#[derive(Debug)]
pub(crate) struct ListRequest<'a, T: KvModel> {
    pub(crate) bucket: &'a ReadBucket<T>,
    pub(crate) filter: Filter<T>,
    pub(crate) after: Option<Cursor>,
    pub(crate) limit: Option<usize>,
    pub(crate) timeout: Option<Duration>,
}

impl<'a, T: KvModel> ListRequest<'a, T> {
    pub(crate) fn new(bucket: &'a ReadBucket<T>, filter: Filter<T>) -> Self {
        Self { bucket, filter, after: None, limit: None, timeout: None }
    }

    pub(crate) async fn entries(self, operation: &'static str, headers_only: bool) -> Result<ListStream> {
        let Self { bucket, filter, after, limit, timeout } = self;
        let raw = bucket.raw(operation)?;
        let mut scan = ScanRequest { headers_only, limit, ..bucket.scan_request(filter.patterns().clone(), timeout) };
        if let Some(cursor) = after {
            let position = bucket.resume(cursor, Deadline::after(scan.idle_timeout)).await;
            scan.after = position.map_err(|error| error.with_context(operation, bucket.name(), None))?;
        }
        let created = raw.identity().created;
        let (last, bucket_name) = (scan.after, bucket.name().to_owned());
        let entries = (limit != Some(0)).then(|| bucket.scan(operation, scan)).transpose()?;
        let progress = ListProgress::default();
        Ok(ListStream { entries, operation, bucket: bucket_name, created, last, progress, left: limit })
    }
}

/// The rows of a running scan.
pub(crate) struct ListStream {
    /// `None` after the end of the scan.
    entries: Option<BoxStream<'static, Result<ScanItem>>>,
    operation: &'static str,
    bucket: String,
    created: SystemTime,
    /// The revision of the last entry, or the start position of the scan.
    last: Revision,
    progress: ListProgress,
    /// The number of rows until the limit.
    left: Option<usize>,
}

impl ListStream {
    pub(crate) fn cursor(&self) -> Cursor {
        Cursor::new(self.created, self.last)
    }

    pub(crate) fn progress(&self) -> ListProgress {
        self.progress
    }

    /// Returns the next row. Skips entries without a row.
    pub(crate) fn poll<R>(
        &mut self,
        context: &mut Context<'_>,
        mut row: impl FnMut(&RawEntry) -> Result<Option<R>>,
    ) -> Poll<Option<Result<R>>> {
        loop {
            let Some(entries) = &mut self.entries else { return Poll::Ready(None) };
            let row = match entries.poll_next_unpin(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => {
                    self.progress.remaining = Some(0);
                    self.entries = None;
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Ok(ScanItem { entry, pending: behind }))) => {
                    self.last = entry.revision;
                    self.progress.remaining = Some(behind);
                    row(&entry)
                }
                Poll::Ready(Some(Err(error))) => {
                    self.last = error.revision().unwrap_or(self.last);
                    Err(error)
                }
            };
            self.progress.seen += 1;
            let Some(row) = row.transpose() else { continue };
            self.left = self.left.map(|left| left - 1);
            if self.left == Some(0) {
                // Drop the consumer on the server now, even if the caller keeps the list.
                self.entries = None;
            }
            return Poll::Ready(Some(row.map_err(|error| error.with_context(self.operation, &self.bucket, None))));
        }
    }
}
