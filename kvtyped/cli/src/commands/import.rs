//! `import`: writes the records of an export.

use std::path::PathBuf;

use kvtyped::config::BucketConfig;
use kvtyped::{Bucket, ErrorKind, RawRecord};

use crate::app::{App, Target, WriteView};
use crate::confirm;
use crate::fail::{Code, Done, Failure};
use crate::out::Unit;
use crate::transfer::counts::Counts;
use crate::transfer::input::{self, Input, Lines};
use crate::transfer::line::{Imported, Line};
use crate::transfer::resume::{ResumeFile, identity};
use crate::transfer::writer::{OnConflict, Writer};
use crate::writing::WriteOptions;

/// The number of lines that are written before the position is stored.
const WINDOW: usize = 1_024;

/// The arguments of `import`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bucket. It is created with the settings of the export if it does not exist
    bucket: String,
    /// The export. By default, or as `-`, stdin
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

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let Input { mut lines, is_complete, size } = input::open(app, args.file.as_deref())?;
    if is_complete == Some(false) && !args.partial {
        return Err(Failure::data("the export has no end line, so it was cut off; nothing was imported")
            .hint("import what it has with `--partial`"));
    }
    let header = header(&mut lines).await?;
    let Some(bucket) = open(app, &args, *header.config).await? else {
        return dry_run_of_new_bucket(app, lines, &args).await;
    };
    let resume = match &args.resume {
        Some(path) => {
            let target = identity(&app.target().await?.url, bucket.status().await?.created);
            Some(ResumeFile::open(path, &header.text, target)?)
        }
        None => None,
    };
    let mut writer = Writer::new(app, bucket, args.on_conflict, args.ttl_as_exported, args.options.dry_run).await?;
    let bar = app.out.progress(size.unwrap_or_default(), "imported", Unit::Bytes);
    let (mut lines_seen, mut is_over) = (Seen::default(), false);
    let done = resume.as_ref().map_or(0, ResumeFile::line);
    while !is_over && !writer.must_stop() {
        let mut window = Vec::with_capacity(WINDOW);
        while window.len() < WINDOW {
            let Some(line) = lines.next().await? else {
                is_over = true;
                break;
            };
            let number = lines.number();
            bar.set_position(lines.bytes());
            match lines_seen.parse(&lines, &line) {
                Some(_) if number <= done => {}
                Some(Ok(entry)) => window.extend(writer.plan(number, entry)),
                Some(Err(reason)) => writer.refuse(number, None, &reason),
                None => {}
            }
            if let Some(bucket) = &lines_seen.next_bucket {
                return Err(Failure::data(format!("line {number} starts another bucket, `{bucket}`"))
                    .hint("import one bucket at a time"));
            }
        }
        writer.write(window).await?;
        if let Some(resume) = &resume
            && !writer.must_stop()
        {
            // If the last line is cut off, a resumed import reads that line again.
            resume.store(lines.number() - u64::from(lines_seen.cut.is_some()))?;
        }
    }
    bar.finish_and_clear();
    if is_over && let Some(reason) = lines_seen.incomplete(lines.number()) {
        match args.partial {
            true => app.out.warn(&reason),
            false => writer.incomplete(&reason),
        }
    }
    writer.finish()
}

/// The lines of an export so far.
#[derive(Debug, Default)]
struct Seen {
    /// The number of lines of records.
    entries: u64,
    /// The number of records in the end line.
    end: Option<u64>,
    /// The number of the line that is cut off.
    cut: Option<u64>,
    /// The name in a second header.
    next_bucket: Option<String>,
}

impl Seen {
    /// Parses the last line. Returns a record, or the reason why the line is invalid.
    fn parse(&mut self, lines: &Lines, line: &[u8]) -> Option<Result<Imported, String>> {
        if line.trim_ascii().is_empty() {
            return None;
        }
        let parsed = Line::parse(line);
        match parsed {
            Ok(Line::End(records)) => {
                self.end = Some(records);
                return None;
            }
            Ok(Line::Bucket(config)) => {
                self.next_bucket = Some(config.name);
                return None;
            }
            Err(_) if lines.is_cut() && self.end.is_none() => {
                self.cut = Some(lines.number());
                return None;
            }
            _ => {}
        }
        self.entries += 1;
        Some(match parsed {
            Ok(Line::Entry(entry)) => Ok(entry),
            Err(reason) => Err(reason),
            Ok(_) => return None,
        })
    }

    /// Returns what is missing at the end of the input. `last` is the number of its last line.
    fn incomplete(&self, last: u64) -> Option<String> {
        match (self.end, self.cut) {
            (Some(records), _) if self.entries < records => {
                Some(format!("the export has {} of {records} records", self.entries))
            }
            (Some(_), _) => None,
            (None, Some(line)) => Some(format!("the export is cut off in line {line}")),
            (None, None) => Some(format!("the export is cut off after line {last}: it has no end line")),
        }
    }
}

/// The first line of an export.
struct Header {
    text: Vec<u8>,
    config: Box<BucketConfig>,
}

async fn header(lines: &mut Lines) -> Result<Header, Failure> {
    let wrong = |reason: &str| Failure::data(format!("the first line is no header of an export: {reason}"));
    let text = lines.next().await?.ok_or_else(|| wrong("the input is empty"))?;
    match Line::parse(&text) {
        Err(_) if lines.is_cut() => Err(Failure::data("the export is cut off in line 1; nothing was imported")),
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
    WriteView::open(target, bucket.name(), args.options.allow_unindexed).await?;
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
async fn dry_run_of_new_bucket(app: &App, mut lines: Lines, args: &Args) -> Done {
    let (mut counts, mut seen) = (Counts::default(), Seen::default());
    while let Some(line) = lines.next().await? {
        match seen.parse(&lines, &line) {
            Some(Ok(_)) => counts.imported += 1,
            Some(Err(reason)) => {
                counts.refused += 1;
                app.out.warn(&format!("line {}: {reason}", lines.number()));
            }
            None => {}
        }
    }
    app.out.note(&format!("bucket `{}` would be created with the settings of the export", args.bucket));
    counts.print(app, &args.bucket, true)?;
    match seen.incomplete(lines.number()).filter(|_| !args.partial) {
        Some(reason) => Err(Failure::data(reason)),
        None if counts.refused == 0 => Ok(Code::Success),
        None => Ok(Code::Data),
    }
}
