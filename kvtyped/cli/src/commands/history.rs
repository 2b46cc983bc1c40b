//! `history`: the kept revisions of a key.

use crate::app::App;
use crate::commands::{key, no_record};
use crate::diffs;
use crate::entry::Shown;
use crate::fail::{Code, Done};
use crate::time;

/// The arguments of `history`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bucket
    bucket: String,
    /// The key
    key: String,
    /// Print the change of each revision
    #[arg(long)]
    diff: bool,
    /// Decode values with a command that reads the bytes and writes JSON
    #[arg(long, value_name = "COMMAND")]
    decode_with: Option<String>,
}

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let view = app.view(&args.bucket).await?.decoded_with(args.decode_with.clone());
    let key = key(&args.key)?;
    let versions = view.bucket.history(&key).await?;
    if versions.is_empty() {
        return Err(no_record(view.name(), &key));
    }
    let mut list = app.out.list(&["REVISION", "OP", "CREATED", "VALUE"]);
    let (mut code, mut before) = (Code::Success, String::new());
    for version in &versions {
        let shown = Shown::of_version(view.name(), &view.models, version);
        if shown.is_undecodable() {
            code = Code::Data;
        }
        let after = shown.record.as_ref().map(|record| record.pretty()).unwrap_or_default();
        let value = match args.diff {
            true => String::new(),
            false => shown.short_cell(app.out.is_for_person()),
        };
        let created = shown.created.map(time::rfc3339).unwrap_or_default();
        let mut item = shown.item(vec![shown.revision.to_string(), shown.op.to_owned(), created, value], false);
        if args.diff && !app.out.is_json() {
            item = item.body(diffs::lines(app, &before, &after));
        }
        list.push(item)?;
        before = after;
    }
    list.finish()?;
    Ok(code)
}
