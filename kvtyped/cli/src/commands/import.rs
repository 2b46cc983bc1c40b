//! `import`: writes the records of an export.

use std::path::PathBuf;

use kvtyped::config::BucketConfig;
use kvtyped::{Bucket, ErrorKind, RawRecord};

use crate::app::{App, Target, WriteView};
use crate::confirm;
use crate::fail::{Code, Done, Failure};
use crate::out::Unit;
use crate::transfer::input::{self, Input, Lines};
use crate::transfer::line::Line;
use crate::transfer::resume::ResumeFile;
use crate::transfer::writer::{Counts, OnConflict, Writer};
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
        return Err(
            Failure::data("the export has no end line, so it was cut off").hint("import what it has with `--partial`")
        );
    }
    let header = header(&mut lines).await?;
    let resume = args.resume.as_ref().map(|path| ResumeFile::open(path, &header.text)).transpose()?;
    let Some(bucket) = open(app, &args, *header.config).await? else {
        return dry_run_of_new_bucket(app, lines, &args.bucket).await;
    };
    let mut writer = Writer::new(app, bucket, args.on_conflict, args.ttl_as_exported, args.options.dry_run).await?;
    let bar = app.out.progress(size.unwrap_or_default(), "imported", Unit::Bytes);
    let (mut end, mut entries, mut is_over) = (None, 0u64, false);
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
            match Line::parse(&line) {
                _ if number <= done || line.trim_ascii().is_empty() => {}
                Ok(Line::Entry(entry)) => window.extend(writer.plan(number, entry)),
                Ok(Line::End(records)) => end = Some(records),
                Ok(Line::Bucket(config)) => {
                    return Err(Failure::data(format!("line {number} begins another bucket, `{}`", config.name))
                        .hint("import one bucket at a time"));
                }
                Err(reason) => writer.refuse(number, None, &reason),
            }
            entries += u64::from(end.is_none());
        }
        writer.write(window).await?;
        if let Some(resume) = &resume
            && !writer.must_stop()
        {
            resume.store(lines.number())?;
        }
    }
    bar.finish_and_clear();
    let must_be_whole = is_over && !args.partial && done < lines.number();
    match end {
        None if must_be_whole => writer.fail("the export has no end line, so it was cut off; its lines are imported"),
        Some(records) if must_be_whole && entries < records => {
            writer.fail(&format!("the export has {entries} of {records} records; its lines are imported"));
        }
        _ => {}
    }
    writer.finish()
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
async fn dry_run_of_new_bucket(app: &App, mut lines: Lines, bucket: &str) -> Done {
    let mut counts = Counts::default();
    while let Some(line) = lines.next().await? {
        match Line::parse(&line) {
            Ok(Line::Entry(_)) => counts.imported += 1,
            Ok(_) => {}
            Err(reason) => {
                counts.refused += 1;
                app.out.warn(&format!("line {}: {reason}", lines.number()));
            }
        }
    }
    app.out.note(&format!("bucket `{bucket}` would be created with the settings of the export"));
    counts.print(app, bucket, true)?;
    Ok(if counts.refused == 0 { Code::Success } else { Code::Data })
}
