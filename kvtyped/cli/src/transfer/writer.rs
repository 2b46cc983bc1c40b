//! Writes the records of an export to a bucket.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use futures::StreamExt;
use kvtyped::bucket::{BucketStatus, RawWrite};
use kvtyped::{Bucket, Entry, ErrorKind, Key, RawRecord, Read, Revision};
use tokio::time::Instant;

use super::counts::Counts;
use super::line::Imported;
use crate::app::App;
use crate::fail::{Code, Done, Failure};

/// The number of writes in flight.
const IN_FLIGHT: usize = 256;

/// The largest difference between two expiry times that count as equal, because a TTL is in whole seconds.
const SAME_END: Duration = Duration::from_secs(2);

/// What to do about a record that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum OnConflict {
    /// Report it, and end after the current lines
    #[default]
    Fail,
    /// Leave it
    Skip,
    /// Replace it, unless the value, the headers and the end of its TTL are the same
    Overwrite,
}

/// A line that may be written.
#[derive(Debug)]
pub(crate) struct Pending {
    number: u64,
    key: Key,
    write: RawWrite,
    imported: Imported,
}

/// The outcome of one write.
enum Outcome {
    Imported,
    Unchanged,
    Exists,
    Failed(Box<kvtyped::Error>),
}

/// Writes the records of an export, and counts what became of them.
pub(crate) struct Writer<'a> {
    app: &'a App,
    on_conflict: OnConflict,
    /// Whether the remaining TTLs count from now on.
    ttl_as_exported: bool,
    dry_run: bool,
    bucket: Bucket<RawRecord>,
    status: BucketStatus,
    /// When `status` was read.
    since: Instant,
    counts: Counts,
    /// The hashes of the keys that this import wrote, because an export may contain a key twice.
    written: HashSet<u64>,
    worst: Option<Failure>,
}

impl<'a> Writer<'a> {
    pub(crate) async fn new(
        app: &'a App,
        bucket: Bucket<RawRecord>,
        on_conflict: OnConflict,
        ttl_as_exported: bool,
        dry_run: bool,
    ) -> Result<Self, Failure> {
        let (status, since) = (bucket.status().await?, Instant::now());
        if status.config.history.unwrap_or(1) != 1 {
            app.out.note("the bucket keeps more than one revision of each key, so records with a TTL are refused");
        }
        let (counts, written, worst) = (Counts::default(), HashSet::new(), None);
        Ok(Self { app, on_conflict, ttl_as_exported, dry_run, bucket, status, since, counts, written, worst })
    }

    /// Whether the import ends early.
    pub(crate) fn must_stop(&self) -> bool {
        self.counts.conflicts > 0 && self.on_conflict == OnConflict::Fail && !self.dry_run
            || self.worst.as_ref().is_some_and(|failure| failure.code != Code::Data)
    }

    pub(crate) fn refuse(&mut self, number: u64, key: Option<&Key>, reason: &str) {
        self.counts.refused += 1;
        let key = key.map_or_else(String::new, |key| format!(" (`{key}`)"));
        self.app.out.warn(&format!("line {number}{key}: {reason}"));
        self.worst.get_or_insert_with(|| Failure::data("some lines were refused"));
    }

    /// Returns the write of a line. Reports a line that is refused or expired.
    pub(crate) fn plan(&mut self, number: u64, entry: Imported) -> Option<Pending> {
        let key = entry.record.key.clone();
        match self.ttl(&entry) {
            Ok(Some(left)) if left.is_zero() => {
                self.counts.expired += 1;
                None
            }
            Ok(ttl) => Some(Pending { number, key, write: entry.clone().write(ttl), imported: entry }),
            Err(reason) => {
                self.refuse(number, Some(&key), reason);
                None
            }
        }
    }

