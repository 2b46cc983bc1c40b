//! `rate`: the keys of rate limiters.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use kvtyped::key::unescape;
use kvtyped::recipes::{Quota, RecipeKind};

use crate::app::App;
use crate::confirm;
use crate::fail::{Code, Done, Failure};
use crate::json::{Json, object};
use crate::out::Item;
use crate::recipes::{Recipe, record_filter};
use crate::time;

/// The commands of `rate`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show how much of its quota each key has used. A key that is not listed has its whole quota
    Show {
        #[command(flatten)]
        recipe: Recipe,
        /// The key. By default all keys
        key: Option<String>,
    },
    /// Forget the events of a key, so that its whole quota is available
    Reset {
        #[command(flatten)]
        recipe: Recipe,
        /// The key
        key: String,
        /// Only print what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

pub(crate) async fn run(app: &App, command: Command) -> Done {
    match command {
        Command::Show { recipe, key } => show(app, &recipe, key.as_deref()).await,
        Command::Reset { recipe, key, dry_run } => reset(app, &recipe, &key, dry_run).await,
    }
}

/// The state of a key, by the quota of the program that wrote it last.
#[derive(Debug, PartialEq)]
struct Usage {
    /// The number of events that are allowed at once, and how many of them are left. `None` if the record does not
    /// contain the quota.
    burst: Option<(u64, u64)>,
    /// The time that one event takes to recover.
    interval: Duration,
    /// The time until the whole burst is available.
    whole_in: Duration,
}

impl Usage {
    /// Reads a record, at a time of the server's clock.
    fn of(record: &Json, now: SystemTime) -> Option<Self> {
        let number = |field| record.get(field).and_then(Json::unsigned);
        let now = u64::try_from(now.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok()?;
        let whole_in = number("whole_at")?.saturating_sub(now);
        let (interval, burst) = (number("interval").unwrap_or_default(), number("burst").unwrap_or_default());
        let left = || burst.saturating_sub(whole_in.div_ceil(interval));
        Some(Self {
            burst: (interval > 0 && burst > 0).then(|| (burst, left())),
            interval: Duration::from_nanos(interval),
            whole_in: Duration::from_nanos(whole_in),
        })
    }
}

async fn show(app: &App, recipe: &Recipe, wanted: Option<&str>) -> Done {
    // The records are read as they are: a handle needs the quota of the program, and writes to read the clock.
    let view = recipe.view(app).await?;
    let filter = record_filter(RecipeKind::RateLimiter, &recipe.name)?;
    let mut entries = view.bucket.list(filter).include_reserved().await?;
    let mut list = app.out.list(&["KEY", "AVAILABLE", "BURST", "EVERY", "WHOLE IN"]);
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        let part = entry.key().segments().last().unwrap_or_default();
        let key = unescape(part).map_or_else(|_| part.to_owned(), |key| key.into_owned());
        if wanted.is_some_and(|wanted| wanted != key) {
            continue;
        }
        let Some(usage) = Json::parse(&entry.bytes).ok().and_then(|json| Usage::of(&json, view.status.now)) else {
            app.out.warn(&format!("record `{}` is not readable", entry.key()));
            continue;
        };
        let json = object! {
            "v" => 1u8,
            "type" => "rate",
            "recipe" => recipe.name.as_str(),
            "key" => key.as_str(),
            "available" => usage.burst.map(|(_, left)| left),
            "burst" => usage.burst.map(|(burst, _)| burst),
            "interval_ms" => usage.burst.map(|_| usage.interval.as_secs_f64() * 1_000.0),
            "whole_in_ms" => usage.whole_in,
        };
        let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
        let cells = [
            key.clone(),
            number(usage.burst.map(|(_, left)| left)),
            number(usage.burst.map(|(burst, _)| burst)),
            usage.burst.map(|_| time::short(usage.interval)).unwrap_or_default(),
            time::short(usage.whole_in),
        ];
        list.push(Item::new(json).cells(cells).name(key))?;
    }
    let is_missing = wanted.is_some() && list.count() == 0;
    list.finish()?;
    if is_missing {
        app.out.note("the key has no counted events, so its whole quota is available");
    }
    Ok(Code::Success)
}

async fn reset(app: &App, recipe: &Recipe, key: &str, dry_run: bool) -> Done {
    let cells = |state: &'static str| [key, state];
    let json = |state| {
        object! { "v" => 1u8, "type" => "rate_reset", "recipe" => recipe.name.as_str(), "key" => key, "state" => state }
    };
    let report = |state| app.out.one(&["KEY", "STATE"], &Item::new(json(state)).cells(cells(state)).name(key));
    if dry_run {
        recipe.view(app).await?;
        report("would be reset")?;
        return Ok(Code::Success);
    }
    let (target, _) = recipe.target_to_write(app).await?;
    if !target.is_production() {
        confirm::name(app, &format!("This gives key `{key}` of `{}` its whole quota again", recipe.name), key).await?;
    }
    // The removal does not depend on the quota.
    let limiter = target.store.rate_limiter(&*recipe.name, Quota::per_second(1)).bucket(recipe.bucket());
    match limiter.reset(key).await? {
        true => report("reset")?,
        false => return Err(Failure::not_found(format!("key `{key}` has no counted events"))),
    }
    Ok(Code::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_follows_from_the_record() {
        let now = UNIX_EPOCH + Duration::from_secs(100);
        let usage = |text: &str| Usage::of(&Json::parse(text.as_bytes()).unwrap(), now);
        let record = r#"{"v":1,"whole_at":102500000000,"since":0,"interval":1000000000,"burst":5}"#;
        let (interval, whole_in) = (Duration::from_secs(1), Duration::from_millis(2_500));
        assert_eq!(usage(record), Some(Usage { burst: Some((5, 2)), interval, whole_in }));
        let old = usage(r#"{"whole_at":1,"since":0}"#).unwrap();
        assert_eq!((old.burst, old.whole_in), (None, Duration::ZERO));
        assert_eq!(usage("{}"), None);
    }
}
