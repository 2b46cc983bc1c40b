//! `ls`: the keys of a bucket.

use kvtyped::RawRecord;
use kvtyped::bucket::{self, Cursor};
use kvtyped::key::unescape;

use crate::app::{App, View};
use crate::commands::{cursor, filter};
use crate::condition::Where;
use crate::entry::Shown;
use crate::fail::{Code, Done, Failure};
use crate::json::object;
use crate::out::{self, Item, Style};
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
    #[command(flatten)]
    conditions: Where,
}

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let view = app.view(&args.bucket).await?;
    if args.count {
        return count(app, &view, &args).await;
    }
    let (cursor, code) = match args.long || !args.conditions.is_empty() {
        true => records(app, &view, &args).await?,
        false => (keys(app, &view, &args).await?, Code::Success),
    };
    if let Some(cursor) = cursor {
        let json = object! { "v" => 1u8, "type" => "cursor", "cursor" => cursor.to_string() };
        app.out.note_object(&json, &format!("more with --after {cursor}"));
    }
    Ok(code)
}

async fn count(app: &App, view: &View, args: &Args) -> Done {
    let (count, code) = match args.conditions.is_empty() {
        true => {
            let count = view.bucket.count(filter(args.filter.as_deref())?);
            (if args.reserved { count.include_reserved() } else { count }.await?, Code::Success)
        }
        false => selected(app, view, args).await?,
    };
    let json = object! { "v" => 1u8, "type" => "count", "bucket" => view.name(), "count" => count };
    app.out.one(&["COUNT"], &Item::new(json).cells([count.to_string()]).name(count.to_string()))?;
    Ok(code)
}

/// Counts the records that the conditions select.
async fn selected(app: &App, view: &View, args: &Args) -> Result<(u64, Code), Failure> {
    let mut entries = Readable::new(app, list(view, args)?.await?);
    let mut count = 0;
    while let Some(entry) = entries.next().await? {
        let shown = Shown::of_entry(view.name(), &view.models, &entry);
        count += u64::from(entries.selects(&args.conditions, &shown));
    }
    Ok((count, entries.code()))
}

/// Returns the records that match the filter, after the cursor.
fn list<'a>(view: &'a View, args: &Args) -> Result<bucket::List<'a, RawRecord>, Failure> {
    let list = view.bucket.list(filter(args.filter.as_deref())?);
    let list = if args.reserved { list.include_reserved() } else { list };
    Ok(match cursor(args.after.as_deref())? {
        Some(cursor) => list.after(cursor),
        None => list,
    })
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
    let mut rows = Rows::new(app, view, args);
    while let Some(key) = keys.next().await? {
        rows.push_key(key.as_str())?;
    }
    let count = rows.finish()?;
    Ok((args.limit == Some(count)).then(|| keys.items().cursor()))
}

/// Lists the records that the conditions select, without their values. Returns the cursor if the limit was reached.
async fn records(app: &App, view: &View, args: &Args) -> Result<(Option<Cursor>, Code), Failure> {
    let list = list(view, args)?;
    // With conditions, the limit counts the selected records.
    let list = match args.limit.filter(|_| args.conditions.is_empty()) {
        Some(limit) => list.limit(limit),
        None => list,
    };
    let mut entries = Readable::new(app, list.await?);
    let mut rows = Rows::new(app, view, args);
    while args.limit.is_none_or(|limit| rows.count < limit) {
        let Some(entry) = entries.next().await? else { break };
        let shown = Shown::of_entry(view.name(), &view.models, &entry);
        if entries.selects(&args.conditions, &shown) {
            rows.push_record(&shown)?;
        }
    }
    let count = rows.finish()?;
    let code = if args.conditions.is_empty() { Code::Success } else { entries.code() };
    Ok(((args.limit == Some(count)).then(|| entries.items().cursor()), code))
}

/// The output: rows of keys, rows with metadata, or a tree.
struct Rows<'a> {
    app: &'a App,
    view: &'a View,
    args: &'a Args,
    list: out::List<'a>,
    tree: Option<Tree>,
    count: usize,
}

impl<'a> Rows<'a> {
    fn new(app: &'a App, view: &'a View, args: &'a Args) -> Self {
        let columns: &[_] = if args.long { &["KEY", "REVISION", "AGE", "LEFT", "SIZE", "CODEC"] } else { &["KEY"] };
        let tree = (args.tree && !app.out.is_json()).then(Tree::default);
        Self { app, view, args, list: app.out.list(columns), tree, count: 0 }
    }

    fn push_key(&mut self, key: &str) -> Result<(), Failure> {
        self.count += 1;
        let shown = shown_key(key, self.args.unescape);
        if let Some(tree) = &mut self.tree {
            tree.add(&shown);
            return Ok(());
        }
        let json = object! { "v" => 1u8, "type" => "key", "bucket" => self.view.name(), "key" => key };
        self.list.push(Item::new(json).cells([shown.as_str()]).name(shown))
    }

    fn push_record(&mut self, shown: &Shown) -> Result<(), Failure> {
        if !self.args.long {
            return self.push_key(shown.key.as_str());
        }
        self.count += 1;
        let size = shown.record.as_ref().map_or(0, |record| record.bytes.len());
        let cells = [
            shown_key(shown.key.as_str(), self.args.unescape),
            shown.revision.to_string(),
            shown.age_cell(),
            shown.left_cell(),
            if self.app.out.is_for_person() { time::bytes(size as u64) } else { size.to_string() },
            shown.codec_cell(),
        ];
        self.list.push(Item::new(shown.described()).cells(cells).name(shown.key.as_str()))
    }

    /// Ends the output. Returns the number of keys.
    fn finish(self) -> Result<usize, Failure> {
        match self.tree {
            Some(tree) => tree.print(self.app, 0)?,
            None => self.list.finish()?,
        }
        Ok(self.count)
    }
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
