//! `touch`: restarts the TTL of a record.

use std::time::Duration;

use kvtyped::{Read, Ttl};

use crate::app::App;
use crate::commands::{key, no_record};
use crate::fail::{Code, Done};
use crate::time::parse_duration;
use crate::writing::{self, WriteOptions};

/// The arguments of `touch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bucket, which must keep one revision of each key
    bucket: String,
    /// The key
    key: String,
    /// The new TTL. By default the TTL of the last write starts again
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    ttl: Option<Duration>,
    #[command(flatten)]
    options: WriteOptions,
}

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let key = key(&args.key)?;
    // The bytes and the index entries of the record stay the same.
    let options = WriteOptions { allow_unindexed: true, ..args.options };
    let view = writing::open(app, &args.bucket, options).await?;
    if args.options.dry_run {
        let stored = view.bucket.get(&key).read(Read::Leader).await?.ok_or_else(|| no_record(view.name(), &key))?;
        let ttl = match stored.ttl().filter(|_| args.ttl.is_none()) {
            Some(ttl) if !ttl.is_never() => writing::kept_ttl(&view, &stored, false)?,
            _ => args.ttl,
        };
        writing::report(app, view.name(), &key, ("touch", None), ttl)?;
        return Ok(Code::Success);
    }
    let touch = view.bucket.touch(&key);
    let revision = match args.ttl {
        Some(ttl) => touch.ttl(ttl).await?,
        None => touch.await?,
    };
    let ttl = match args.ttl {
        // Reads the TTL that the record kept. If this read fails, the command still succeeds.
        None => view.bucket.get(&key).at(revision).await.ok().flatten().and_then(|entry| entry.ttl()),
        Some(ttl) => Ttl::new(ttl),
    };
    let ttl = ttl.filter(|ttl| !ttl.is_never()).map(Ttl::as_duration);
    writing::report(app, view.name(), &key, ("touch", Some(revision)), ttl)?;
    Ok(Code::Success)
}
