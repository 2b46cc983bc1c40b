//! `copy`: copies a bucket to another store.

use std::path::{Path, PathBuf};

use futures::{FutureExt, StreamExt};
use kvtyped::ErrorKind;
use kvtyped::bucket::{Cursor, copy_bucket};

use crate::address::Address;
use crate::app::{App, Target, View};
use crate::commands::diff::compare;
use crate::confirm;
use crate::fail::{Code, Done, Failure};
use crate::json::{Json, object};
use crate::out::{Item, Unit};
use crate::transfer::resume::{identity, of_another_target, replace};

/// The arguments of `copy`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bucket to copy: BUCKET, @CONTEXT/BUCKET or URL/BUCKET
    from: String,
    /// The target: BUCKET, @CONTEXT/BUCKET or URL/BUCKET. It is created like the source if it does not exist
    to: String,
    /// Also copy the records of locks and other recipes
    #[arg(long)]
    reserved: bool,
    /// Store the position in a file, and continue there if the file exists
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Continue to copy changes until the tool is interrupted
    #[arg(long)]
    follow: bool,
    /// Compare the two buckets afterwards. Exit code 1 if they differ
    #[arg(long, conflicts_with = "follow")]
    verify: bool,
    /// Only print what would be copied
    #[arg(long)]
    dry_run: bool,
}

/// The totals of a copy.
#[derive(Debug, Default)]
struct Totals {
    records: u64,
    removed: u64,
    expiring: u64,
    unreadable: u64,
}

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let (from, to) = (Address::parse(&args.from)?, Address::parse(&args.to)?);
    let source = app.view_of(&from).await?;
    if args.dry_run {
        let count = source.bucket.count(..).await?;
        app.out.note(&format!("{count} records of bucket `{}` would be copied to `{}`", source.name(), to.bucket));
        let totals = Totals { records: count, ..Totals::default() };
        totals.print(app, &to.bucket, true)?;
        return Ok(Code::Success);
    }
    let target = app.target_of_to_write(&to).await?;
    let mut cursor = match args.resume.as_deref() {
        Some(file) => stored_cursor(file, created(&target, &to.bucket).await?)?,
        None => None,
    };
    if cursor.is_none() {
        confirm_overwrite(app, &target, &to.bucket).await?;
    }
    if !source.models.indexed().is_empty() {
        app.out.warn("index entries are not copied; build the indexes of the copy with a program of the model");
    }
    // Before the copy, so that no change is missed.
    let mut changes = match args.follow {
        true => Some(watch(&source, args.reserved).await?),
        false => None,
    };
    let mut totals = Totals::default();
    loop {
        let done = copy(app, &source, &target, &to.bucket, &args, cursor).await?;
        totals.add(&done);
        cursor = Some(done.cursor);
        let Some(changes) = &mut changes else { break };
        app.out.flush()?;
        // One copy for all changes that have arrived.
        if let Some(event) = changes.next().await {
            event?;
        }
        while let Some(Some(event)) = changes.next().now_or_never() {
            event?;
        }
    }
    totals.print(app, &to.bucket, false)?;
    match args.verify {
        true => verify(app, &source, &target, &to.bucket, args.reserved).await,
        false => Ok(Code::Success),
    }
}

async fn watch(source: &View, reserved: bool) -> Result<kvtyped::watch::Events<kvtyped::RawRecord>, Failure> {
    let watch = source.bucket.watch(..).updates_only().headers_only();
    Ok(if reserved { watch.include_reserved() } else { watch }.await?)
}