    /// Returns the TTL of a record in this bucket. Zero if the record is expired, or about to.
    fn ttl(&self, entry: &Imported) -> Result<Option<Duration>, &'static str> {
        let now = (!self.ttl_as_exported).then(|| self.status.now + self.since.elapsed());
        let config = &self.status.config;
        if entry.never_expires && config.ttl.is_some() {
            return Err("it is exempt from the TTL of its bucket, which the tool cannot write");
        }
        let Some(left) = entry.remaining(now) else { return Ok(None) };
        match () {
            () if left.is_zero() => Ok(Some(left)),
            // The TTL of the bucket is shorter.
            () if config.ttl.is_some_and(|ttl| ttl <= left) => Ok(None),
            () if self.status.entry_ttl && config.history.unwrap_or(1) == 1 => Ok(Some(left)),
            () if entry.ttl.is_none() && config.ttl.is_some() => Ok(None),
            () => Err("it expires, and the bucket needs limit markers (nats-server 2.11) and `history` 1 for that"),
        }
    }

    /// Writes the lines of a window.
    pub(crate) async fn write(&mut self, window: Vec<Pending>) -> Result<(), Failure> {
        // Of several lines of one key, the last one is the newest.
        let mut seen = HashSet::new();
        let mut window: Vec<_> = window.into_iter().rev().filter(|line| seen.insert(line.key.clone())).collect();
        window.reverse();
        let stored = match self.stored(&window).await {
            Ok(stored) => stored,
            Err(error) => {
                self.worst = Some(error.into());
                return Ok(());
            }
        };
        let outcomes: Vec<(&Pending, Outcome)> = {
            let (this, stored) = (&*self, &stored);
            futures::stream::iter(&window)
                .map(|line| async move { (line, this.write_line(line, stored.get(&line.key)).await) })
                .buffered(IN_FLIGHT)
                .collect()
                .await
        };
        let mut errors = Vec::new();
        for (line, outcome) in outcomes {
            match outcome {
                Outcome::Imported => {
                    self.counts.imported += 1;
                    self.written.insert(hash(&line.key));
                }
                Outcome::Unchanged => self.counts.unchanged += 1,
                Outcome::Exists => match self.on_conflict {
                    OnConflict::Skip => self.counts.skipped += 1,
                    _ => {
                        self.counts.conflicts += 1;
                        self.app
                            .out
                            .warn(&format!("line {}: record `{}` exists with another value", line.number, line.key));
                        self.worst.get_or_insert_with(|| {
                            Failure::conflict("records exist with other values")
                                .hint("use `--on-conflict skip` or `--on-conflict overwrite`")
                        });
                    }
                },
                Outcome::Failed(error) => errors.push((line.number, line.key.clone(), error)),
            }
        }
        for (number, key, error) in errors {
            let reason = error.to_string();
            let failure = Failure::from(*error);
            match failure.code {
                Code::Data | Code::Usage => self.refuse(number, Some(&key), &reason),
                _ => {
                    self.app.out.warn(&format!("line {number} (`{key}`): {reason}"));
                    self.worst = Some(failure);
                }
            }
        }
        Ok(())
    }

    /// Reads the records that the lines may overwrite.
    async fn stored(&self, window: &[Pending]) -> kvtyped::Result<HashMap<Key, Entry<RawRecord>>> {
        if self.on_conflict != OnConflict::Overwrite || window.is_empty() {
            return Ok(HashMap::new());
        }
        let found = self.bucket.get_many(window.iter().map(|line| &line.key)).read(Read::Leader).await?;
        Ok(found.into_iter().flatten().map(|entry| (entry.key().clone(), entry)).collect())
    }

    async fn write_line(&self, line: &Pending, stored: Option<&Entry<RawRecord>>) -> Outcome {
        let dry_run = self.dry_run;
        let is_ours = self.written.contains(&hash(&line.key));
        let result = match self.on_conflict {
            OnConflict::Overwrite if stored.is_some_and(|stored| self.is_equal(line, stored)) => {
                return Outcome::Unchanged;
            }
            OnConflict::Overwrite if dry_run => return Outcome::Imported,
            OnConflict::Overwrite => self.overwrite(line).await.map(|()| Outcome::Imported),
            _ if is_ours && !dry_run => self.overwrite(line).await.map(|()| Outcome::Imported),
            _ if dry_run => self.compare(line).await.map(|found| found.unwrap_or(Outcome::Imported)),
            _ => match self.create(line).await {
                Ok(_) => Ok(Outcome::Imported),
                Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists) => {
                    // A record that was removed since counts as a conflict: a repetition imports it.
                    self.compare(line).await.map(|found| found.unwrap_or(Outcome::Exists))
                }
                Err(error) => Err(error),
            },
        };
        result.unwrap_or_else(|error| Outcome::Failed(Box::new(error)))
    }

    async fn overwrite(&self, line: &Pending) -> kvtyped::Result<()> {
        self.bucket.write_many([line.write.clone()]).await.map(|_| ())
    }

    async fn create(&self, line: &Pending) -> kvtyped::Result<Revision> {
        let (record, headers) = (&line.imported.record, line.imported.headers.clone());
        let create = self.bucket.create(record).headers(headers);
        match self.ttl(&line.imported).ok().flatten().filter(|ttl| !ttl.is_zero()) {
            Some(ttl) => create.ttl(ttl).await,
            None => create.await,
        }
    }

    /// Compares a line with the stored record. Returns `None` if the key has no record.
    async fn compare(&self, line: &Pending) -> kvtyped::Result<Option<Outcome>> {
        let stored = self.bucket.get(&line.key).read(Read::Leader).await?;
        Ok(stored.map(|stored| if is_same(line, &stored) { Outcome::Unchanged } else { Outcome::Exists }))
    }

    /// Returns whether the record already has the value, the headers and the expiry time of the line.
    fn is_equal(&self, line: &Pending, stored: &Entry<RawRecord>) -> bool {
        let ends_alike = match self.ttl(&line.imported) {
            Ok(Some(left)) => stored.remaining().is_some_and(|remaining| remaining.abs_diff(left) <= SAME_END),
            // The record has no TTL, or only that of the bucket.
            Ok(None) => stored.ttl().is_none_or(|ttl| ttl.is_never() && self.status.config.ttl.is_none()),
            Err(_) => false,
        };
        ends_alike && is_same(line, stored)
    }

    /// Ends an import whose input ended early.
    pub(crate) fn incomplete(&mut self, reason: &str) {
        if self.worst.as_ref().is_some_and(|failure| failure.code != Code::Data) {
            return;
        }
        let Counts { imported, unchanged, .. } = self.counts;
        let verb = if self.dry_run { "would be imported" } else { "imported" };
        let reason = format!("{reason}; {verb}: {imported}, unchanged: {unchanged}");
        self.worst = Some(Failure::data(reason).hint(
            "import the whole export again: records that are imported already stay unchanged. `--partial` accepts an export \
             that was cut off",
        ));
    }

    /// Prints the counts.
    pub(crate) fn finish(self) -> Done {
        self.counts.print(self.app, self.bucket.name(), self.dry_run)?;
        self.app.out.note("revisions are not kept: the records have new ones");
        match self.worst {
            Some(failure) => Err(failure),
            None => Ok(Code::Success),
        }
    }
}

/// Whether a record has the value and the headers of a line.
fn is_same(line: &Pending, stored: &Entry<RawRecord>) -> bool {
    stored.bytes == line.imported.record.bytes && *stored.headers() == line.imported.headers
}

fn hash(key: &Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
