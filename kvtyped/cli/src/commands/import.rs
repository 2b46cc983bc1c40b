//! `import`: writes the records of an export.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt;
use kvtyped::bucket::{BucketStatus, RawWrite};
use kvtyped::config::BucketConfig;
use kvtyped::{Bucket, ErrorKind, Key, RawRecord, Read, Revision};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::time::Instant;

use crate::app::{App, Target};
use crate::confirm;
use crate::fail::{Code, Done, Failure};
use crate::json::object;
use crate::out::Item;
use crate::transfer::input::{self, Input};
use crate::transfer::line::{Imported, Line};
use crate::transfer::resume::ResumeFile;
use crate::writing::WriteOptions;

/// The number of lines that are written before the position is stored.
const WINDOW: usize = 1_024;

/// The number of writes in flight.
const IN_FLIGHT: usize = 256;

/// The arguments of `import`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bucket. It is created with the settings of the export if it does not exist
    bucket: String,
    /// The export. By default stdin
    file: Option<PathBuf>,
    /// What to do about a record that exists with another value
    #[arg(long, value_enum, default_value_t, value_name = "ACTION")]
    on_conflict: OnConflict,
    /// Store the position in a file, and continue there if the file exists
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Import an export that has no end line, because it was cut off
    #[arg(long)]
    partial: bool,
    /// Count the remaining TTLs from now on, instead of from the export
    #[arg(long)]
    ttl_as_exported: bool,
    #[command(flatten)]
    options: WriteOptions,
}

/// What to do about a record that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum OnConflict {
    /// Report it, and end after the current lines
    #[default]
    Fail,
    /// Leave it
    Skip,
    /// Replace it
    Overwrite,
}

/// The numbers of lines with each result.
#[derive(Debug, Default)]
struct Counts {
    imported: u64,
    /// Records that exist with the same value.
    unchanged: u64,
    skipped: u64,
    conflicts: u64,
    expired: u64,
    refused: u64,
}

/// A line that may be written.
#[derive(Debug)]
struct Pending {
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

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let Input { reader, is_complete, size } = input::open(args.file.as_deref())?;
    if is_complete == Some(false) && !args.partial {
        return Err(
            Failure::data("the export has no end line, so it was cut off").hint("import what it has with `--partial`")
        );
    }
    let mut lines = BufReader::with_capacity(1 << 16, reader).lines();
    let header = header(&mut lines).await?;
    let resume = args.resume.as_ref().map(|path| ResumeFile::open(path, &header.text)).transpose()?;
    let Some(bucket) = open(app, &args, *header.config).await? else {
        return dry_run_of_new_bucket(app, lines, &args).await;
    };
    let mut import = Import {
        app,
        args: &args,
        status: bucket.status().await?,
        since: Instant::now(),
        bucket,
        counts: Counts::default(),
        written: HashSet::new(),
        worst: None,
    };
    if import.status.config.history.unwrap_or(1) != 1 {
        app.out.note("the bucket keeps more than one revision of each key, so records with a TTL are refused");
    }
    let bar = app.out.progress(size.unwrap_or_default(), "bytes imported");
    let (mut number, mut end, mut is_over) = (1, None, false);
    let done = resume.as_ref().map_or(0, ResumeFile::line);
    while !is_over && !import.must_stop() {
        let mut window = Vec::with_capacity(WINDOW);
        while window.len() < WINDOW {
            let Some(line) = lines.next_line().await? else {
                is_over = true;
                break;
            };
            number += 1;
            bar.inc(line.len() as u64 + 1);
            match Line::parse(&line) {
                _ if number <= done || line.trim().is_empty() => {}
                Ok(Line::Entry(entry)) => window.extend(import.plan(number, entry)),
                Ok(Line::End(records)) => end = Some(records),
                Ok(Line::Bucket(config)) => {
                    return Err(Failure::data(format!("line {number} begins another bucket, `{}`", config.name))
                        .hint("import one bucket at a time"));
                }
                Err(reason) => import.refuse(number, None, &reason),
            }
        }
        import.write(window).await?;
        if let Some(resume) = &resume
            && !import.must_stop()
        {
            resume.store(number)?;
        }
    }
    bar.finish_and_clear();
    if is_over && end.is_none() && !args.partial && done < number {
        import
            .worst
            .get_or_insert(Failure::data("the export has no end line, so it was cut off; its lines are imported"));
    }
    import.finish()
}

/// The first line of an export.
struct Header {
    text: String,
    config: Box<BucketConfig>,
}

async fn header<R: tokio::io::AsyncBufRead + Unpin>(lines: &mut Lines<R>) -> Result<Header, Failure> {
    let wrong = |reason: &str| Failure::data(format!("the first line is no header of an export: {reason}"));
    let text = lines.next_line().await?.ok_or_else(|| wrong("the input is empty"))?;
    match Line::parse(&text) {
        Ok(Line::Bucket(config)) => Ok(Header { text, config }),
        Ok(_) => Err(wrong("its type is not `bucket`")),
        Err(reason) => Err(wrong(&reason)),
    }
}

