//! `restore`: writes an older revision as the newest.

use kvtyped::{Read, Revision};

use crate::app::App;
use crate::commands::{key, no_revision};
use crate::diffs;
use crate::entry::Shown;
use crate::fail::{Code, Done};
use crate::writing::{self, WriteOptions};

/// The arguments of `restore`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bucket
    bucket: String,
    /// The key
    key: String,
    /// The revision, as `history` prints it
    revision: u64,
    /// Write only if the newest record has this revision
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    /// Write the record without the TTL of the newest one
    #[arg(long)]
    no_ttl: bool,
    #[command(flatten)]
    options: WriteOptions,
}

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let key = key(&args.key)?;
    let view = writing::open(app, &args.bucket, args.options).await?;
    let newest = view.bucket.get(&key).read(Read::Leader).await?;
    writing::check_revision(newest.as_ref(), args.if_revision)?;
    let older = view.bucket.get(&key).at(Revision::new(args.revision)).await?;
    let older = older.ok_or_else(|| no_revision(view.name(), &key, args.revision))?;
    if newest.as_ref().is_some_and(|newest| newest.revision() == older.revision()) {
        app.out.note("the revision is the newest one already");
        writing::report(app, view.name(), &key, ("unchanged", Some(older.revision())), None)?;
        return Ok(Code::Success);
    }
    // The TTL of the record that is replaced, because the older one has expired or would have.
    let ttl = match newest.as_ref().unwrap_or(&older) {
        entry if entry.ttl().is_some() && !args.no_ttl => writing::kept_ttl(&view, entry, false)?,
        _ => None,
    };
    let headers = older.headers().clone().with_cause(None);
    let op = if newest.is_some() { "update" } else { "create" };
    if args.options.dry_run {
        let pretty = |entry| Shown::of_entry(view.name(), &view.models, entry).record.map(|record| record.pretty());
        let before = newest.as_ref().and_then(pretty).unwrap_or_default();
        app.out.note_lines(&diffs::lines(app, &before, &pretty(&older).unwrap_or_default()));
        writing::report(app, view.name(), &key, (op, None), ttl)?;
        return Ok(Code::Success);
    }
    macro_rules! send {
        ($write:expr) => {{
            let write = $write.headers(headers);
            match ttl {
                Some(ttl) => write.ttl(ttl).await?,
                None => write.await?,
            }
        }};
    }
    // Only over the revision that was read, so that no write of another user is lost.
    let revision = match &newest {
        Some(newest) => send!(view.bucket.update(older.value(), newest.revision())),
        None => send!(view.bucket.create(older.value())),
    };
    writing::report(app, view.name(), &key, (op, Some(revision)), ttl)?;
    Ok(Code::Success)
}
