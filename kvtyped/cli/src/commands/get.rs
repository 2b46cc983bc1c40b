//! `get`: records with their metadata.

use kvtyped::{Read, Revision};

use crate::app::{App, View};
use crate::commands::{filter, is_filter, key, no_record, no_revision};
use crate::condition::Where;
use crate::entry::Shown;
use crate::escape::escape_lines;
use crate::fail::{Code, Done, Failure};
use crate::out::Item;
use crate::readable::Readable;

/// The arguments of `get`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bucket
    bucket: String,
    /// A key as `ls` prints it, or a filter such as `acme.*`
    #[arg(value_name = "KEY|FILTER")]
    key: String,
    /// Read this revision of the key
    #[arg(long, value_name = "REVISION", conflicts_with = "leader")]
    at: Option<u64>,
    /// Read from the leader of the bucket, which has every acknowledged write
    #[arg(long)]
    leader: bool,
    /// Print the stored bytes
    #[arg(long)]
    raw: bool,
    /// Decode values with a command that reads the bytes and writes JSON
    #[arg(long, value_name = "COMMAND")]
    decode_with: Option<String>,
    #[command(flatten)]
    conditions: Where,
}

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let view = app.view(&args.bucket).await?.decoded_with(args.decode_with.clone());
    match is_filter(&args.key) {
        true => many(app, &view, &args).await,
        false if !args.conditions.is_empty() => Err(Failure::usage("`--where` needs a filter and not a key")
            .hint("write a filter instead of the key, such as '>'")),
        false => one(app, &view, &args).await,
    }
}

async fn one(app: &App, view: &View, args: &Args) -> Done {
    let key = key(&args.key)?;
    let get = view.bucket.get(&key);
    let get = match (args.at, args.leader) {
        (Some(revision), _) => get.at(Revision::new(revision)),
        (None, true) => get.read(Read::Leader),
        (None, false) => get,
    };
    let entry = get.await?.ok_or_else(|| match args.at {
        Some(revision) => no_revision(view.name(), &key, revision),
        None => no_record(view.name(), &key),
    })?;
    let shown = Shown::of_entry(view.name(), &view.models, &entry);
    if args.raw {
        app.out.raw(&entry.bytes)?;
        return Ok(Code::Success);
    }
    app.out.one(&["KEY", "REVISION", "AGE", "LEFT", "CODEC"], &item(app, &shown))?;
    Ok(done(&shown))
}

async fn many(app: &App, view: &View, args: &Args) -> Done {
    let mut entries = Readable::new(app, view.bucket.list(filter(Some(&args.key))?).await?);
    let mut list = app.out.list(&["KEY", "REVISION", "VALUE"]);
    let mut code = Code::Success;
    while let Some(entry) = entries.next().await? {
        let shown = Shown::of_entry(view.name(), &view.models, &entry);
        if !entries.selects(&args.conditions, &shown) {
            continue;
        }
        if shown.is_undecodable() {
            code = Code::Data;
        }
        list.push(shown.item(row(app, &shown), args.raw))?;
    }
    list.finish()?;
    Ok(if code == Code::Success { entries.code() } else { code })
}

/// Returns the cells of a record in a list.
fn row(app: &App, shown: &Shown) -> Vec<String> {
    vec![shown.key.to_string(), shown.revision.to_string(), shown.short_cell(app.out.is_for_person())]
}

/// Returns one record: on a terminal with the indented value below its metadata.
pub(crate) fn item(app: &App, shown: &Shown) -> Item {
    if !app.out.is_for_person() {
        return shown.item(row(app, shown), false);
    }
    let cells = vec![
        shown.key.to_string(),
        shown.revision.to_string(),
        shown.age_cell(),
        shown.left_cell(),
        shown.codec_cell(),
    ];
    let value = shown.record.as_ref().map(|record| record.pretty()).unwrap_or_default();
    shown.item(cells, false).body(escape_lines(&value))
}

fn done(shown: &Shown) -> Code {
    if shown.is_undecodable() { Code::Data } else { Code::Success }
}
