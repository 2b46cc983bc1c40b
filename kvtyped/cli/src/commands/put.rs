//! `put`: writes a record.

use std::time::Duration;

use kvtyped::backend::RecordHeaders;
use kvtyped::{Entry, Key, RawRecord, Read, Revision};

use crate::app::{App, WriteView};
use crate::codec::Codec;
use crate::commands::key;
use crate::fail::{Code, Done, Failure};
use crate::time::parse_duration;
use crate::writing::{self, ATTEMPTS, WriteOptions};

/// The arguments of `put`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bucket
    bucket: String,
    /// The key
    key: String,
    /// The value: JSON for the codecs `json` and `msgpack`, or a text; `@FILE`; `-` for stdin, which is the default in a
    /// pipe
    value: Option<String>,
    /// Write only if the key has no record
    #[arg(long, conflicts_with = "if_revision")]
    create: bool,
    /// Write only if the record has this revision
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    /// The TTL of the record. By default, a replaced record keeps its TTL, which starts again
    #[arg(long, value_name = "TIME", value_parser = parse_duration, conflicts_with = "no_ttl")]
    ttl: Option<Duration>,
    /// Write the record without its TTL
    #[arg(long)]
    no_ttl: bool,
    /// The codec. By default that of the model, else that of the stored value
    #[arg(long, value_enum, value_name = "CODEC")]
    codec: Option<Codec>,
    /// Write the bytes as they are given
    #[arg(long, conflicts_with = "codec")]
    raw: bool,
    #[command(flatten)]
    options: WriteOptions,
}

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let key = key(&args.key)?;
    let text = writing::input(args.value.as_deref())?;
    let view = writing::open(app, &args.bucket, args.options).await?;
    let mut attempts = 0;
    let (op, revision, ttl) = loop {
        attempts += 1;
        let stored = view.bucket.get(&key).read(Read::Leader).await?;
        let planned = plan(&view, &key, stored.as_ref(), &text, &args)?;
        if args.options.dry_run {
            check_condition(stored.as_ref(), &args)?;
            break (planned.op(), None, planned.ttl);
        }
        match planned.send(&view, args.if_revision).await {
            Ok(revision) => break (planned.op(), Some(revision), planned.ttl),
            // Another writer came between the read and the write.
            Err(error) if error.is_conflict() && is_unconditional(&args) && attempts < ATTEMPTS => {}
            Err(error) => return Err(error.into()),
        }
    };
    writing::report(app, view.name(), &key, (op, revision), ttl)?;
    Ok(Code::Success)
}

fn is_unconditional(args: &Args) -> bool {
    !args.create && args.if_revision.is_none()
}

/// Checks the condition of a dry run.
fn check_condition(stored: Option<&Entry<RawRecord>>, args: &Args) -> Result<(), Failure> {
    match stored.filter(|_| args.create) {
        Some(stored) => Err(Failure::conflict(format!("the record exists at revision {}", stored.revision()))),
        None => writing::check_revision(stored, args.if_revision),
    }
}

/// A write of a record.
struct Planned {
    record: RawRecord,
    headers: RecordHeaders,
    ttl: Option<Duration>,
    /// The revision that is replaced. `None` creates the record.
    replaces: Option<Revision>,
}

fn plan(
    view: &WriteView,
    key: &Key,
    stored: Option<&Entry<RawRecord>>,
    text: &[u8],
    args: &Args,
) -> Result<Planned, Failure> {
    let bytes = match args.raw {
        true => text.to_vec(),
        false => writing::encode(writing::codec_of(&view.models, key, args.codec, stored)?, text)?,
    };
    let stored = stored.filter(|_| !args.create);
    let headers = match stored {
        Some(stored) => writing::kept_headers(stored, args.raw)?,
        None => writing::new_headers(&view.models, key),
    };
    let ttl = match (args.ttl, stored) {
        (Some(ttl), _) => Some(ttl),
        (None, Some(stored)) if !args.no_ttl => writing::kept_ttl(view, stored, false)?,
        _ => None,
    };
    let replaces = stored.map(|entry| entry.revision());
    Ok(Planned { record: RawRecord::new(key.clone(), bytes), headers, ttl, replaces })
}

impl Planned {
    fn op(&self) -> &'static str {
        if self.replaces.is_some() { "update" } else { "create" }
    }

    async fn send(&self, view: &WriteView, wanted: Option<u64>) -> kvtyped::Result<Revision> {
        macro_rules! send {
            ($write:expr) => {{
                let write = $write.headers(self.headers.clone());
                match self.ttl {
                    Some(ttl) => write.ttl(ttl).await,
                    None => write.await,
                }
            }};
        }
        match wanted.map(Revision::new).or(self.replaces) {
            Some(revision) => send!(view.bucket.update(&self.record, revision)),
            None => send!(view.bucket.create(&self.record)),
        }
    }
}
