//! `top`: the rates of all buckets, again and again.

use std::collections::HashMap;
use std::time::Duration;

use kvtyped::bucket::BucketStatus;
use tokio::time::Instant;

use crate::app::{App, View};
use crate::fail::{Code, Done, Failure};
use crate::json::object;
use crate::out::Item;
use crate::time::{self, parse_duration};

/// The arguments of `top`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The buckets. By default all
    buckets: Vec<String>,
    /// The time between two readings
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    interval: Duration,
    /// End after this many readings
    #[arg(long, value_name = "N")]
    until: Option<u64>,
}

const COLUMNS: [&str; 6] = ["BUCKET", "WRITES/S", "RECORDS≤", "BYTES", "RECIPES", "BEHIND"];

/// One reading of a bucket.
struct Reading {
    status: BucketStatus,
    /// The number of records of recipes.
    recipes: u64,
    at: Instant,
}

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let store = app.store().await?;
    let mut before: HashMap<String, Reading> = HashMap::new();
    // The rates need an earlier reading.
    for name in names(app, &args).await? {
        if let Some(reading) = read(app, &name).await? {
            before.insert(name, reading);
        }
    }
    let mut count = 0;
    while args.until != Some(count) {
        tokio::time::sleep(args.interval).await;
        let mut items = Vec::new();
        for name in names(app, &args).await? {
            let Some(reading) = read(app, &name).await? else { continue };
            items.push(item(app, &reading, before.get(&name)));
            before.insert(name, reading);
        }
        // A table on a terminal replaces the previous one. In a pipe, the readings follow each other.
        app.out.redraw()?;
        let mut list = app.out.list(&COLUMNS);
        items.into_iter().try_for_each(|item| list.push(item))?;
        list.finish()?;
        count += 1;
        if !store.connection().borrow().connected {
            app.out.warn("the connection is lost");
        }
    }
    Ok(Code::Success)
}

async fn names(app: &App, args: &Args) -> Result<Vec<String>, Failure> {
    match args.buckets.is_empty() {
        true => Ok(app.store().await?.buckets().await?),
        false => Ok(args.buckets.clone()),
    }
}

/// Reads a bucket. `None` if it was removed, or if it contains counters of the server.
async fn read(app: &App, name: &str) -> Result<Option<Reading>, Failure> {
    let view = match app.view(name).await {
        Ok(View { status, .. }) => status,
        Err(failure) if matches!(failure.code, Code::NotFound | Code::Unsupported) => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let recipes = app.store().await?.recipes(name).await?;
    let recipes = recipes.iter().map(|recipe| recipe.records).sum();
    Ok(Some(Reading { status: view, recipes, at: Instant::now() }))
}

fn item(app: &App, now: &Reading, before: Option<&Reading>) -> Item {
    let Reading { status, recipes, at } = now;
    let rate = before.map(|before| {
        let writes = status.last_revision.get().saturating_sub(before.status.last_revision.get());
        let seconds = at.duration_since(before.at).as_secs_f64();
        if seconds > 0.0 { writes as f64 / seconds } else { 0.0 }
    });
    let json = object! {
        "v" => 1u8,
        "type" => "rates",
        "bucket" => status.bucket(),
        "writes_per_second" => rate,
        "entries" => status.values,
        "bytes" => status.bytes,
        "recipe_records" => *recipes,
        "replicas_behind" => status.replicas_behind,
        "has_leader" => status.has_leader,
    };
    let behind = if status.has_leader { status.replicas_behind.to_string() } else { "no leader".to_owned() };
    let cells = [
        status.bucket().to_owned(),
        rate.map(|rate| format!("{rate:.1}")).unwrap_or_default(),
        status.values.to_string(),
        if app.out.is_for_person() { time::bytes(status.bytes) } else { status.bytes.to_string() },
        recipes.to_string(),
        behind,
    ];
    Item::new(json).cells(cells).name(status.bucket())
}
