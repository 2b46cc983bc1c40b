//! `bucket`: one bucket and its settings.

use std::time::Duration;

use kvtyped::bucket::OpenBucket;
use kvtyped::config::{BucketConfig, Difference, Drift, LimitMarkers};
use kvtyped::{RawRecord, Storage};

use crate::app::{App, Target};
use crate::confirm;
use crate::fail::{Code, Done, Failure};
use crate::json::{Json, object};
use crate::out::Item;
use crate::settings::bucket_json;
use crate::time::{self, parse_duration};

/// The commands of `bucket`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the settings, the state and the models of a bucket
    Show {
        /// The bucket
        bucket: String,
    },
    /// Create a bucket
    Create {
        /// The bucket
        bucket: String,
        #[command(flatten)]
        settings: Settings,
        /// Only check the settings
        #[arg(long)]
        dry_run: bool,
    },
    /// Change the named settings of a bucket, and no other ones
    Set {
        /// The bucket
        bucket: String,
        #[command(flatten)]
        settings: Settings,
        /// Only print what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove a bucket with all its records
    Rm {
        /// The bucket
        bucket: String,
        /// Only print what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove old delete markers
    Compact {
        /// The bucket
        bucket: String,
        /// Keep markers that are younger than this, so that watches learn of the removals
        #[arg(long, value_name = "TIME", default_value = "30m", value_parser = parse_duration)]
        older_than: Duration,
    },
    /// Compare the settings of a bucket with wanted ones. Exit code 1 if they differ
    Drift {
        /// The bucket
        bucket: String,
        #[command(flatten)]
        settings: Settings,
    },
}

/// Settings of a bucket.
#[derive(Debug, clap::Args)]
pub(crate) struct Settings {
    /// The number of revisions of each key that are kept, 1 to 64
    #[arg(long, value_name = "N")]
    history: Option<u8>,
    /// The TTL of every record
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// The largest size of a value in bytes
    #[arg(long, value_name = "BYTES")]
    max_value_size: Option<u32>,
    /// The largest size of the bucket in bytes
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// Where the server stores the records: `file` or `memory`
    #[arg(long, value_name = "STORAGE", value_parser = parse_storage)]
    storage: Option<Storage>,
    /// The number of servers that store the bucket, 1 to 5
    #[arg(long, value_name = "N")]
    replicas: Option<u8>,
    /// Whether the storage is compressed
    #[arg(long, value_name = "BOOL")]
    compression: Option<bool>,
    /// A description for people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// How long the marker of an expired record stays, or `off`. A single record can have a TTL only with markers
    #[arg(long, value_name = "TIME", value_parser = parse_markers)]
    limit_markers: Option<LimitMarkers>,
    /// Whether the bucket allows purges
    #[arg(long, value_name = "BOOL")]
    rollups: Option<bool>,
    /// Whether the bucket supports transactions
    #[arg(long, value_name = "BOOL")]
    atomic: Option<bool>,
}

fn parse_storage(text: &str) -> Result<Storage, String> {
    match text {
        "file" => Ok(Storage::File),
        "memory" => Ok(Storage::Memory),
        _ => Err("it must be `file` or `memory`".to_owned()),
    }
}

fn parse_markers(text: &str) -> Result<LimitMarkers, String> {
    match text {
        "off" => Ok(LimitMarkers::Off),
        time => parse_duration(time).map(LimitMarkers::For),
    }
}

impl Settings {
    /// Returns what the change of a bucket with these settings removes or prevents.
    fn losses(&self, found: &BucketConfig) -> Vec<String> {
        let mut losses = Vec::new();
        let history = found.history.unwrap_or(1);
        match self.history {
            Some(wanted) if wanted < history => {
                losses.push(format!("the server removes all but the newest {wanted} revisions of each key"));
            }
            Some(wanted) if wanted > 1 && history == 1 => {
                losses.push("a record that has its own TTL can no longer be changed, copied or imported".to_owned());
            }
            _ => {}
        }
        if let Some(wanted) = self.ttl.filter(|wanted| found.ttl.is_none_or(|ttl| *wanted < ttl)) {
            losses.push(format!("the server removes every record that is older than {}", time::short(wanted)));
        }
        losses
    }

    /// Sets the named settings.
    fn apply(&self, mut open: OpenBucket<RawRecord>) -> OpenBucket<RawRecord> {
        macro_rules! set {
            ($($setting:ident)*) => {$(
                if let Some(value) = self.$setting.clone() {
                    open = open.$setting(value);
                }
            )*};
        }
        set!(history ttl max_value_size max_bytes storage replicas compression description limit_markers rollups atomic);
        open
    }

    /// Returns the differences of a bucket from the settings. A bucket without rollups is no difference, unless the
    /// settings name rollups.
    fn differences(&self, found: &BucketConfig) -> Vec<Difference> {
        let mut wanted = self.config(&found.name);
        wanted.rollups = wanted.rollups.or(found.rollups);
        wanted.differences(found)
    }

    /// Returns the settings as a configuration.
    fn config(&self, bucket: &str) -> BucketConfig {
        let mut config = BucketConfig::new(bucket);
        config.history = self.history;
        config.ttl = self.ttl;
        config.max_value_size = self.max_value_size;
        config.max_bytes = self.max_bytes;
        config.storage = self.storage;
        config.replicas = self.replicas;
        config.compression = self.compression;
        config.description = self.description.clone();
        config.limit_markers = self.limit_markers.map(|markers| match markers {
            LimitMarkers::For(stay) => stay,
            _ => Duration::ZERO,
        });
        config.rollups = self.rollups;
        config.atomic = self.atomic;
        config
    }
}

pub(crate) async fn run(app: &App, command: Command) -> Done {
    match command {
        Command::Show { bucket } => show(app, &bucket).await,
        Command::Create { bucket, settings, dry_run } => create(app, &bucket, &settings, dry_run).await,
        Command::Set { bucket, settings, dry_run } => set(app, &bucket, &settings, dry_run).await,
        Command::Rm { bucket, dry_run } => remove(app, &bucket, dry_run).await,
        Command::Compact { bucket, older_than } => compact(app, &bucket, older_than).await,
        Command::Drift { bucket, settings } => drift(app, &bucket, &settings).await,
    }
}

async fn show(app: &App, bucket: &str) -> Done {
    let view = app.view(bucket).await?;
    let json = bucket_json(&view.status);
    // Every field of the object is a row.
    let mut item = Item::new(json.clone()).name(bucket);
    let mut body = Vec::new();
    if let Json::Object(fields) = &json {
        let shown: Vec<_> =
            fields.iter().filter(|(name, _)| !matches!(name.as_str(), "v" | "type" | "models" | "metadata")).collect();
        let widest = shown.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        for (name, value) in shown {
            let text = match (name.as_str(), value) {
                ("bytes" | "max_bytes" | "max_value_size", Json::Unsigned(bytes)) => time::bytes(*bytes),
                (name, Json::Unsigned(millis)) if name.ends_with("_ms") => time::short(Duration::from_millis(*millis)),
                (_, Json::Text(text)) => text.clone(),
                (_, value) => value.line(),
            };
            body.push(format!("{:<widest$}  {text}", name.trim_end_matches("_ms")));
        }
        for model in view.models.all() {
            let card = &model.card;
            let versions = format!("version {}, writes {}, oldest {}", card.version, card.writes, card.oldest);
            body.push(format!("model {}: key {}, codec {}, {versions}", model.name, card.key, card.codec));
        }
    }
    let text = body.join("\n");
    if app.out.is_json() {
        app.out.one(&[], &item)?;
    } else if app.out.format() == crate::out::Format::Name {
        item = item.cells([bucket]);
        app.out.one(&[], &item)?;
    } else {
        app.out.line(&crate::escape::escape_lines(&text))?;
    }
    Ok(Code::Success)
}

async fn create(app: &App, bucket: &str, settings: &Settings, dry_run: bool) -> Done {
    if dry_run {
        settings.config(bucket).validate().map_err(|error| Failure::usage(error.to_string()))?;
    } else {
        let target = app.store_to_write(bucket).await?;
        app.writes.count_settings();
        settings.apply(target.store.bucket::<RawRecord>().name(bucket)).must_create().await?;
    }
    report(app, bucket, "created", dry_run, object! {})
}

/// Prints what was done to a bucket, or what would be done.
fn report(app: &App, bucket: &str, done: &str, dry_run: bool, more: Json) -> Done {
    let json = object! { "v" => 1u8, "type" => format!("bucket_{done}"), "bucket" => bucket };
    let json = json.extended(more).with("dry_run", dry_run.then_some(true));
    let done = if dry_run { format!("would be {done}") } else { done.to_owned() };
    app.out.one(&["BUCKET", "STATE"], &Item::new(json).cells([bucket, &done]).name(bucket))?;
    Ok(Code::Success)
}

/// Opens a bucket to change settings. Settings that the library sets by default keep their values.
async fn open_to_set(target: &Target, bucket: &str, settings: &Settings) -> Result<OpenBucket<RawRecord>, Failure> {
    let found = target.store.raw(bucket).read_only().await?;
    let open = settings.apply(target.store.bucket::<RawRecord>().name(bucket).must_exist());
    match (settings.rollups, found.config().rollups) {
        (None, Some(rollups)) => Ok(open.rollups(rollups)),
        _ => Ok(open),
    }
}

async fn set(app: &App, bucket: &str, settings: &Settings, dry_run: bool) -> Done {
    let view = app.view(bucket).await?;
    let differences = settings.differences(&view.status.config);
    let (irregular, named): (Vec<_>, Vec<_>) =
        differences.iter().partition(|difference| view.status.config.irregular.contains(difference));
    if named.is_empty() {
        app.out.note("the bucket has these settings already");
    }
    let mut changes = Vec::new();
    for difference in &named {
        app.out.note(&format!("{}: {} -> {}", difference.setting, difference.found, difference.wanted));
        changes.push(object! {
            "setting" => difference.setting,
            "found" => difference.found.as_str(),
            "wanted" => difference.wanted.as_str(),
        });
    }
    if !dry_run && !named.is_empty() {
        if !irregular.is_empty() {
            let irregular = irregular.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            let question = format!("The change also repairs settings of the stream ({irregular})");
            confirm::name(app, &question, bucket).await?;
        }
        let target = app.store_to_write(bucket).await?;
        let losses = settings.losses(&view.status.config);
        if !losses.is_empty() {
            let question = format!("In bucket `{bucket}` with {} entries, {}", view.status.values, losses.join("; "));
            confirm::name(app, &question, bucket).await?;
        }
        let open = open_to_set(target, bucket, settings).await?;
        app.writes.count_settings();
        open.on_drift(Drift::Update).await?;
    }
    let done = if named.is_empty() { "unchanged" } else { "changed" };
    report(app, bucket, done, dry_run, object! { "changes" => changes })
}

async fn remove(app: &App, bucket: &str, dry_run: bool) -> Done {
    let view = app.view(bucket).await?;
    let (entries, bytes) = (view.status.values, view.status.bytes);
    if !dry_run {
        let target = app.store_to_write(bucket).await?;
        if !target.is_production() {
            let question = format!("This removes bucket `{bucket}` with {entries} entries ({})", time::bytes(bytes));
            confirm::name(app, &question, bucket).await?;
        }
        // Through a handle, so that only the bucket that was counted is removed.
        target.store.raw(bucket).await?.destroy().await?;
    }
    report(app, bucket, "removed", dry_run, object! { "entries" => entries, "bytes" => bytes })
}

async fn compact(app: &App, bucket: &str, older_than: Duration) -> Done {
    let view = app.write_view(bucket, true).await?;
    let compacted = view.bucket.compact(older_than).await?;
    let json = object! {
        "v" => 1u8,
        "type" => "compacted",
        "bucket" => bucket,
        "markers" => compacted.markers,
        "entries" => compacted.entries,
        "bytes" => compacted.bytes,
    };
    let cells = [compacted.markers, compacted.entries, compacted.bytes].map(|count| count.to_string());
    app.out.one(&["MARKERS", "ENTRIES", "BYTES"], &Item::new(json).cells(cells).name(bucket))?;
    Ok(Code::Success)
}

async fn drift(app: &App, bucket: &str, settings: &Settings) -> Done {
    let view = app.view(bucket).await?;
    let differences = settings.differences(&view.status.config);
    let mut list = app.out.list(&["SETTING", "WANTED", "FOUND"]);
    for difference in &differences {
        let json = object! {
            "v" => 1u8,
            "type" => "drift",
            "bucket" => bucket,
            "setting" => difference.setting,
            "wanted" => difference.wanted.as_str(),
            "found" => difference.found.as_str(),
        };
        let cells = [difference.setting.to_owned(), difference.wanted.clone(), difference.found.clone()];
        list.push(Item::new(json).cells(cells).name(difference.setting))?;
    }
    list.finish()?;
    Ok(if differences.is_empty() { Code::Success } else { Code::No })
}
