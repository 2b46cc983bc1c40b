//! `patch`: changes fields of a record (RFC 7396).

use std::time::Duration;

use kvtyped::backend::RecordHeaders;
use kvtyped::{Key, ModifyError, RawRecord, Read, Revision, Ttl};

use crate::app::{App, WriteView};
use crate::codec::{Decoded, Models};
use crate::commands::{key, no_record};
use crate::diffs;
use crate::fail::{Code, Done, Failure};
use crate::json::Json;
use crate::time::parse_duration;
use crate::writing::{self, ATTEMPTS, WriteOptions};

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
    /// Write the record without its TTL
    #[arg(long, conflicts_with = "ttl")]
    no_ttl: bool,
    /// Write only if the record has this revision
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
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
    let mut attempts = 0;
    loop {
        attempts += 1;
        let stored = view.bucket.get(&key).read(Read::Leader).await?.ok_or_else(|| no_record(view.name(), &key))?;
        writing::check_revision(Some(&stored), args.if_revision)?;
        let headers = writing::kept_headers(&stored, false)?;
        let decoded = view.models.decode(&key, &headers, &stored.bytes);
        let bytes = apply(&decoded, &stored.bytes, &patch)?;
        let found = stored.ttl().filter(|ttl| !ttl.is_never()).map(Ttl::as_duration);
        if bytes == stored.bytes && args.ttl.is_none() && (!args.no_ttl || stored.ttl().is_none()) {
            writing::report(app, view.name(), &key, ("unchanged", Some(stored.revision())), found)?;
            return Ok(Code::Success);
        }
        let keeps_ttl = args.ttl.is_none() && !args.no_ttl;
        let is_exempt = keeps_ttl && args.if_revision.is_none() && stored.ttl().is_some_and(Ttl::is_never);
        let ttl = match keeps_ttl && !is_exempt {
            true => writing::kept_ttl(&view, &stored, false)?,
            false => args.ttl,
        };
        if args.options.dry_run {
            let pretty = |bytes: &[u8]| pretty(&view.models, &key, &headers, bytes);
            app.out.note_lines(&diffs::lines(app, &pretty(&stored.bytes), &pretty(&bytes)));
            writing::report(app, view.name(), &key, ("update", None), ttl)?;
            return Ok(Code::Success);
        }
        if is_exempt {
            let revision = patch_exempt(&view, &key, &headers, &patch).await?;
            writing::report(app, view.name(), &key, ("update", Some(revision)), None)?;
            return Ok(Code::Success);
        }
        let record = RawRecord::new(key.clone(), bytes);
        let update = view.bucket.update(&record, stored.revision()).headers(headers);
        let updated = match ttl {
            Some(ttl) => update.ttl(ttl).await,
            None => update.await,
        };
        match updated {
            Ok(revision) => {
                writing::report(app, view.name(), &key, ("update", Some(revision)), ttl)?;
                return Ok(Code::Success);
            }
            // Another writer came between the read and the write.
            Err(error) if error.is_conflict() && args.if_revision.is_none() && attempts < ATTEMPTS => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Changes a record that is exempt from the TTL of its bucket. Only `modify` keeps the exemption.
async fn patch_exempt(view: &WriteView, key: &Key, headers: &RecordHeaders, patch: &Json) -> Result<Revision, Failure> {
    let change = |record: &mut RawRecord| {
        let decoded = view.models.decode(key, headers, &record.bytes);
        record.bytes = apply(&decoded, &record.bytes, patch)?.into();
        Ok::<_, Failure>(())
    };
    match view.bucket.try_modify(key, change).await {
        Ok(entry) => Ok(entry.revision()),
        Err(ModifyError::Closure(failure)) => Err(failure),
        Err(ModifyError::Kv(error)) => Err(error.into()),
    }
}

/// Returns the bytes of the changed value.
fn apply(decoded: &Decoded, bytes: &[u8], patch: &Json) -> Result<Vec<u8>, Failure> {
    let (codec, value) = decoded
        .exact(bytes)
        .map_err(|reason| Failure::data(reason).hint("replace the bytes with `kvtyped put --raw`"))?;
    codec.encode(&value.clone().merge(patch)).map_err(Failure::data)
}

/// Returns the value of these bytes for a comparison by lines.
fn pretty(models: &Models, key: &Key, headers: &RecordHeaders, bytes: &[u8]) -> String {
    match models.decode(key, headers, bytes).value {
        Ok(value) => value.pretty(),
        Err(reason) => format!("<{reason}>"),
    }
}
