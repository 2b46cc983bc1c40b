//! `rm`: removes records.

use std::collections::BTreeMap;

use futures::StreamExt;
use kvtyped::{Key, Read, Revision};

use crate::app::{App, WriteView};
use crate::commands::{filter, is_filter, key, no_record};
use crate::condition::Where;
use crate::confirm;
use crate::entry::Shown;
use crate::fail::{Code, Done, Failure};
use crate::json::object;
use crate::out::{Item, Unit};
use crate::readable::Readable;
use crate::writing::{self, WriteOptions};

/// How many keys the question shows.
const SHOWN: usize = 5;

/// How many records are removed at once.
const WINDOW: usize = 256;

/// The arguments of `rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bucket
    bucket: String,
    /// Keys, or filters such as `acme.*`. More than one record needs a confirmation
    #[arg(required = true, value_name = "KEY|FILTER")]
    keys: Vec<String>,
    /// Also remove the history of the keys
    #[arg(long)]
    purge: bool,
    /// Remove only if the record has this revision
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    #[command(flatten)]
    conditions: Where,
    #[command(flatten)]
    options: WriteOptions,
}

/// The records to remove.
#[derive(Default)]
struct Found<'a> {
    /// The keys. With conditions, each key has the revision that was checked.
    keys: BTreeMap<Key, Option<Revision>>,
    /// The arguments that name absent keys.
    absent: Vec<&'a String>,
    /// Whether a record could not be checked.
    is_unreadable: bool,
}

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let view = writing::open(app, &args.bucket, args.options).await?;
    if let [single] = args.keys.as_slice()
        && !is_filter(single)
        && args.conditions.is_empty()
    {
        return one(app, &view, key(single)?, &args).await;
    }
    if args.if_revision.is_some() {
        return Err(Failure::usage("`--if-revision` is for one key"));
    }
    let Found { keys, absent, is_unreadable } = found(app, &view, &args).await?;
    for key in &absent {
        app.out.warn(&format!("the bucket has no record `{key}`"));
    }
    if keys.is_empty() {
        app.out.note("no record matches");
        return Ok(if is_unreadable { Code::Data } else { Code::NotFound });
    }
    let mut examples: Vec<_> = keys.keys().take(SHOWN).map(Key::as_str).collect();
    if keys.len() > SHOWN {
        examples.push("…");
    }
    let what = format!("This removes {} records of bucket `{}`: {}", keys.len(), view.name(), examples.join(", "));
    if args.options.dry_run {
        app.out.note(&format!("{what} (dry run)"));
        let code = finish(app, &view, keys.len() as u64, 0, true)?;
        return Ok(if is_unreadable { Code::Data } else { code });
    }
    if !view.is_production || keys.len() > 1 {
        confirm::count(app, &what, keys.len() as u64).await?;
    }
    let code = many(app, &view, keys, args.purge).await?;
    Ok(match (is_unreadable, absent.is_empty()) {
        (true, _) => Code::Data,
        (false, true) => code,
        (false, false) => Code::NotFound,
    })
}

async fn one(app: &App, view: &WriteView, key: Key, args: &Args) -> Done {
    let op = if args.purge { "purge" } else { "delete" };
    let stored = view.bucket.get(&key).read(Read::Leader).await?.ok_or_else(|| no_record(view.name(), &key))?;
    writing::check_revision(Some(&stored), args.if_revision)?;
    if args.options.dry_run {
        writing::report(app, view.name(), &key, (op, None), None)?;
        return Ok(Code::Success);
    }
    macro_rules! remove {
        ($removal:expr) => {
            match args.if_revision {
                Some(revision) => $removal.if_revision(revision.into()).await?,
                None => $removal.await?,
            }
        };
    }
    match args.purge {
        true => _ = remove!(view.bucket.purge(&key)),
        false => _ = remove!(view.bucket.delete(&key)),
    }
    let json = object! {
        "v" => 1u8,
        "type" => "removed",
        "bucket" => view.name(),
        "key" => key.as_str(),
        "op" => op,
        "revision" => stored.revision(),
    };
    let cells = [key.to_string(), op.to_owned(), stored.revision().to_string()];
    app.out.one(&["KEY", "OP", "REVISION"], &Item::new(json).cells(cells).name(key.as_str()))?;
    Ok(Code::Success)
}

/// Returns the records of the arguments, each once.
async fn found<'a>(app: &App, view: &WriteView, args: &'a Args) -> Result<Found<'a>, Failure> {
    let mut all = Found::default();
    for argument in &args.keys {
        match args.conditions.is_empty() {
            true => {
                let mut found = view.bucket.keys(filter(Some(argument))?).await?;
                while let Some(key) = found.next().await {
                    all.keys.insert(key?, None);
                }
            }
            false => {
                let mut found = Readable::new(app, view.bucket.list(filter(Some(argument))?).await?);
                while let Some(entry) = found.next().await? {
                    if found.selects(&args.conditions, &Shown::of_entry(view.name(), &view.models, &entry)) {
                        all.keys.insert(entry.key().clone(), Some(entry.revision()));
                    }
                }
                all.is_unreadable |= found.code() != Code::Success;
            }
        }
        let is_found = Key::new(argument).is_ok_and(|key| all.keys.contains_key(&key));
        if args.conditions.is_empty() && !is_filter(argument) && !is_found {
            all.absent.push(argument);
        }
    }
    Ok(all)
}

async fn many(app: &App, view: &WriteView, keys: BTreeMap<Key, Option<Revision>>, purge: bool) -> Done {
    let bar = app.out.progress(keys.len() as u64, "removed", Unit::Records);
    macro_rules! remove {
        ($removal:expr, $revision:expr) => {
            match $revision {
                Some(revision) => $removal.if_revision(revision).await.map(|_| ()),
                None => $removal.await.map(|_| ()),
            }
        };
    }
    let mut removals = futures::stream::iter(&keys)
        .map(|(key, revision)| async move {
            let removed = match purge {
                true => remove!(view.bucket.purge(key), *revision),
                false => remove!(view.bucket.delete(key), *revision),
            };
            (key, removed)
        })
        .buffer_unordered(WINDOW);
    let (mut removed, mut failed) = (0, 0);
    let mut last = None;
    while let Some((key, result)) = removals.next().await {
        bar.inc(1);
        match result {
            Ok(()) => removed += 1,
            Err(error) => {
                failed += 1;
                bar.suspend(|| app.out.warn(&format!("`{key}` is not removed: {error}")));
                last = Some(error);
            }
        }
    }
    bar.finish_and_clear();
    finish(app, view, removed, failed, false)?;
    match last {
        Some(error) => Err(Failure::from(error)),
        None => Ok(Code::Success),
    }
}

fn finish(app: &App, view: &WriteView, removed: u64, failed: u64, dry_run: bool) -> Done {
    let json = object! {
        "v" => 1u8,
        "type" => "removed",
        "bucket" => view.name(),
        "records" => removed,
        "failed" => failed,
        "dry_run" => dry_run.then_some(true),
    };
    app.out.one(
        &["REMOVED", "FAILED"],
        &Item::new(json).cells([removed.to_string(), failed.to_string()]).name(view.name()),
    )?;
    Ok(Code::Success)
}
