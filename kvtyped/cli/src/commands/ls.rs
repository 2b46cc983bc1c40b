//! `ls`: the keys of a bucket.

use kvtyped::bucket::Cursor;
use kvtyped::key::unescape;

use crate::app::{App, View};
use crate::commands::{cursor, filter};
use crate::entry::Shown;
use crate::fail::{Code, Done, Failure};
use crate::json::object;
use crate::out::{Item, Style};
use crate::readable::Readable;
use crate::time;

/// The arguments of `ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bucket
    bucket: String,
    /// A filter of keys, such as `acme.*` or `acme.>`
    filter: Option<String>,
    /// Also print the revision, the age, the remaining time and the size
    #[arg(short, long)]
    long: bool,
    /// Print a tree of the segments
    #[arg(long, conflicts_with_all = ["long", "count"])]
    tree: bool,
    /// Print only the number of records
    #[arg(long, conflicts_with = "long")]
    count: bool,
    /// Print at most this many keys, and then the cursor of the next page
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Start after the cursor of an earlier page
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
    /// Also list the records of locks and other recipes
    #[arg(long)]
    reserved: bool,
    /// Print the texts of the segments instead of the escaped key
    #[arg(long)]
    unescape: bool,
}

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let view = app.view(&args.bucket).await?;
    if args.count {
        return count(app, &view, &args).await;
    }
    let cursor = match args.long {
        true => long(app, &view, &args).await?,
        false => keys(app, &view, &args).await?,
    };
    if let Some(cursor) = cursor {
        let json = object! { "v" => 1u8, "type" => "cursor", "cursor" => cursor.to_string() };
        app.out.note_object(&json, &format!("more with --after {cursor}"));
    }
    Ok(Code::Success)
}

async fn count(app: &App, view: &View, args: &Args) -> Done {
    let count = view.bucket.count(filter(args.filter.as_deref())?);
    let count = if args.reserved { count.include_reserved() } else { count }.await?;
    let json = object! { "v" => 1u8, "type" => "count", "bucket" => view.name(), "count" => count };
    app.out.one(&["COUNT"], &Item::new(json).cells([count.to_string()]).name(count.to_string()))?;
    Ok(Code::Success)
}

/// Lists keys. Returns the cursor if the limit was reached.
async fn keys(app: &App, view: &View, args: &Args) -> Result<Option<Cursor>, Failure> {
    let mut keys = view.bucket.keys(filter(args.filter.as_deref())?);
    if let Some(cursor) = cursor(args.after.as_deref())? {
        keys = keys.after(cursor);
    }
    if let Some(limit) = args.limit {
        keys = keys.limit(limit);
    }
    let keys = if args.reserved { keys.include_reserved() } else { keys }.await?;
    let mut keys = Readable::new(app, keys);
    let mut list = app.out.list(&["KEY"]);
    let (mut tree, mut count) = (Tree::default(), 0);
    while let Some(key) = keys.next().await? {
        count += 1;
        let shown = shown_key(key.as_str(), args.unescape);
        if args.tree && !app.out.is_json() {
            tree.add(&shown);
            continue;
        }
        let json = object! { "v" => 1u8, "type" => "key", "bucket" => view.name(), "key" => key.as_str() };
        list.push(Item::new(json).cells([shown.as_str()]).name(shown))?;
    }
    if args.tree && !app.out.is_json() {
        tree.print(app, 0)?;
    } else {
        list.finish()?;
    }
    Ok((Some(count) == args.limit).then(|| keys.items().cursor()))
}

/// Lists records without their values. Returns the cursor if the limit was reached.
async fn long(app: &App, view: &View, args: &Args) -> Result<Option<Cursor>, Failure> {
    let mut entries = view.bucket.list(filter(args.filter.as_deref())?);
    if let Some(cursor) = cursor(args.after.as_deref())? {
        entries = entries.after(cursor);
    }
    if let Some(limit) = args.limit {
        entries = entries.limit(limit);
    }
    let entries = if args.reserved { entries.include_reserved() } else { entries }.await?;
    let mut entries = Readable::new(app, entries);
    let mut list = app.out.list(&["KEY", "REVISION", "AGE", "LEFT", "SIZE", "CODEC"]);
    while let Some(entry) = entries.next().await? {
        let shown = Shown::of_entry(view.name(), &view.models, &entry);
        let cells = [
            shown_key(shown.key.as_str(), args.unescape),
            shown.revision.to_string(),
            shown.age_cell(),
            shown.left_cell(),
            match app.out.is_for_person() {
                true => time::bytes(entry.bytes.len() as u64),
                false => entry.bytes.len().to_string(),
            },
            shown.codec_cell(),
        ];
        list.push(Item::new(shown.described()).cells(cells).name(shown.key.as_str()))?;
    }
    let count = list.count();
    list.finish()?;
    Ok((args.limit == Some(count as usize)).then(|| entries.items().cursor()))
}

/// Returns a key as it is printed.
fn shown_key(key: &str, is_unescaped: bool) -> String {
    if !is_unescaped {
        return key.to_owned();
    }
    let segment = |segment: &str| match unescape(segment) {
        Ok(text) => text.into_owned(),
        // Other clients write keys that are not escaped.
        Err(_) => segment.to_owned(),
    };
    // A separator that is no character of a key.
    key.split('.').map(segment).collect::<Vec<_>>().join(" · ")
}

/// A tree of segments.
#[derive(Debug, Default)]
struct Tree {
    children: std::collections::BTreeMap<String, Tree>,
    records: u64,
}

impl Tree {
    fn add(&mut self, key: &str) {
        let separator = if key.contains(" · ") { " · " } else { "." };
        let mut node = self;
        for segment in key.split(separator) {
            node = node.children.entry(segment.to_owned()).or_default();
        }
        node.records += 1;
    }

    fn total(&self) -> u64 {
        self.records + self.children.values().map(Self::total).sum::<u64>()
    }

    fn print(&self, app: &App, depth: usize) -> Result<(), Failure> {
        for (segment, child) in &self.children {
            let indent = "  ".repeat(depth);
            let count = match child.children.is_empty() {
                true => String::new(),
                false => app.out.style(Style::Dim, &format!("  {}", child.total())),
            };
            app.out.line(&format!("{indent}{}{count}", crate::escape::escape(segment)))?;
            child.print(app, depth + 1)?;
        }
        Ok(())
    }
}
