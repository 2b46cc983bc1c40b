//! One pass over the records of a model: reads some of them, and writes each under the revision that was read.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use futures::future::{BoxFuture, Fuse, FusedFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep_until};

use super::checkpoint::Checkpoint;
use super::pacer::Pacer;
use super::remaining_ttl::{RemainingTtl, ServerTime};
use crate::backend::{BucketStatus, KeySpace, RawEntry, Read, RecordHeaders, ScanRequest, next_output};
use crate::bucket::content::Content;
use crate::bucket::{Bucket, decode};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::key::{Key, Patterns};
use crate::model::KvModel;
use crate::revision::Revision;
use crate::ttl::Ttl;

/// The longest time between two readings of the server's clock.
const CLOCK_AGE: Duration = Duration::from_secs(60);

/// The progress of a job over the records of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RewriteProgress {
    /// The number of the pass over all records, from 1.
    pub pass: u32,
    /// The number of records that this pass has seen.
    pub seen: u64,
    /// The estimated number of entries that this pass has yet to see.
    pub remaining: u64,
    /// The number of records that were written, in all passes.
    pub rewritten: u64,
    /// How often another writer changed a record first. The record was read again.
    pub raced: u64,
    /// The number of records that cannot be written.
    pub refused: u64,
}

pub(super) type ProgressFn<'a> = Box<dyn FnMut(RewriteProgress) + Send + 'a>;

/// The decisions of a job.
pub(super) trait Changes<T: KvModel>: Send {
    /// Whether the scan transfers the values.
    const READS_ALL: bool;

    /// Whether a write with an unknown outcome may be repeated.
    const REPEATABLE: bool;

    /// Whether a record may need a write, by its headers.
    fn selects(&self, entry: &RawEntry) -> bool;

    /// Returns the new content of a record, or `None` to leave it.
    ///
    /// # Errors
    ///
    /// Returns the reason if the record cannot be written.
    fn change(&mut self, bucket: &Bucket<T>, entry: &RawEntry) -> Result<Option<Content>>;
}

/// The state of a job in all its passes.
pub(super) struct Engine<'a, T: KvModel, C> {
    pub(super) bucket: &'a Bucket<T>,
    pub(super) operation: &'static str,
    pub(super) patterns: Patterns,
    pub(super) changes: C,
    pub(super) pacer: Pacer,
    pub(super) timeout: Option<Duration>,
    pub(super) restarts_ttl: bool,
    pub(super) on_progress: Option<ProgressFn<'a>>,
    pub(super) progress: RewriteProgress,
    /// The records that cannot be written, with their revisions.
    pub(super) refused: HashMap<Key, (Revision, Error)>,
    /// The highest revision that this job has written.
    pub(super) written: Revision,
}

/// The result of a pass.
#[derive(Debug, Default)]
pub(super) struct PassResult {
    /// The number of records that needed a write.
    pub(super) found: u64,
    /// The number of records that expire within a second, and were left.
    pub(super) expiring: u64,
    /// Everything up to this revision is done.
    pub(super) position: Revision,
}

/// The work of a pass that is not done.
#[derive(Default)]
struct Open {
    /// The records that are not done, by their revisions in the scan.
    revisions: BTreeSet<Revision>,
    /// Records to read, with those revisions.
    to_read: VecDeque<(Key, Revision)>,
    /// Whether one of them was changed by another writer.
    has_raced: bool,
    /// Records to write.
    to_write: VecDeque<(RawEntry, Revision)>,
    last: Revision,
}

impl Open {
    /// Returns the highest revision whose predecessors are all done.
    fn position(&self) -> Revision {
        self.revisions.first().map_or(self.last, |first| Revision::new(first.get().saturating_sub(1)))
    }
}

/// A completed write.
struct Written {
    key: Key,
    /// The revision of the record in the scan.
    at: Revision,
    expected: Revision,
    sent: Instant,
    result: Result<Revision>,
}

type ReadFuture<'a> = Fuse<BoxFuture<'a, (Vec<(Key, Revision)>, Result<Vec<Option<RawEntry>>>)>>;

