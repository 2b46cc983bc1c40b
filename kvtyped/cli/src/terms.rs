//! Terms that an operator ends: the confirmation, and a record of who ended them and why.

use std::time::{Duration, SystemTime};

use kvtyped::bucket::Version;
use kvtyped::key::escape;
use kvtyped::recipes::RecipeKind;
use kvtyped::{Key, RawRecord, Read, Revision};

use crate::app::{App, View};
use crate::confirm;
use crate::entry::op_of;
use crate::fail::{Code, Done, Failure};
use crate::json::{Json, object};
use crate::out::Item;
use crate::recipes::{Held, record_key};
use crate::time;

/// How long the record of an ended term is kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The options of a command that ends a term.
#[derive(Debug, clap::Args)]
pub(crate) struct EndOptions {
    /// The fence that `show` printed, so that only this term is ended
    #[arg(long, value_name = "FENCE")]
    pub(crate) fence: u64,
    /// Why, for the record of the end
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Only print what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// A term that an operator ends.
pub(crate) struct Term<'a> {
    pub(crate) kind: RecipeKind,
    pub(crate) bucket: &'a str,
    pub(crate) name: &'a str,
    /// The lock or the election in messages.
    pub(crate) what: String,
    /// The type of the object.
    pub(crate) object: &'static str,
    /// The new state of the term, such as `broken`.
    pub(crate) done: &'static str,
}

impl Term<'_> {
    /// Refuses a fence that is not the one of the current term.
    pub(crate) fn check_fence(&self, found: u64, wanted: u64) -> Result<(), Failure> {
        match found == wanted {
            true => Ok(()),
            false => Err(Failure::conflict(format!("{} has another holder now, with fence {found}", self.what))
                .hint("look at the holder again, and repeat the command with its fence if you still want to")),
        }
    }

    /// Asks, ends the term with `end`, and records the end in the bucket.
    pub(crate) async fn end(
        &self,
        app: &App,
        held: &Held<'_>,
        options: &EndOptions,
        end: impl Future<Output = kvtyped::Result<()>>,
    ) -> Done {
        if !options.dry_run {
            let target = app.store_to_write(self.bucket).await?;
            if !target.is_production() {
                let question = format!("This takes {} away from `{}`", self.what, held.owner);
                confirm::name(app, &question, self.name).await?;
            }
            end.await?;
        }
        let ended = held
            .fields()
            .with("how", self.done)
            .with("by", user())
            .with("reason", options.reason.as_deref())
            .with("at", time::rfc3339(SystemTime::now()));
        if !options.dry_run
            && let Err(failure) = self.record(app, &ended).await
        {
            app.out.warn(&format!("the end of the term is not recorded: {}", failure.message()));
        }
        let json = object! { "v" => 1u8, "type" => self.object, "recipe" => self.bucket, "name" => self.name };
        let json = json.extended(ended).with("dry_run", options.dry_run.then_some(true));
        let done = if options.dry_run { format!("would be {}", self.done) } else { self.done.to_owned() };
        let cells = [done, self.name.to_owned(), held.owner.to_owned(), held.fence.unwrap_or_default().to_string()];
        app.out.one(&["STATE", "NAME", "OWNER", "FENCE"], &Item::new(json).cells(cells).name(self.name))?;
        Ok(Code::Success)
    }

    /// Writes the record of the end, which replaces the one of an earlier term.
    async fn record(&self, app: &App, ended: &Json) -> Result<(), Failure> {
        let target = app.target().await?;
        let bucket = target.store.raw(self.bucket).await?;
        let value = object! { "v" => 1u8 }.extended(ended.clone()).line();
        let record = RawRecord::new(key(self.kind, self.name)?, value);
        let status = bucket.status().await?;
        let may_expire = status.entry_ttl && status.config.history.unwrap_or(1) == 1;
        match may_expire {
            true => bucket.put(&record).ttl(KEPT).await?,
            false => bucket.put(&record).await?,
        };
        Ok(())
    }
}

/// The end of the last term.
pub(crate) struct LastEnd {
    pub(crate) json: Json,
    /// One line for a person.
    pub(crate) text: String,
}

/// Returns how the last term ended: by an operator, a release, or an expiry. Returns `None` if this is unknown.
///
/// While the lease is held, considers only terms that an operator ended.
pub(crate) async fn last_end(
    view: &View,
    kind: RecipeKind,
    name: &str,
    is_held: bool,
) -> Result<Option<LastEnd>, Failure> {
    let recorded = view.bucket.get(&key(kind, name)?).read(Read::Leader).await?;
    if !is_held {
        let marker = marker(view, kind, name).await?;
        // The record of an operator follows the marker of the same end.
        let is_later = |marker: &Marker| recorded.as_ref().is_none_or(|entry| marker.revision > entry.revision());
        if let Some(marker) = marker.filter(is_later) {
            let json = object! { "how" => marker.how, "at" => time::rfc3339(marker.at) };
            let age = SystemTime::now().duration_since(marker.at).map(time::short).unwrap_or_default();
            let why = if marker.how == "expired" { ", because its holder did not renew it" } else { "" };
            return Ok(Some(LastEnd { json, text: format!("{} {age} ago{why}", marker.how) }));
        }
    }
    let Some(entry) = recorded else { return Ok(None) };
    // Another tool may have written it.
    let Ok(Json::Object(fields)) = Json::parse(&entry.bytes) else { return Ok(None) };
    let json = Json::Object(fields.into_iter().filter(|(field, _)| field != "v").collect());
    let text = |field: &str| json.get(field).and_then(Json::text);
    let (by, owner) = (text("by").unwrap_or("an unknown user"), text("owner").unwrap_or_default());
    let reason = text("reason").map(|reason| format!(": {reason}")).unwrap_or_default();
    let fence = json.get("fence").map(Json::line).unwrap_or_default();
    let how = text("how").unwrap_or("ended");
    let text = format!("term {fence} of {owner} was {how} by {by} {} ago{reason}", time::short(entry.age()));
    Ok(Some(LastEnd { json, text }))
}

/// The marker of a lease that was removed.
struct Marker {
    revision: Revision,
    at: SystemTime,
    /// `released` or `expired`.
    how: &'static str,
}

/// Returns the marker of a lease. Returns `None` if the lease has no marker, or no longer has it.
async fn marker(view: &View, kind: RecipeKind, name: &str) -> Result<Option<Marker>, Failure> {
    let versions = view.bucket.history(&record_key(kind, name, "lease")?).await?;
    Ok(versions.last().and_then(|version| match version {
        Version::Removed { revision, created, reason, .. } => {
            let how = if op_of(*reason) == "expire" { "expired" } else { "released" };
            Some(Marker { revision: *revision, at: *created, how })
        }
        _ => None,
    }))
}

fn key(kind: RecipeKind, name: &str) -> Result<Key, Failure> {
    Ok(Key::new(format!("{}.ended.{kind}.{}", Key::RESERVED, escape(name)))?)
}

/// Returns the name of the user, or the number if the environment does not name the user.
fn user() -> String {
    let named =
        ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    named.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}