/// Opens or creates the bucket. Returns `None` in a dry run whose bucket does not exist.
async fn open(app: &App, args: &Args, settings: BucketConfig) -> Result<Option<Bucket<RawRecord>>, Failure> {
    let target = match args.options.dry_run {
        true => app.target().await?,
        false => app.store_to_write(&args.bucket).await?,
    };
    let found = match target.store.raw(&args.bucket).await {
        Ok(found) => Some(found),
        Err(error) if matches!(error.kind(), ErrorKind::BucketNotFound) => None,
        Err(error) => return Err(error.into()),
    };
    match found {
        Some(bucket) => {
            check_existing(app, args, target, &bucket).await?;
            Ok(Some(bucket))
        }
        None if args.options.dry_run => Ok(None),
        None => {
            app.out.note(&format!("bucket `{}` is created with the settings of the export", args.bucket));
            Ok(Some(target.store.raw(&args.bucket).create_like(&settings).await?))
        }
    }
}

async fn check_existing(app: &App, args: &Args, target: &Target, bucket: &Bucket<RawRecord>) -> Result<(), Failure> {
    crate::app::WriteView::open(target, bucket.name(), args.options.allow_unindexed).await?;
    if args.on_conflict != OnConflict::Overwrite
        || args.options.dry_run
        || args.resume.as_ref().is_some_and(|file| file.exists())
    {
        return Ok(());
    }
    match bucket.count(..).await? {
        0 => Ok(()),
        count => {
            let what = format!("This may overwrite the {count} records of bucket `{}`", bucket.name());
            confirm::count(app, &what, count).await
        }
    }
}

/// Checks the lines of an export for a bucket that does not exist.
async fn dry_run_of_new_bucket<R: tokio::io::AsyncBufRead + Unpin>(
    app: &App,
    mut lines: Lines<R>,
    args: &Args,
) -> Done {
    let (mut number, mut records, mut refused) = (1, 0u64, 0u64);
    while let Some(line) = lines.next_line().await? {
        number += 1;
        match Line::parse(&line) {
            Ok(Line::Entry(_)) => records += 1,
            Ok(_) => {}
            Err(reason) => {
                refused += 1;
                app.out.warn(&format!("line {number}: {reason}"));
            }
        }
    }
    app.out.note(&format!("bucket `{}` would be created, and {records} records imported", args.bucket));
    Ok(if refused == 0 { Code::Success } else { Code::Data })
}

/// The state of an import.
struct Import<'a> {
    app: &'a App,
    args: &'a Args,
    bucket: Bucket<RawRecord>,
    status: BucketStatus,
    /// When `status` was read.
    since: Instant,
    counts: Counts,
    /// The hashes of the keys that this import wrote, because an export may contain a key twice.
    written: HashSet<u64>,
    worst: Option<Failure>,
}

impl Import<'_> {
    /// Whether the import ends early.
    fn must_stop(&self) -> bool {
        self.counts.conflicts > 0 && self.args.on_conflict == OnConflict::Fail && !self.args.options.dry_run
            || self.worst.as_ref().is_some_and(|failure| failure.code != Code::Data)
    }

    fn refuse(&mut self, number: u64, key: Option<&Key>, reason: &str) {
        self.counts.refused += 1;
        let key = key.map_or_else(String::new, |key| format!(" (`{key}`)"));
        self.app.out.warn(&format!("line {number}{key}: {reason}"));
        self.worst.get_or_insert_with(|| Failure::data("some lines were refused"));
    }

    /// Returns the write of a line. Reports a line that is refused or expired.
    fn plan(&mut self, number: u64, entry: Imported) -> Option<Pending> {
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
        let now = (!self.args.ttl_as_exported).then(|| self.status.now + self.since.elapsed());
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
            () if entry.ttl.is_some() => {
                Err("it has a TTL, and the bucket needs limit markers and `history` 1 for that")
            }
            () => Ok(None),
        }
    }

    /// Writes the lines of a window.
    async fn write(&mut self, window: Vec<Pending>) -> Result<(), Failure> {
        // Of several lines of one key, the last one is the newest.
        let mut seen = HashSet::new();
        let mut window: Vec<_> = window.into_iter().rev().filter(|line| seen.insert(line.key.clone())).collect();
        window.reverse();
        let outcomes: Vec<(&Pending, Outcome)> = {
            let this = &*self;
            futures::stream::iter(&window)
                .map(|line| async move { (line, this.write_line(line).await) })
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
                Outcome::Exists => match self.args.on_conflict {
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

    async fn write_line(&self, line: &Pending) -> Outcome {
        let dry_run = self.args.options.dry_run;
        let is_ours = self.written.contains(&hash(&line.key));
        let result = match self.args.on_conflict {
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
        Ok(stored.map(|stored| {
            let is_same = stored.bytes == line.imported.record.bytes && *stored.headers() == line.imported.headers;
            if is_same { Outcome::Unchanged } else { Outcome::Exists }
        }))
    }

    /// Prints the counts.
    fn finish(self) -> Done {
        let Counts { imported, unchanged, skipped, conflicts, expired, refused } = self.counts;
        let json = object! {
            "v" => 1u8,
            "type" => "imported",
            "bucket" => self.bucket.name(),
            "imported" => imported,
            "unchanged" => unchanged,
            "skipped" => skipped,
            "conflicts" => conflicts,
            "expired" => expired,
            "refused" => refused,
            "dry_run" => self.args.options.dry_run.then_some(true),
        };
        let cells = [imported, unchanged, skipped, conflicts, expired, refused].map(|count| count.to_string());
        let columns = ["IMPORTED", "UNCHANGED", "SKIPPED", "CONFLICTS", "EXPIRED", "REFUSED"];
        self.app.out.one(&columns, &Item::new(json).cells(cells).name(self.bucket.name()))?;
        self.app.out.note("revisions are not kept: the records have new ones");
        match self.worst {
            Some(failure) => Err(failure),
            None => Ok(Code::Success),
        }
    }
}

fn hash(key: &Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
