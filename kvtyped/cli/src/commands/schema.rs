//! `schema`: the models of a bucket, and whether the records fit them.

use kvtyped::schema::Schema;

use crate::app::App;
use crate::commands::filter;
use crate::escape::escape_lines;
use crate::fail::{Code, Done};
use crate::json::{Json, object};
use crate::out::Item;
use crate::readable::Readable;
use crate::records::{Checked, Checker};

/// The commands of `schema`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the models of a bucket with their published schemas
    Show {
        /// The bucket
        bucket: String,
    },
    /// Check records against the codec, the versions and the published schemas of their models. Exit code 1 if a record
    /// does not fit
    Check {
        /// The bucket
        bucket: String,
        /// A filter of keys, such as `acme.*` or `acme.>`
        filter: Option<String>,
        /// Check at most this many records
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
}

pub(crate) async fn run(app: &App, command: Command) -> Done {
    match command {
        Command::Show { bucket } => show(app, &bucket).await,
        Command::Check { bucket, filter, limit } => check(app, &bucket, filter.as_deref(), limit).await,
    }
}

async fn show(app: &App, bucket: &str) -> Done {
    let view = app.view(bucket).await?;
    let metadata = &view.status.config.metadata;
    let checker = Checker::of(&view.status.config);
    let mut list = app.out.list(&["MODEL", "VERSION", "WRITES", "OLDEST", "KEY", "CODEC", "SCHEMAS"]);
    for model in view.models.all() {
        let card = &model.card;
        let versions = checker.published(&model.name);
        let text = |version: &u32| metadata.get(&format!("kvtyped.schema.{}.{version}", model.name));
        let schemas = versions.iter().filter_map(|version| {
            let schema = Json::parse(text(version)?.as_bytes()).ok()?;
            Some((version.to_string(), schema))
        });
        let json = object! {
            "v" => 1u8,
            "type" => "model",
            "bucket" => bucket,
            "model" => model.name.as_str(),
            "version" => card.version,
            "writes" => card.writes,
            "oldest" => card.oldest,
            "key" => card.key.as_str(),
            "codec" => card.codec.as_str(),
            "fingerprint" => card.schema.as_deref(),
            "key_codec" => card.key_codec.as_deref(),
            "crate" => card.written_by.as_deref(),
            "schemas" => Json::Object(schemas.collect()),
        };
        let numbers: Vec<_> = versions.iter().map(ToString::to_string).collect();
        let cells = [
            model.name.clone(),
            card.version.to_string(),
            card.writes.to_string(),
            card.oldest.to_string(),
            card.key.clone(),
            card.codec.clone(),
            numbers.join(","),
        ];
        let mut item = Item::new(json).cells(cells).name(&model.name);
        if app.out.is_for_person()
            && let Some(schema) = text(&card.version).and_then(|text| Schema::from_json(text).ok())
        {
            item = item.body(format!("{}\n", escape_lines(&schema.to_string())));
        }
        list.push(item)?;
    }
    let count = list.count();
    list.finish()?;
    if count == 0 {
        app.out.note(&format!("bucket `{bucket}` has no model cards; a program that opens it with its model adds one"));
    }
    Ok(Code::Success)
}

async fn check(app: &App, bucket: &str, keys: Option<&str>, limit: Option<usize>) -> Done {
    let view = app.view(bucket).await?;
    let checker = Checker::of(&view.status.config);
    let entries = view.bucket.list(filter(keys)?);
    let entries = limit.into_iter().fold(entries, |entries, limit| entries.limit(limit)).await?;
    let mut entries = Readable::new(app, entries);
    let mut list = app.out.list(&["KEY", "REVISION", "MODEL", "VERSION", "REASON"]);
    let (mut records, mut fitting, mut decoding, mut unknown) = (0u64, 0u64, 0u64, 0u64);
    while let Some(entry) = entries.next().await? {
        records += 1;
        match checker.check(&entry) {
            Checked::Fits => fitting += 1,
            Checked::Decodes => decoding += 1,
            Checked::NoModel => unknown += 1,
            Checked::Problem { model, version, reason } => {
                let json = object! {
                    "v" => 1u8,
                    "type" => "schema_finding",
                    "bucket" => bucket,
                    "key" => entry.key().as_str(),
                    "revision" => entry.revision(),
                    "model" => model.as_str(),
                    "version" => version,
                    "reason" => reason.as_str(),
                };
                let revision = entry.revision().to_string();
                let cells = [entry.key().to_string(), revision, model, version.to_string(), reason];
                list.push(Item::new(json).cells(cells).name(entry.key().as_str()))?;
            }
        }
    }
    let problems = list.count();
    list.finish()?;
    let json = object! {
        "v" => 1u8,
        "type" => "schema_summary",
        "bucket" => bucket,
        "records" => records,
        "fitting" => fitting,
        "decoding" => decoding,
        "without_model" => unknown,
        "findings" => problems,
    };
    let text = format!(
        "{records} records: {fitting} fit their schema, {decoding} decode and have no published schema, {unknown} belong \
         to no model, {problems} do not fit"
    );
    app.out.note_object(&json, &text);
    Ok(if problems == 0 { Code::Success } else { Code::No })
}
