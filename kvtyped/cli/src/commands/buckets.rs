//! `buckets`: the buckets of a store.

use crate::app::{App, View};
use crate::fail::{Code, Done, Failure};
use crate::out::Item;
use crate::settings::bucket_json;
use crate::time;

/// The arguments of `buckets`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Count the entries by kind, which reads all keys: records, records of locks and other recipes, and the rest (delete
    /// markers and older revisions). Without it, the number of records is an upper bound that includes all kinds
    #[arg(long)]
    count: bool,
}

const COLUMNS: [&str; 8] = ["BUCKET", "RECORDS≤", "SIZE", "HISTORY", "TTL", "REPLICAS", "MODEL", "CODEC"];
const COUNTED: [&str; 10] =
    ["BUCKET", "RECORDS", "RECIPES", "OLD", "SIZE", "HISTORY", "TTL", "REPLICAS", "MODEL", "CODEC"];

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let store = app.store().await?;
    let mut list = if args.count { app.out.list(&COUNTED) } else { app.out.list(&COLUMNS) };
    for name in store.buckets().await? {
        match View::open(store, &name).await {
            Ok(view) => {
                let counted = if args.count { Some(Counted::of(&view).await?) } else { None };
                list.push(item(&view, counted))?;
            }
            // It was removed since the list of names.
            Err(failure) if failure.code == Code::NotFound => {}
            Err(failure) => return Err(failure),
        }
    }
    list.finish()?;
    Ok(Code::Success)
}

/// The entries of a bucket by kind.
#[derive(Debug, Clone, Copy)]
struct Counted {
    records: u64,
    /// The records of locks and other recipes.
    recipes: u64,
    /// Delete markers and older revisions.
    old: u64,
}

impl Counted {
    async fn of(view: &View) -> Result<Self, Failure> {
        let records = view.bucket.count(..).await?;
        let live = view.bucket.count(..).include_reserved().await?;
        // The counts were read at different times.
        let (recipes, old) = (live.saturating_sub(records), view.status.values.saturating_sub(live));
        Ok(Self { records, recipes, old })
    }
}

fn item(view: &View, counted: Option<Counted>) -> Item {
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
    let (json, counts) = match counted {
        None => (bucket_json(status), vec![status.values.to_string()]),
        Some(Counted { records, recipes, old }) => (
            bucket_json(status).with("records", records).with("recipe_records", recipes).with("old_entries", old),
            [records, recipes, old].map(|count| count.to_string()).to_vec(),
        ),
    };
    let cells = [
        size,
        config.history.unwrap_or(1).to_string(),
        config.ttl.map(time::short).unwrap_or_default(),
        format!("{}{behind}", config.replicas.unwrap_or(1)),
        of_models(|model| &model.name),
        of_models(|model| &model.card.codec),
    ];
    Item::new(json).name(&config.name).cells([config.name.clone()].into_iter().chain(counts).chain(cells))
}