async fn copy(
    app: &App,
    source: &View,
    target: &Target,
    name: &str,
    args: &Args,
    cursor: Option<Cursor>,
) -> Result<kvtyped::bucket::Copied, Failure> {
    let bar = app.out.progress(source.status.values, "copied", Unit::Records);
    let mut failed = None;
    let known = match &args.resume {
        Some(_) => created(target, name).await?,
        None => None,
    };
    let copied = {
        let copy = copy_bucket(&source.bucket, &target.store).name(name).on_progress(|progress| {
            bar.set_length(progress.records + progress.remaining);
            bar.set_position(progress.records);
            if let Some(file) = &args.resume
                && let Err(failure) = store_cursor(file, progress.cursor, known)
            {
                failed = Some(failure);
            }
        });
        let copy = if args.reserved { copy.include_reserved() } else { copy };
        match cursor {
            Some(cursor) => copy.resume(cursor).await,
            None => copy.await,
        }
    };
    bar.finish_and_clear();
    let copied = copied?;
    if let Some(failure) = failed {
        return Err(failure);
    }
    if let Some(file) = &args.resume {
        store_cursor(file, copied.cursor, created(target, name).await?)?;
    }
    Ok(copied)
}

/// Asks before a copy replaces records of a bucket that exists.
async fn confirm_overwrite(app: &App, target: &Target, name: &str) -> Result<(), Failure> {
    let bucket = match target.store.raw(name).read_only().await {
        Ok(bucket) => bucket,
        Err(error) if matches!(error.kind(), ErrorKind::BucketNotFound) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    match bucket.count(..).await? {
        0 => Ok(()),
        count => {
            let what = format!("This may overwrite the {count} records of bucket `{name}` in {}", target.url);
            confirm::count(app, &what, count).await
        }
    }
}

/// Returns the identity of the target, if it exists.
async fn created(target: &Target, name: &str) -> Result<Option<u64>, Failure> {
    match target.store.raw(name).read_only().await {
        Ok(bucket) => Ok(Some(identity(&target.url, bucket.status().await?.created))),
        Err(error) if matches!(error.kind(), ErrorKind::BucketNotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads the position of an earlier copy to this target. `None` if the file does not exist.
fn stored_cursor(file: &Path, target: Option<u64>) -> Result<Option<Cursor>, Failure> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let json = Json::parse(&text).ok();
    let cursor = json.as_ref().and_then(|json| json.get("cursor")).and_then(Json::text);
    // The copy that created the target may have ended before it stored the identity.
    let stored = json.as_ref().and_then(|json| json.get("target")).and_then(Json::unsigned).or(target);
    match cursor {
        Some(_) if target.is_none() || stored != target => Err(of_another_target(file)),
        Some(cursor) => Ok(Some(cursor.parse()?)),
        None => Err(Failure::usage(format!("`{}` is not the position of a copy", file.display()))),
    }
}

fn store_cursor(file: &Path, cursor: Cursor, target: Option<u64>) -> Result<(), Failure> {
    replace(file, &object! { "v" => 1u8, "cursor" => cursor.to_string(), "target" => target }.line())
}

async fn verify(app: &App, source: &View, target: &Target, name: &str, reserved: bool) -> Done {
    let copy = View::open(&target.store, name).await?;
    let differences = compare(source, &copy, reserved).await?;
    for difference in &differences {
        app.out.warn(&format!("`{}` differs: {}", difference.key, difference.what));
    }
    if differences.is_empty() {
        app.out.note("the records of the two buckets are equal; their TTLs are not compared");
        return Ok(Code::Success);
    }
    Ok(Code::No)
}

impl Totals {
    fn add(&mut self, copied: &kvtyped::bucket::Copied) {
        self.records += copied.records;
        self.removed += copied.removed;
        self.expiring += copied.expiring;
        self.unreadable += copied.unreadable;
    }

    fn print(&self, app: &App, name: &str, dry_run: bool) -> Result<(), Failure> {
        let Self { records, removed, expiring, unreadable } = self;
        let json = object! {
            "v" => 1u8,
            "type" => "copied",
            "bucket" => name,
            "records" => *records,
            "removed" => *removed,
            "expiring" => *expiring,
            "unreadable" => *unreadable,
            "dry_run" => dry_run.then_some(true),
        };
        let cells = [records, removed, expiring, unreadable].map(|count| count.to_string());
        app.out.one(&["RECORDS", "REMOVED", "EXPIRING", "UNREADABLE"], &Item::new(json).cells(cells).name(name))
    }
}
