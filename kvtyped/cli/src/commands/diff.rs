//! `diff`: two revisions of a key, or two buckets.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use futures::StreamExt;
use kvtyped::{Entry, RawRecord, Revision};

use crate::address::Address;
use crate::app::{App, View};
use crate::commands::{key, no_record, no_revision};
use crate::diffs;
use crate::entry::Shown;
use crate::fail::{Code, Done, Failure};
use crate::json::{Json, object};
use crate::out::{Format, Item};

/// The arguments of `diff`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bucket of the key, or the first of two buckets: BUCKET, @CONTEXT/BUCKET or URL/BUCKET
    #[arg(value_name = "BUCKET")]
    from: String,
    /// The key, or the second bucket as @CONTEXT/BUCKET or URL/BUCKET
    #[arg(value_name = "KEY|BUCKET")]
    to: String,
    /// The older revision. By default the one before the newest
    #[arg(value_name = "REVISION")]
    old: Option<u64>,
    /// The newer revision. By default the newest
    #[arg(value_name = "REVISION")]
    new: Option<u64>,
    /// Also compare the records of locks and other recipes
    #[arg(long)]
    reserved: bool,
}

pub(crate) async fn run(app: &App, args: Args) -> Done {
    // A key contains no colon and does not begin with `@`.
    let is_address = |text: &str| text.contains(':') || text.starts_with('@');
    match is_address(&args.to) || is_address(&args.from) && args.old.is_none() && Address::parse(&args.to).is_ok() {
        true => buckets(app, &args).await,
        false => revisions(app, &args).await,
    }
}

async fn revisions(app: &App, args: &Args) -> Done {
    let view = app.view_of(&Address::parse(&args.from)?).await?;
    let key = key(&args.to)?;
    let versions: Vec<_> = view.bucket.history(&key).await?;
    let find = |revision: u64| {
        let found = versions.iter().find(|version| version.revision() == Revision::new(revision));
        found.ok_or_else(|| no_revision(view.name(), &key, revision))
    };
    let newest = match args.new {
        Some(revision) => find(revision)?,
        None => versions.last().ok_or_else(|| no_record(view.name(), &key))?,
    };
    let older = match args.old {
        Some(revision) => Some(find(revision)?),
        None => versions.iter().rev().find(|version| version.revision() < newest.revision()),
    };
    let Some(older) = older else {
        return Err(Failure::not_found(format!("bucket `{}` keeps no earlier revision of `{key}`", view.name()))
            .hint("the number of kept revisions is the `history` of the bucket"));
    };
    let [older, newest] = [older, newest].map(|version| Shown::of_version(view.name(), &view.models, version));
    let pretty = |shown: &Shown| shown.record.as_ref().map(|record| record.pretty()).unwrap_or_default();
    let change = diffs::lines(app, &pretty(&older), &pretty(&newest));
    let is_equal = change.is_empty() && older.op == newest.op;
    match app.out.is_json() {
        true => {
            let json = object! {
                "v" => 1u8,
                "type" => "diff",
                "key" => key.as_str(),
                "equal" => is_equal,
                "old" => older.json(),
                "new" => newest.json(),
            };
            app.out.one(&[], &Item::new(json))?;
        }
        false if is_equal => {}
        false => {
            app.out.line(&format!("--- {key} revision {} ({})", older.revision, older.op))?;
            app.out.line(&format!("+++ {key} revision {} ({})", newest.revision, newest.op))?;
            app.out.line(&change)?;
        }
    }
    Ok(if is_equal { Code::Success } else { Code::No })
}

/// A digest of the bytes and the headers of a record: two hashes and the size.
type Digest = (u64, u64, usize);

fn digest(entry: &Entry<RawRecord>) -> Digest {
    let hash = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        entry.bytes.hash(&mut hasher);
        // The cause of a rewrite names a revision, which differs in a copy.
        let headers = entry.headers().clone().with_cause(None);
        headers.for_each(|name, text| (name, text).hash(&mut hasher));
        hasher.finish()
    };
    (hash(0), hash(1), entry.bytes.len())
}

/// Returns the digest of each record.
async fn digests(view: &View, reserved: bool) -> Result<BTreeMap<String, Digest>, Failure> {
    let list = view.bucket.list(..);
    let mut entries = if reserved { list.include_reserved() } else { list }.await?;
    let mut digests = BTreeMap::new();
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        digests.insert(entry.key().to_string(), digest(&entry));
    }
    Ok(digests)
}

/// A difference of two buckets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) key: String,
    /// `added`, `removed` or `changed`.
    pub(crate) what: &'static str,
}

/// Compares the records of two buckets: their bytes and headers, and not their revisions and times.
pub(crate) async fn compare(from: &View, to: &View, reserved: bool) -> Result<Vec<Difference>, Failure> {
    let (from, mut to) = (digests(from, reserved).await?, digests(to, reserved).await?);
    let mut differences = Vec::new();
    for (key, digest) in from {
        match to.remove(&key) {
            Some(other) if other == digest => {}
            Some(_) => differences.push(Difference { key, what: "changed" }),
            None => differences.push(Difference { key, what: "removed" }),
        }
    }
    differences.extend(to.into_keys().map(|key| Difference { key, what: "added" }));
    differences.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(differences)
}

async fn buckets(app: &App, args: &Args) -> Done {
    let from = app.view_of(&Address::parse(&args.from)?).await?;
    let to = app.view_of(&Address::parse(&args.to)?).await?;
    let differences = compare(&from, &to, args.reserved).await?;
    let mut list = app.out.list(&["CHANGE", "KEY"]);
    for Difference { key, what } in &differences {
        let json: Json = object! { "v" => 1u8, "type" => "difference", "change" => *what, "key" => key.as_str() };
        list.push(Item::new(json).cells([*what, key.as_str()]).name(key))?;
    }
    list.finish()?;
    if app.out.format() == Format::Table && differences.is_empty() {
        app.out.note("the records are equal; their TTLs are not compared");
    }
    Ok(if differences.is_empty() { Code::Success } else { Code::No })
}
