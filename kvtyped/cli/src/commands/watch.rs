//! `watch`: changes as they happen.

use std::collections::HashMap;
use std::process::Stdio;

use futures::StreamExt;
use kvtyped::{Event, RawRecord, Revision};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::app::{App, View};
use crate::commands::{filter, is_end_of_watch};
use crate::diffs;
use crate::entry::{Shown, op_of};
use crate::fail::{Code, Done, Failure, message_of};
use crate::json::{Json, object};
use crate::out::Item;

/// The arguments of `watch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bucket
    bucket: String,
    /// A filter of keys, such as `acme.*` or `acme.>`
    filter: Option<String>,
    /// Print only changes from now on, and not the existing records
    #[arg(long, conflicts_with = "since")]
    new: bool,
    /// Print every kept revision from this one on
    #[arg(long, value_name = "REVISION")]
    since: Option<u64>,
    /// Print what changed in each record
    #[arg(long)]
    diff: bool,
    /// Run a command for each change, with the event as JSON on its stdin and the key in KVTYPED_KEY
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// End after this many records and removals
    #[arg(long, value_name = "N")]
    until: Option<u64>,
    /// Also watch the records of locks and other recipes
    #[arg(long)]
    reserved: bool,
    /// Decode values with a command that reads the bytes and writes JSON
    #[arg(long, value_name = "COMMAND")]
    decode_with: Option<String>,
}

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let view = app.view(&args.bucket).await?.decoded_with(args.decode_with.clone());
    let watch = view.bucket.watch(filter(args.filter.as_deref())?);
    let watch = if args.reserved { watch.include_reserved() } else { watch };
    let watch = match (args.new, args.since) {
        (true, _) => watch.updates_only(),
        (false, Some(revision)) => watch.from_revision(Revision::new(revision)),
        (false, None) => watch,
    };
    let mut events = watch.await?;
    let mut list = app.out.live(&["OP", "KEY", "REVISION", "VALUE"]);
    let mut before: HashMap<String, String> = HashMap::new();
    let mut code = Code::Success;
    while args.until != Some(list.count()) {
        let Some(event) = events.next().await else { break };
        let event = match event {
            Ok(event) => event,
            // The watch continues.
            Err(error) if !is_end_of_watch(&error) => {
                app.out.warn(&message_of(&error));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let Some((key, json, mut cells, pretty)) = describe(app, &view, event) else { continue };
        if json.get("undecodable").is_some() {
            code = Code::Data;
        }
        let mut item = Item::new(json.clone()).name(&key);
        if args.diff {
            let old = before.insert(key.clone(), pretty.clone()).unwrap_or_default();
            cells.pop();
            item = item.body(diffs::lines(app, &old, &pretty));
        }
        list.push(item.cells(cells))?;
        if let Some(command) = &args.exec {
            execute(app, command, &key, &json).await?;
        }
    }
    list.finish()?;
    Ok(code)
}

/// Returns the key, the object, the cells and the value of a change. Reports other events on stderr.
fn describe(app: &App, view: &View, event: Event<RawRecord>) -> Option<(String, Json, Vec<String>, String)> {
    let state = |state: &str, text: &str, pending: Option<u64>| {
        let json = object! { "v" => 1u8, "type" => "watch", "state" => state, "pending" => pending };
        app.out.note_object(&json, text);
        None
    };
    match event {
        Event::Put(entry) => {
            let shown = Shown::of_entry(view.name(), &view.models, &entry);
            let pretty = shown.record.as_ref().map(|record| record.pretty()).unwrap_or_default();
            let value = shown.short_cell(app.out.is_for_person());
            let cells = vec!["put".to_owned(), shown.key.to_string(), shown.revision.to_string(), value];
            Some((shown.key.to_string(), shown.json(), cells, pretty))
        }
        Event::Removed { key, revision, reason } => {
            let op = op_of(reason);
            let shown = Shown { bucket: view.name().to_owned(), key, revision, created: None, op, record: None };
            let cells = vec![op.to_owned(), shown.key.to_string(), revision.to_string(), String::new()];
            Some((shown.key.to_string(), shown.json(), cells, String::new()))
        }
        Event::Undecodable { key, revision, error } => {
            let json = object! {
                "v" => 1u8,
                "type" => "entry",
                "bucket" => view.name(),
                "key" => key.as_str(),
                "revision" => revision,
                "op" => "unreadable",
                "undecodable" => message_of(&error),
            };
            let cells = vec!["unreadable".to_owned(), key.clone(), revision.to_string(), message_of(&error)];
            Some((key, json, cells, String::new()))
        }
        Event::Ready => state("ready", "all existing records are printed; changes follow", None),
        Event::Resync => state("resync", "changes may be missing; all existing records follow again", None),
        Event::Lagging { pending } => state("lagging", &format!("{pending} changes are pending"), Some(pending)),
        _ => None,
    }
}

/// Runs a command for a change.
async fn execute(app: &App, command: &str, key: &str, json: &Json) -> Result<(), Failure> {
    app.out.flush()?;
    let failed = |error: std::io::Error| Failure::local(format!("`{command}`: {error}"));
    let mut child = Command::new("sh")
        .args(["-c", command])
        .env("KVTYPED_KEY", key)
        .env("KVTYPED_OP", json.get("op").and_then(Json::text).unwrap_or_default())
        .env("KVTYPED_REVISION", json.get("revision").map(Json::line).unwrap_or_default())
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input is no error.
        let _ = stdin.write_all(format!("{}\n", json.line()).as_bytes()).await;
    }
    let status = child.wait().await.map_err(failed)?;
    if !status.success() {
        app.out.warn(&format!("`{command}` failed for `{key}`: {status}"));
    }
    Ok(())
}
