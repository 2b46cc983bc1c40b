//! `once`: work that runs once for a key, and its results.

use kvtyped::recipes::{Once, OnceState, RecipeKind};
use kvtyped::{Entry, RawRecord, Read};
use serde_json::Value;

use crate::app::App;
use crate::confirm;
use crate::fail::{Code, Done, Failure};
use crate::json::{Json, object};
use crate::out::{Item, Payload};
use crate::readable::Readable;
use crate::recipes::{Held, Recipe, handle, record_key};
use crate::time;

/// The commands of `once`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the keys: running work and stored results
    Ls {
        #[command(flatten)]
        recipe: Recipe,
    },
    /// Show one key with its result
    Show {
        #[command(flatten)]
        recipe: Recipe,
        /// The key
        key: String,
    },
    /// Remove a stored result, so that the next call runs the work again
    Forget {
        #[command(flatten)]
        recipe: Recipe,
        /// The key
        key: String,
        /// Only print what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}

const COLUMNS: [&str; 5] = ["KEY", "STATE", "OWNER", "SINCE", "LEFT"];

pub(crate) async fn run(app: &App, command: Command) -> Done {
    match command {
        Command::Ls { recipe } => ls(app, &recipe).await,
        Command::Show { recipe, key } => show(app, &recipe, &key).await,
        Command::Forget { recipe, key, dry_run } => forget(app, &recipe, &key, dry_run).await,
    }
}

async fn once(app: &App, recipe: &Recipe) -> Result<Once<Value>, Failure> {
    handle(app, recipe, |store, bucket, ttl| store.once(&*recipe.name).bucket(bucket).ttl(ttl)).await
}

fn key_json(recipe: &Recipe, key: &str, state: &str) -> Json {
    object! { "v" => 1u8, "type" => "once", "recipe" => recipe.name.as_str(), "key" => key, "state" => state }
}

fn item(recipe: &Recipe, key: &str, state: &OnceState) -> Item {
    let ago = |at: std::time::SystemTime| std::time::SystemTime::now().duration_since(at).unwrap_or_default();
    let (json, cells) = match state {
        OnceState::Running { owner, since, renewed, expires_in } => {
            let held = Held { owner, since: *since, renewed: *renewed, expires_in: *expires_in, fence: None };
            let cells = [key.to_owned(), "running".into(), owner.clone(), held.held_for(), held.left()];
            (held.json(key_json(recipe, key, "running")), cells)
        }
        OnceState::Done { stored_at, expires_in } => {
            let json = key_json(recipe, key, "done")
                .with("stored_at", time::rfc3339(*stored_at))
                .with("expires_in_ms", *expires_in);
            let left = expires_in.map(time::short).unwrap_or_default();
            (json, [key.to_owned(), "done".into(), String::new(), time::short(ago(*stored_at)), left])
        }
        _ => (key_json(recipe, key, "unknown"), [key.to_owned(), "unknown".into(), "".into(), "".into(), "".into()]),
    };
    Item::new(json).cells(cells).name(key)
}

async fn ls(app: &App, recipe: &Recipe) -> Done {
    let mut keys = Readable::new(app, once(app, recipe).await?.all().await?);
    let mut list = app.out.list(&COLUMNS);
    while let Some((key, state)) = keys.next().await? {
        list.push(item(recipe, &key, &state))?;
    }
    list.finish()?;
    Ok(keys.code())
}

/// Returns the result in a record. Returns `None` while the work runs.
fn result_of(record: &Json) -> Option<&Json> {
    record.get("value")?.get("result")
}

/// Returns the record of a key.
async fn record(app: &App, recipe: &Recipe, key: &str) -> Result<(Entry<RawRecord>, Json), Failure> {
    let view = recipe.view(app).await?;
    let stored = record_key(RecipeKind::Once, &recipe.name, key)?;
    let entry = view.bucket.get(&stored).read(Read::Leader).await?;
    let entry = entry.ok_or_else(|| {
        Failure::not_found(format!("`{}` has neither a run nor a result for key `{key}`", recipe.name))
            .hint(format!("list the keys with `kvtyped once ls {}`", recipe.name))
    })?;
    let json = Json::parse(&entry.bytes).map_err(|_| Failure::data(format!("record `{stored}` is not JSON")))?;
    Ok((entry, json))
}

async fn show(app: &App, recipe: &Recipe, key: &str) -> Done {
    let (entry, record) = record(app, recipe, key).await?;
    let result = result_of(&record).cloned();
    let state = match &result {
        Some(_) => OnceState::Done { stored_at: entry.created(), expires_in: entry.remaining() },
        None => OnceState::Running {
            owner: record.get("owner").and_then(Json::text).unwrap_or_default().to_owned(),
            since: time::of_millis(record.get("since").and_then(Json::unsigned).unwrap_or_default()),
            renewed: entry.created(),
            expires_in: entry.remaining().unwrap_or(std::time::Duration::MAX),
        },
    };
    let item = item(recipe, key, &state);
    let item = match result {
        Some(result) => {
            let body = crate::escape::escape_json(result.pretty());
            item.with("result", result.clone()).value(Payload::Json(result)).body(body)
        }
        None => item,
    };
    app.out.one(&COLUMNS, &item)?;
    Ok(Code::Success)
}

async fn forget(app: &App, recipe: &Recipe, key: &str, dry_run: bool) -> Done {
    let (_, record) = record(app, recipe, key).await?;
    if result_of(&record).is_none() {
        return Err(Failure::conflict(format!("the work of key `{key}` runs, and has no result yet")));
    }
    if !dry_run {
        let (target, _) = recipe.target_to_write(app).await?;
        if !target.is_production() {
            let what = format!("This removes the result of `{key}`, so that its work runs again");
            confirm::name(app, &what, key).await?;
        }
        if !once(app, recipe).await?.forget(key).await? {
            return Err(Failure::conflict(format!("the result of key `{key}` was removed, or its work runs again")));
        }
    }
    let json = key_json(recipe, key, "forgotten").with("dry_run", dry_run.then_some(true));
    let done = if dry_run { "would be forgotten" } else { "forgotten" };
    app.out.one(&["KEY", "STATE"], &Item::new(json).cells([key, done]).name(key))?;
    Ok(Code::Success)
}
