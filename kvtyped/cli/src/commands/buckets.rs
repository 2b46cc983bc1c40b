//! `buckets`: the buckets of a store.

use crate::app::{App, View};
use crate::fail::{Code, Done};
use crate::out::Item;
use crate::settings::bucket_json;
use crate::time;

/// The arguments of `buckets`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

const COLUMNS: [&str; 8] = ["BUCKET", "ENTRIES", "SIZE", "HISTORY", "TTL", "REPLICAS", "MODEL", "CODEC"];

pub(crate) async fn run(app: &App, Args {}: Args) -> Done {
    let store = app.store().await?;
    let mut list = app.out.list(&COLUMNS);
    for name in store.buckets().await? {
        match View::open(store, &name).await {
            Ok(view) => list.push(item(&view))?,
            // It was removed since the list of names.
            Err(failure) if failure.code == Code::NotFound => {}
            Err(failure) => return Err(failure),
        }
    }
    list.finish()?;
    Ok(Code::Success)
}

fn item(view: &View) -> Item {
    let status = &view.status;
    let config = &status.config;
    let size = match config.max_bytes {
        Some(max) => format!("{} of {}", time::bytes(status.bytes), time::bytes(max)),
        None => time::bytes(status.bytes),
    };
    let of_models = |text: fn(&crate::codec::Model) -> &str| {
        let mut texts: Vec<_> = view.models.all().iter().map(text).collect();
        texts.dedup();
        texts.join(",")
    };
    let behind = match status.replicas_behind {
        0 => String::new(),
        behind => format!(" ({behind} behind)"),
    };
    Item::new(bucket_json(status)).name(&config.name).cells([
        config.name.clone(),
        status.values.to_string(),
        size,
        config.history.unwrap_or(1).to_string(),
        config.ttl.map(time::short).unwrap_or_default(),
        format!("{}{behind}", config.replicas.unwrap_or(1)),
        of_models(|model| &model.name),
        of_models(|model| &model.card.codec),
    ])
}