impl<'a, T: KvModel, C: Changes<T>> Engine<'a, T, C> {
    /// Runs one pass over the entries after a revision. `status` describes the bucket at the start of the pass: entries
    /// that were written later belong to the next pass. `checkpoint` stores the position from
    /// time to time.
    ///
    /// # Errors
    ///
    /// Returns an error that affects every record. The writes in flight are complete then.
    pub(super) async fn pass(
        &mut self,
        after: Revision,
        status: BucketStatus,
        mut checkpoint: Option<&mut Checkpoint>,
    ) -> Result<PassResult> {
        let through = status.last_revision.max(self.written);
        let mut clock = ServerTime::new(&status);
        let bucket = self.bucket;
        let headers_only = !C::READS_ALL;
        let request = bucket.scan_request(self.patterns.clone(), self.timeout);
        let mut scan = bucket.scan(self.operation, ScanRequest { headers_only, after, ..request })?;
        let mut known = std::mem::take(&mut self.refused);
        (self.progress.pass, self.progress.seen, self.progress.refused) = (self.progress.pass + 1, 0, 0);
        let mut result = PassResult::default();
        let mut open = Open { last: after, ..Open::default() };
        let mut scanning = true;
        let mut failure: Option<Error> = None;
        let mut reading: ReadFuture<'a> = Fuse::terminated();
        let mut writes = FuturesUnordered::new();
        loop {
            while failure.is_none() && writes.len() < self.pacer.window() && self.pacer.next() <= Instant::now() {
                let Some((entry, at)) = open.to_write.pop_front() else { break };
                if clock.age() > CLOCK_AGE {
                    clock = ServerTime::new(&bucket.refresh_status(bucket.deadline(self.timeout)).await?);
                }
                match self.prepare(&entry, &status, clock) {
                    Ok(Prepared::Write(content)) => {
                        result.found += 1;
                        self.pacer.started(Instant::now());
                        let deadline = bucket.deadline(self.timeout);
                        let RawEntry { key, revision: expected, .. } = entry;
                        writes.push(async move {
                            let sent = Instant::now();
                            let result = bucket.send_content(&key, content, Some(expected), None, deadline).await;
                            Written { key, at, expected, sent, result }
                        });
                    }
                    Ok(Prepared::Leave) => {
                        open.revisions.remove(&at);
                    }
                    Ok(Prepared::Expiring) => {
                        open.revisions.remove(&at);
                        result.expiring += 1;
                    }
                    Err(error) if is_of_record(&error) => {
                        open.revisions.remove(&at);
                        self.refuse(entry.key, entry.revision, error);
                    }
                    Err(error) => failure = Some(error),
                }
            }
            let read_ahead = self.pacer.read_ahead();
            let is_worth_a_read = open.to_read.len() >= read_ahead || !scanning || writes.is_empty();
            if failure.is_none()
                && reading.is_terminated()
                && open.to_write.len() < read_ahead.div_ceil(2)
                && !open.to_read.is_empty()
                && is_worth_a_read
            {
                reading = self.read(&mut open, read_ahead)?;
            }
            let is_idle = reading.is_terminated() && writes.is_empty();
            if is_idle && (failure.is_some() || !scanning && open.to_read.is_empty() && open.to_write.is_empty()) {
                break;
            }
            tokio::select! {
                biased;
                Some(written) = next_output(&mut writes), if !writes.is_empty() => {
                    failure = failure.or(self.on_written(written, &mut open));
                    self.report();
                    if let Some(checkpoint) = &mut checkpoint {
                        checkpoint.reached(bucket, open.position()).await;
                    }
                }
                (keys, entries) = &mut reading, if !reading.is_terminated() => match entries {
                    Ok(entries) => {
                        for ((_, at), entry) in keys.into_iter().zip(entries) {
                            match entry {
                                Some(entry) if entry.is_live() => open.to_write.push_back((entry, at)),
                                _ => { open.revisions.remove(&at); }
                            }
                        }
                    }
                    Err(error) => {
                        let now = Instant::now();
                        let continues = error.is_transient() && self.pacer.failed(now, now);
                        open.to_read.extend(keys);
                        failure = failure.or((!continues).then_some(error));
                        sleep_until(self.pacer.next()).await;
                    }
                },
                () = sleep_until(self.pacer.next()),
                    if failure.is_none() && !open.to_write.is_empty() && writes.len() < self.pacer.window() => {}
                scanned = scan.next(),
                    if failure.is_none() && scanning && open.to_read.len() + open.to_write.len() < 2 * read_ahead =>
                {
                    match scanned {
                        Some(Ok(item)) if item.entry.revision > through => scanning = false,
                        Some(Ok(item)) => {
                            self.progress.remaining = item.pending;
                            self.on_scanned(item.entry, &mut known, &mut open);
                        }
                        // An illegal key is not a record.
                        Some(Err(error)) if error.key().is_some() => {}
                        Some(Err(error)) => failure = Some(error),
                        None => scanning = false,
                    }
                }
                else => break,
            }
        }
        match failure {
            Some(error) => Err(error),
            None => {
                self.progress.remaining = 0;
                self.report();
                result.position = open.position();
                Ok(result)
            }
        }
    }

    fn on_scanned(&mut self, entry: RawEntry, known: &mut HashMap<Key, (Revision, Error)>, open: &mut Open) {
        open.last = entry.revision;
        if !entry.is_live() || decode::key::<T>(&entry.key).is_err() {
            return;
        }
        self.progress.seen += 1;
        if self.progress.seen.is_multiple_of(1_000) {
            self.report();
        }
        if let Some((revision, error)) = known.remove(&entry.key)
            && revision == entry.revision
        {
            return self.refuse(entry.key, revision, error);
        }
        if self.changes.selects(&entry) {
            let at = entry.revision;
            open.revisions.insert(at);
            match C::READS_ALL {
                true => open.to_write.push_back((entry, at)),
                false => open.to_read.push_back((entry.key, at)),
            }
        }
    }

