//! `export`: the records of a bucket as lines of JSON.

use futures::StreamExt;

use crate::app::App;
use crate::commands::{cursor, filter};
use crate::escape::escape_json;
use crate::fail::{Code, Done, Failure, message_of};
use crate::out::Unit;
use crate::settings::bucket_json;
use crate::transfer::line::{end_line, entry_line};

/// The arguments of `export`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bucket
    bucket: String,
    /// A filter of keys, such as `acme.*` or `acme.>`
    filter: Option<String>,
    /// Also export the records of locks and other recipes
    #[arg(long)]
    reserved: bool,
    /// Continue an export that failed, after the cursor that it printed. Append the output to its output
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
}

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let view = app.view(&args.bucket).await?;
    let after = cursor(args.after.as_deref())?;
    if after.is_none() {
        app.out.line(&escape_json(bucket_json(&view.status).line()))?;
    }
    let list = view.bucket.list(filter(args.filter.as_deref())?);
    let list = if args.reserved { list.include_reserved() } else { list };
    let mut entries = match after {
        Some(cursor) => list.after(cursor),
        None => list,
    }
    .await?;
    let bar = app.out.progress(view.status.values, "exported", Unit::Records);
    let (mut records, mut unreadable, mut last) = (0, 0, 0);
    while let Some(entry) = entries.next().await {
        match entry {
            Ok(entry) => {
                app.out.line(&escape_json(entry_line(view.name(), &view.models, &entry).line()))?;
                records += 1;
                last = entry.revision().get();
                bar.set_position(entries.progress().seen);
            }
            Err(error) if error.key().is_some() => {
                unreadable += 1;
                bar.suspend(|| app.out.warn(&format!("not exported: {}", message_of(&error))));
            }
            Err(error) => {
                bar.finish_and_clear();
                app.out.flush()?;
                let cursor = entries.cursor();
                return Err(
                    Failure::from(error).hint(format!("continue with `--after {cursor}`, and append the output"))
                );
            }
        }
    }
    bar.finish_and_clear();
    let end = end_line(view.name(), records, last, unreadable).with("after", args.after);
    app.out.line(&escape_json(end.line()))?;
    app.out.flush()?;
    app.out.note(&format!("{records} records exported"));
    Ok(if unreadable == 0 { Code::Success } else { Code::Data })
}
