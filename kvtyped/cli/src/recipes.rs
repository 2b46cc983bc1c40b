//! Helpers of the commands of recipes: the bucket and the keys of the records, and leases as objects.

use std::time::{Duration, SystemTime};

use kvtyped::config::BucketConfig;
use kvtyped::key::escape;
use kvtyped::recipes::{RecipeInfo, RecipeKind};
use kvtyped::{Filter, Key, RawRecord, Store};

use crate::app::{App, Target, View};
use crate::fail::Failure;
use crate::json::{Json, object};
use crate::readable::of_bucket;
use crate::time;

/// The bucket of a list of recipes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct InBucket {
    /// The bucket. By default all buckets
    bucket: Option<String>,
}

impl InBucket {
    pub(crate) fn name(&self) -> Option<&str> {
        self.bucket.as_deref()
    }
}

/// A recipe that an argument names.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Recipe {
    /// The name that the program passes to `store.election(..)` or a similar function
    #[arg(id = "recipe", value_name = "RECIPE")]
    pub(crate) name: String,
    /// The bucket of the records, if its name is not the name of the recipe
    #[arg(long, value_name = "BUCKET")]
    bucket: Option<String>,
}

impl Recipe {
    pub(crate) fn bucket(&self) -> &str {
        self.bucket.as_deref().unwrap_or(&self.name)
    }

    /// Opens the bucket for reading. A handle of a recipe creates a missing bucket, so this comes first.
    pub(crate) async fn view(&self, app: &App) -> Result<View, Failure> {
        app.view(self.bucket()).await
    }

    /// Returns the store for a command that writes, if the bucket exists.
    pub(crate) async fn target_to_write<'a>(&self, app: &'a App) -> Result<(&'a Target, View), Failure> {
        let target = app.store_to_write(self.bucket()).await?;
        let view = View::open(&target.store, self.bucket()).await?;
        Ok((target, view))
    }
}

/// Returns the longest TTL up to the default that a bucket with these settings allows for a lease.
pub(crate) fn lease_ttl(config: &BucketConfig) -> Duration {
    const DEFAULT: Duration = Duration::from_secs(30);
    const MIN: Duration = Duration::from_secs(1);
    config.ttl.map_or(DEFAULT, |ttl| DEFAULT.min(ttl / 2)).max(MIN)
}

/// Returns the recipes of a kind in a bucket, or in all buckets, with the names of their buckets.
pub(crate) async fn found(
    app: &App,
    kind: RecipeKind,
    bucket: Option<&str>,
) -> Result<Vec<(String, RecipeInfo)>, Failure> {
    let store = app.store().await?;
    let buckets = match bucket {
        Some(bucket) => vec![bucket.to_owned()],
        None => store.buckets().await?,
    };
    let mut found = Vec::new();
    for name in buckets {
        if let Some(recipes) = of_bucket(app, bucket.is_some(), store.recipes(&name).await)? {
            let of_kind = recipes.into_iter().filter(|recipe| recipe.kind == kind);
            found.extend(of_kind.map(|recipe| (name.clone(), recipe)));
        }
    }
    Ok(found)
}

/// Returns the buckets with recipes of a kind: the named one, or all of the store.
pub(crate) async fn buckets_with(app: &App, kind: RecipeKind, bucket: Option<&str>) -> Result<Vec<String>, Failure> {
    if let Some(bucket) = bucket {
        return Ok(vec![app.view(bucket).await?.name().to_owned()]);
    }
    let mut names: Vec<_> = found(app, kind, None).await?.into_iter().map(|(bucket, _)| bucket).collect();
    names.dedup();
    Ok(names)
}

/// Returns the key of a record of a recipe.
pub(crate) fn record_key(kind: RecipeKind, name: &str, part: &str) -> Result<Key, Failure> {
    Ok(Key::new(format!("{}.{kind}.{}.{}", Key::RESERVED, escape(name), escape(part)))?)
}

/// Returns the filter of all records of a recipe.
pub(crate) fn record_filter(kind: RecipeKind, name: &str) -> Result<Filter<RawRecord>, Failure> {
    Ok(Filter::subject(&format!("{}.{kind}.{}.*", Key::RESERVED, escape(name)))?)
}

/// A lease as other processes see it.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    pub(crate) owner: &'a str,
    pub(crate) since: SystemTime,
    pub(crate) renewed: SystemTime,
    pub(crate) expires_in: Duration,
    pub(crate) fence: Option<u64>,
}

impl Held<'_> {
    /// Adds the fields to an object.
    pub(crate) fn json(&self, object: Json) -> Json {
        object.extended(self.fields())
    }

    /// Returns the fields as an object.
    pub(crate) fn fields(&self) -> Json {
        object! {
            "owner" => self.owner,
            "fence" => self.fence,
            "since" => time::rfc3339(self.since),
            "renewed" => time::rfc3339(self.renewed),
            "expires_in_ms" => (self.expires_in != Duration::MAX).then_some(self.expires_in),
        }
    }

    /// Returns the remaining time as a cell.
    pub(crate) fn left(&self) -> String {
        if self.expires_in == Duration::MAX { String::new() } else { time::short(self.expires_in) }
    }

    /// Returns how long the holder has had the lease, as a cell. Compares its clock with the local one.
    pub(crate) fn held_for(&self) -> String {
        SystemTime::now().duration_since(self.since).map(time::short).unwrap_or_default()
    }
}

/// Opens the store of a recipe that exists, and returns the handle of the recipe that `handle` makes.
pub(crate) async fn handle<H>(
    app: &App,
    recipe: &Recipe,
    handle: impl FnOnce(&Store, &str, Duration) -> H,
) -> Result<H, Failure> {
    let view = recipe.view(app).await?;
    let ttl = lease_ttl(&view.status.config);
    Ok(handle(app.store().await?, recipe.bucket(), ttl))
}