    /// Reads the next records. After a race, reads at the leader if another server may be behind.
    fn read(&self, open: &mut Open, limit: usize) -> Result<ReadFuture<'a>> {
        let bucket = self.bucket;
        let raw = bucket.raw(self.operation)?;
        let has_raced = std::mem::take(&mut open.has_raced);
        let read = if has_raced && bucket.config().may_be_behind() { Read::Leader } else { Read::Any };
        let batch: Vec<_> = open.to_read.drain(..limit.min(open.to_read.len())).collect();
        let deadline = bucket.deadline(self.timeout);
        let read = async move {
            let keys: Vec<Key> = batch.iter().map(|(key, _)| key.clone()).collect();
            let entries = raw.read_many(KeySpace::Records, &keys, read, deadline).await;
            (batch, entries)
        };
        Ok(read.boxed().fuse())
    }

    /// Returns the write of a record.
    fn prepare(&mut self, entry: &RawEntry, status: &BucketStatus, clock: ServerTime) -> Result<Prepared> {
        if !self.changes.selects(entry) {
            return Ok(Prepared::Leave);
        }
        let located = |error: Error| error.with_key(entry.key.as_str());
        let Some(mut content) = self.changes.change(self.bucket, entry).map_err(located)? else {
            return Ok(Prepared::Leave);
        };
        if !content.is_put() {
            return Ok(Prepared::Write(content));
        }
        let source = entry.headers.rewrite_of().unwrap_or(entry.revision);
        content.headers = content.headers.with_cause(Some(&RecordHeaders::rewrite_cause(source)));
        if self.restarts_ttl {
            return Ok(Prepared::Write(content.with_ttl(entry.ttl)));
        }
        match RemainingTtl::of(entry.ttl, status.config.ttl, entry.created, clock.now()) {
            RemainingTtl::Expiring => Ok(Prepared::Expiring),
            RemainingTtl::Keep(ttl) => {
                check_ttl_support(ttl, status)?;
                Ok(Prepared::Write(content.with_ttl(ttl)))
            }
        }
    }

    /// Handles a completed write. Returns an error that ends the job.
    fn on_written(&mut self, written: Written, open: &mut Open) -> Option<Error> {
        let Written { key, at, expected, sent, result } = written;
        let now = Instant::now();
        match result {
            Ok(revision) => {
                self.pacer.acknowledged(sent, now);
                self.written = self.written.max(revision);
                self.progress.rewritten += 1;
                open.revisions.remove(&at);
                None
            }
            Err(error) if error.is_conflict() && !is_of_record(&error) => {
                self.pacer.acknowledged(sent, now);
                self.progress.raced += 1;
                open.has_raced = true;
                open.to_read.push_back((key, at));
                None
            }
            Err(error) if is_of_record(&error) || (!C::REPEATABLE && error.outcome() == Outcome::Unknown) => {
                open.revisions.remove(&at);
                self.refuse(key, expected, error);
                None
            }
            Err(error) if error.is_transient() && !error.is_stale_schema() && self.pacer.failed(sent, now) => {
                open.has_raced = true;
                open.to_read.push_back((key, at));
                None
            }
            Err(error) => Some(error.with_key(key.as_str())),
        }
    }

    fn refuse(&mut self, key: Key, revision: Revision, error: Error) {
        let error = error.with_context(self.operation, self.bucket.name(), Some(key.as_str()));
        self.refused.insert(key, (revision, error));
        self.progress.refused = self.refused.len() as u64;
    }

    fn report(&mut self) {
        if let Some(on_progress) = &mut self.on_progress {
            on_progress(self.progress);
        }
    }

    /// Returns the records that cannot be written, in the order of their keys.
    pub(super) fn refused(self) -> Vec<(String, Error)> {
        let sorted: BTreeMap<String, Error> =
            self.refused.into_iter().map(|(key, (_, error))| (key.as_str().to_owned(), error)).collect();
        sorted.into_iter().collect()
    }
}

/// A record that was read.
enum Prepared {
    Write(Content),
    Leave,
    Expiring,
}

/// Whether an error affects only one record.
fn is_of_record(error: &Error) -> bool {
    let is_of_record = matches!(
        error.kind(),
        ErrorKind::Decode { .. }
            | ErrorKind::Newer { .. }
            | ErrorKind::TooOld { .. }
            | ErrorKind::Encode { .. }
            | ErrorKind::KeyChanged
            | ErrorKind::NotUnique { .. }
            | ErrorKind::TooLarge { .. }
    );
    is_of_record && error.outcome() == Outcome::NotApplied
}

/// Checks that the bucket takes the TTL of a record, which keeps the rest of its life.
fn check_ttl_support(ttl: Option<Ttl>, status: &BucketStatus) -> Result<()> {
    let config = &status.config;
    let takes_ttl = status.entry_ttl && matches!(config.history, None | Some(1)) && !config.takes_no_purge();
    if takes_ttl || ttl.is_none_or(Ttl::is_never) {
        return Ok(());
    }
    Err(Error::unsupported(
        "a bucket that takes the TTL of a single record (`history = 1` and `limit_markers`), to keep the rest of the life \
         of each record; or restart the life of each record that is written, with `.restart_ttl()`",
        format!("a record that expires, in bucket `{}` without such TTLs", config.name),
    ))
}
