//! `patch`: changes fields of a record (RFC 7396).

use std::time::Duration;

use kvtyped::{ModifyError, Read};

use crate::app::App;
use crate::codec::{Decoded, Models};
use crate::commands::{key, no_record};
use crate::diffs;
use crate::fail::{Code, Done, Failure};
use crate::json::Json;
use crate::time::parse_duration;
use crate::writing::{self, WriteOptions};

/// The arguments of `patch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bucket
    bucket: String,
    /// The key
    key: String,
    /// The fields to change as JSON (RFC 7396): `null` removes a field. `@FILE`; `-` for stdin
    #[arg(value_name = "JSON")]
    patch: Option<String>,
    /// The TTL of the record. By default it keeps its TTL, which starts again
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    ttl: Option<Duration>,
    #[command(flatten)]
    options: WriteOptions,
}

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let key = key(&args.key)?;
    let text = writing::input(args.patch.as_deref())?;
    let patch = Json::parse(&text).map_err(|error| Failure::data(format!("the patch is not JSON: {error}")))?;
    if !matches!(patch, Json::Object(_)) {
        return Err(Failure::data("the patch is no object, so it would replace the whole value")
            .hint("replace the value with `kvtyped put`"));
    }
    let view = writing::open(app, &args.bucket, args.options).await?;
    // The headers show how to decode the record. A change keeps them.
    let stored = view.bucket.get(&key).read(Read::Leader).await?.ok_or_else(|| no_record(view.name(), &key))?;
    let headers = writing::kept_headers(&stored, false)?;
    let patched = |bytes: &[u8]| -> Result<Vec<u8>, Failure> {
        let decoded = view.models.decode(&key, &headers, bytes);
        apply(&decoded, bytes, &patch)
    };
    if args.options.dry_run {
        let bytes = patched(&stored.bytes)?;
        let pretty = |bytes: &[u8]| pretty(&view.models, &key, &headers, bytes);
        app.out.note_lines(&diffs::lines(app, &pretty(&stored.bytes), &pretty(&bytes)));
        writing::report(app, view.name(), &key, ("update", None), args.ttl)?;
        return Ok(Code::Success);
    }
    let change = |record: &mut kvtyped::RawRecord| {
        record.bytes = patched(&record.bytes)?.into();
        Ok::<_, Failure>(())
    };
    let modify = view.bucket.try_modify(&key, change);
    let modified = match args.ttl {
        Some(ttl) => modify.ttl(ttl).await,
        None => modify.await,
    };
    let entry = match modified {
        Ok(entry) => entry,
        Err(ModifyError::Closure(failure)) => return Err(failure),
        Err(ModifyError::Kv(error)) => return Err(error.into()),
    };
    let op = if entry.revision() == stored.revision() { "unchanged" } else { "update" };
    let ttl = entry.ttl().filter(|ttl| !ttl.is_never()).map(|ttl| ttl.as_duration());
    writing::report(app, view.name(), &key, (op, Some(entry.revision())), ttl)?;
    Ok(Code::Success)
}

/// Returns the bytes of the changed value.
fn apply(decoded: &Decoded, bytes: &[u8], patch: &Json) -> Result<Vec<u8>, Failure> {
    let (codec, value) = decoded
        .exact(bytes)
        .map_err(|reason| Failure::data(reason).hint("replace the bytes with `kvtyped put --raw`"))?;
    codec.encode(&value.clone().merge(patch)).map_err(Failure::data)
}

/// Returns the value of these bytes for a comparison by lines.
fn pretty(models: &Models, key: &kvtyped::Key, headers: &kvtyped::backend::RecordHeaders, bytes: &[u8]) -> String {
    match models.decode(key, headers, bytes).value {
        Ok(value) => value.pretty(),
        Err(reason) => format!("<{reason}>"),
    }
}
