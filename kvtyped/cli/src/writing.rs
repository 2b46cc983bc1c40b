//! What commands that write one record share.

use std::fs;
use std::io::{self, IsTerminal, Read};
use std::time::Duration;

use kvtyped::backend::RecordHeaders;
use kvtyped::{Entry, Key, RawRecord, Revision, Ttl};

use crate::app::{App, WriteView};
use crate::codec::{Codec, Models};
use crate::fail::Failure;
use crate::json::{Json, object};
use crate::out::Item;
use crate::time;

/// How often a write without a condition starts over because another writer came first.
pub(crate) const ATTEMPTS: usize = 20;

/// Options of commands that write records.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct WriteOptions {
    /// Do everything except the write
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Write to a bucket with indexes, which the tool does not maintain
    #[arg(long)]
    pub(crate) allow_unindexed: bool,
}

/// Reads the argument of a value: a text, `@FILE`, or `-` for stdin.
pub(crate) fn input(argument: Option<&str>) -> Result<Vec<u8>, Failure> {
    match argument {
        Some("-") => stdin(),
        None if !io::stdin().is_terminal() => match stdin()? {
            // A script without an input would write an empty record.
            bytes if bytes.is_empty() => Err(Failure::usage("no value is given, and stdin is empty")
                .hint("pass the value as text, as `@FILE`, or as `-` for stdin; an empty value is `''`")),
            bytes => Ok(bytes),
        },
        None => Err(Failure::usage("no value is given; pass it as text, as `@FILE`, or as `-` for stdin")),
        Some(text) => match text.strip_prefix('@') {
            Some(file) => fs::read(file).map_err(|error| Failure::not_found(format!("`{file}`: {error}"))),
            None => Ok(text.as_bytes().to_vec()),
        },
    }
}

fn stdin() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a bucket for a write. With `--dry-run`, opens it in the same way, and the caller writes nothing.
pub(crate) async fn open(app: &App, bucket: &str, options: WriteOptions) -> Result<WriteView, Failure> {
    match options.dry_run {
        true => {
            let target = app.target().await?;
            WriteView::open(target, bucket, options.allow_unindexed).await
        }
        false => app.write_view(bucket, options.allow_unindexed).await,
    }
}

/// Returns the codec of a record: the named one, else that of the card, else that of the stored value.
pub(crate) fn codec_of(
    models: &Models,
    key: &Key,
    named: Option<Codec>,
    stored: Option<&Entry<RawRecord>>,
) -> Result<Option<Codec>, Failure> {
    if named.is_some() {
        return Ok(named);
    }
    if let Some(model) = models.of_key(key.as_str()) {
        let codec = &model.card.codec;
        let found = Codec::of_name(codec).ok_or_else(|| {
            Failure::data(format!("the tool cannot encode the codec `{codec}` of model `{}`", model.name))
                .hint("write the bytes with `--raw`")
        });
        return found.map(Some);
    }
    Ok(stored.and_then(|entry| models.decode(key, entry.headers(), &entry.bytes).codec))
}

/// Encodes the text of a user: JSON for the codecs `json` and `msgpack`, the text itself for others. Without a codec, it
/// is JSON if it parses as JSON.
pub(crate) fn encode(codec: Option<Codec>, text: &[u8]) -> Result<Vec<u8>, Failure> {
    let exact = |value: Json| match value.has_large_float() && has_long_number(text) {
        true => Err(Failure::data("a number has more digits than JSON numbers keep, so it would be rounded")
            .hint("store the number as a text, or the bytes with `--raw`")),
        false => Ok(value),
    };
    let parse = || {
        let value = Json::parse(text).map_err(|error| {
            Failure::data(format!("the value is not JSON: {error}"))
                .hint("quote a text: '\"text\"'; or use `--codec text`")
        })?;
        exact(value)
    };
    match codec {
        Some(codec @ (Codec::Json | Codec::Msgpack)) => codec.encode(&parse()?).map_err(Failure::data),
        Some(Codec::Text) => match std::str::from_utf8(text) {
            Ok(text) => Ok(text.as_bytes().to_vec()),
            Err(_) => Err(Failure::data("the value is not UTF-8, and the codec is `text`")),
        },
        Some(Codec::Bytes) => Ok(text.to_vec()),
        None => match Json::parse(text) {
            Ok(value) => Ok(exact(value)?.line().into_bytes()),
            Err(_) => Ok(text.to_vec()),
        },
    }
}

/// Whether a text of JSON contains a number with more digits than any 64-bit integer or float keeps.
fn has_long_number(text: &[u8]) -> bool {
    let (mut is_text, mut is_escaped, mut digits) = (false, false, 0);
    for byte in text {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_text,
            b'"' => is_text = !is_text,
            b'0'..=b'9' if !is_text => {
                digits += 1;
                if digits >= 19 {
                    return true;
                }
                continue;
            }
            _ => {}
        }
        digits = 0;
    }
    false
}

/// Returns the headers of a write that replaces a record.
pub(crate) fn kept_headers(stored: &Entry<RawRecord>, is_raw: bool) -> Result<RecordHeaders, Failure> {
    let headers = stored.headers().clone().with_cause(None);
    let is_sealed = headers.encoding().is_some() || headers.key_id().is_some() || headers.signature().is_some();
    match is_sealed && !is_raw {
        true => {
            Err(Failure::refused(format!("record `{}` is encoded, encrypted or signed by its program", stored.key()))
                .hint("write its bytes with `--raw`"))
        }
        false => Ok(headers),
    }
}

/// Returns the headers of a new record: the version that the programs of the model write.
pub(crate) fn new_headers(models: &Models, key: &Key) -> RecordHeaders {
    let writes = models.of_key(key.as_str()).map(|model| model.card.writes);
    RecordHeaders::of_version(writes.filter(|version| *version > 1))
}

/// Returns the TTL of a write that replaces a record: the whole TTL again, or the remaining time. Refuses a TTL that the
/// bucket would not keep.
pub(crate) fn kept_ttl(
    view: &WriteView,
    stored: &Entry<RawRecord>,
    keep_deadline: bool,
) -> Result<Option<Duration>, Failure> {
    let ttl = match stored.ttl() {
        None => return Ok(None),
        Some(ttl) if ttl.is_never() => {
            return Err(Failure::refused(format!("record `{}` is exempt from the TTL of its bucket", stored.key()))
                .hint("this write would end the exemption; choose `--no-ttl` or `--ttl`"));
        }
        Some(ttl) => ttl.as_duration(),
    };
    if let Some(history) = view.bucket.config().history.filter(|history| *history > 1) {
        return Err(Failure::unsupported(format!(
            "record `{}` has a TTL, and bucket `{}` has `history` {history}: the previous value would reappear at its end",
            stored.key(),
            view.name()
        ))
        .hint(format!(
            "write the record without its TTL with `--no-ttl`, or run `kvtyped bucket set {} --history 1`",
            view.name()
        )));
    }
    if !keep_deadline {
        return Ok(Some(ttl));
    }
    let left = Duration::from_secs(stored.remaining().unwrap_or_default().as_secs());
    match left.is_zero() {
        true => Err(Failure::refused(format!("record `{}` has less than a second left", stored.key()))),
        false => Ok(Some(left)),
    }
}

/// Checks that a record has the revision that `--if-revision` names.
pub(crate) fn check_revision(stored: Option<&Entry<RawRecord>>, wanted: Option<u64>) -> Result<(), Failure> {
    let Some(wanted) = wanted else { return Ok(()) };
    match stored.map(|entry| entry.revision().get()) {
        Some(revision) if revision == wanted => Ok(()),
        Some(revision) => Err(Failure::conflict(format!("the record has revision {revision}, not {wanted}"))
            .hint("read the record again with `kvtyped get`")),
        None => Err(Failure::conflict(format!("the key has no record; expected revision {wanted}"))),
    }
}

/// Prints what was written, or what would be written.
pub(crate) fn report(
    app: &App,
    bucket: &str,
    key: &Key,
    (op, revision): (&str, Option<Revision>),
    ttl: Option<Duration>,
) -> Result<(), Failure> {
    // A server keeps whole seconds.
    let ttl = ttl.map(|ttl| Ttl::new(ttl).map_or(ttl, Ttl::as_duration));
    let json = object! {
        "v" => 1u8,
        "type" => "written",
        "bucket" => bucket,
        "key" => key.as_str(),
        "op" => op,
        "revision" => revision,
        "ttl_ms" => ttl,
        "dry_run" => revision.is_none().then_some(true),
    };
    let revision = revision.map_or_else(|| "dry run".to_owned(), |revision| revision.to_string());
    let cells = [key.to_string(), op.to_owned(), revision, ttl.map(time::short).unwrap_or_default()];
    app.out.one(&["KEY", "OP", "REVISION", "TTL"], &Item::new(json).cells(cells).name(key.as_str()))
}
