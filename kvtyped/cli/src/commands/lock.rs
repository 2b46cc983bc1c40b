//! `lock`: the locks of a bucket, and a command that runs under a lock.

use std::time::Duration;

use futures::StreamExt;
use kvtyped::recipes::{LockEvent, LockHolder, LockWaiter, Locks, RecipeKind};
use kvtyped::{Error, ErrorKind};
use tokio::time::Instant;

use crate::app::App;
use crate::child::RunOptions;
use crate::commands::is_end_of_watch;
use crate::entry::op_of;
use crate::fail::{Code, Done, Failure, message_of};
use crate::json::{Json, object};
use crate::out::Item;
use crate::readable::{Readable, of_bucket};
use crate::recipes::{Held, buckets_with, lease_ttl};
use crate::terms::{EndOptions, Term, last_end};
use crate::time;

/// The commands of `lock`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the held locks: who, since when, how long still
    Ls {
        /// The name that the program passes to `store.locks(..)`, or the bucket of locked records. By default all
        /// buckets
        recipe: Option<String>,
    },
    /// Show the holder and the waiters of a lock
    Show {
        /// The name that the program passes to `store.locks(..)`, or the bucket of locked records
        recipe: String,
        /// The lock
        name: String,
    },
    /// Print each change of a holder
    Watch {
        /// The name that the program passes to `store.locks(..)`, or the bucket of locked records
        recipe: String,
        /// The lock. By default all locks
        name: Option<String>,
        /// End after this many changes
        #[arg(long, value_name = "N")]
        until: Option<u64>,
    },
    /// Run a command while holding a lock. The exit code is that of the command; 124 if the lock was not had in time,
    /// 125 if it was lost or the tool failed
    Run {
        /// The name that the program passes to `store.locks(..)`
        recipe: String,
        /// The lock
        name: String,
        /// A note for others to read
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
        /// Take a ticket, so that waiters are served in the order of their arrival
        #[arg(long)]
        fair: bool,
        #[command(flatten)]
        options: RunOptions,
    },
    /// Take a lock away from its holder
    Break {
        /// The name that the program passes to `store.locks(..)`, or the bucket of locked records
        recipe: String,
        /// The lock
        name: String,
        #[command(flatten)]
        options: EndOptions,
        /// Wait until the lock expires or is released instead. Exit code 4 if its holder renews it
        #[arg(long)]
        wait: bool,
    },
}

const COLUMNS: [&str; 7] = ["RECIPE", "LOCK", "OWNER", "HELD", "LEFT", "FENCE", "NOTE"];

pub(crate) async fn run(app: &App, command: Command) -> Done {
    match command {
        Command::Ls { recipe } => ls(app, recipe.as_deref()).await,
        Command::Show { recipe, name } => show(app, &recipe, &name).await,
        Command::Watch { recipe, name, until } => watch(app, &recipe, name.as_deref(), until).await,
        Command::Run { recipe, name, note, fair, options } => {
            let margin = options.margin()?;
            let target = app.store_to_write(&recipe).await.map_err(RunOptions::not_run)?;
            let locks = target.store.locks(&*recipe).ttl(options.ttl).safety_margin(margin);
            let locks = note.into_iter().fold(locks, Locks::note);
            under_lock(app, if fair { locks.fair() } else { locks }, &recipe, &name, &options).await
        }
        Command::Break { recipe, name, options, wait } => {
            let term = Term {
                kind: RecipeKind::Lock,
                bucket: &recipe,
                name: &name,
                what: format!("lock `{name}` of `{recipe}`"),
                object: "lock_broken",
                done: "broken",
            };
            let locks = locks(app, &recipe).await?;
            match wait {
                true => wait_for_end(app, &locks, &term, options.fence).await,
                false => end(app, &locks, &term, &options).await,
            }
        }
    }
}

/// Returns the locks of a bucket that exists.
async fn locks(app: &App, recipe: &str) -> Result<Locks, Failure> {
    let view = app.view(recipe).await?;
    Ok(app.store().await?.locks(recipe).ttl(lease_ttl(&view.status.config)))
}

fn held(holder: &LockHolder) -> Held<'_> {
    Held {
        owner: &holder.owner,
        since: holder.since,
        renewed: holder.renewed,
        expires_in: holder.expires_in,
        fence: Some(holder.fence.get()),
    }
}

fn lock_json(recipe: &str, name: &str, holder: Option<&LockHolder>) -> Json {
    let state = if holder.is_some() { "held" } else { "free" };
    let json = object! { "v" => 1u8, "type" => "lock", "recipe" => recipe, "name" => name, "state" => state };
    match holder {
        Some(holder) => held(holder).json(json).with("note", holder.note.as_deref()),
        None => json,
    }
}

fn cells(recipe: &str, name: &str, holder: &LockHolder) -> [String; 7] {
    let held = held(holder);
    [
        recipe.to_owned(),
        name.to_owned(),
        holder.owner.clone(),
        held.held_for(),
        held.left(),
        holder.fence.to_string(),
        holder.note.clone().unwrap_or_default(),
    ]
}

async fn ls(app: &App, recipe: Option<&str>) -> Done {
    let (mut list, mut code) = (app.out.list(&COLUMNS), Code::Success);
    for bucket in buckets_with(app, RecipeKind::Lock, recipe).await? {
        let all = locks(app, &bucket).await?.all().await;
        let Some(all) = of_bucket(app, recipe.is_some(), all)? else { continue };
        let mut all = Readable::new(app, all);
        while let Some((name, holder)) = all.next().await? {
            let json = lock_json(&bucket, &name, Some(&holder));
            list.push(Item::new(json).cells(cells(&bucket, &name, &holder)).name(name))?;
        }
        code = if code == Code::Success { all.code() } else { code };
    }
    list.finish()?;
    Ok(code)
}

async fn show(app: &App, recipe: &str, name: &str) -> Done {
    let locks = locks(app, recipe).await?;
    let (holder, waiters) = (locks.holder(name).await?, locks.waiters(name).await?);
    let last_end = last_end(&app.view(recipe).await?, RecipeKind::Lock, name, holder.is_some()).await?;
    let waiter = |waiter: &LockWaiter| {
        let LockWaiter { owner, since, renewed, expires_in, .. } = waiter;
        let held = Held { owner, since: *since, renewed: *renewed, expires_in: *expires_in, fence: None };
        held.json(object! {}).with("note", waiter.note.as_deref())
    };
    let json = lock_json(recipe, name, holder.as_ref())
        .with("waiters", waiters.iter().map(waiter).collect::<Vec<_>>())
        .with("last_end", last_end.as_ref().map(|end| end.json.clone()));
    let item = Item::new(json).name(name);
    let mut cells = match &holder {
        Some(holder) => cells(recipe, name, holder).to_vec(),
        None => [recipe, name, "", "", "", "", ""].map(str::to_owned).to_vec(),
    };
    cells.insert(2, if holder.is_some() { "held" } else { "free" }.to_owned());
    let waiters = waiters.iter().map(|waiter| match &waiter.note {
        Some(note) => format!("{} ({note})", waiter.owner),
        None => waiter.owner.clone(),
    });
    cells.push(waiters.collect::<Vec<_>>().join(", "));
    cells.push(last_end.map(|end| end.text).unwrap_or_default());
    let columns = ["RECIPE", "LOCK", "STATE", "OWNER", "HELD", "LEFT", "FENCE", "NOTE", "WAITERS", "LAST END"];
    app.out.one(&columns, &item.cells(cells))?;
    Ok(Code::Success)
}

async fn watch(app: &App, recipe: &str, wanted: Option<&str>, until: Option<u64>) -> Done {
    let mut events = locks(app, recipe).await?.watch().await?;
    let mut list = app.out.live(&["STATE", "LOCK", "OWNER", "FENCE"]);
    let is_wanted = |name: &str| wanted.is_none_or(|wanted| wanted == name);
    while until != Some(list.count()) {
        let Some(event) = events.next().await else { break };
        match event {
            Ok(LockEvent::Held { name, holder }) if is_wanted(&name) => {
                let cells = ["held".to_owned(), name.clone(), holder.owner.clone(), holder.fence.to_string()];
                list.push(Item::new(lock_json(recipe, &name, Some(&holder))).cells(cells).name(name))?;
            }
            Ok(LockEvent::Free { name, reason }) if is_wanted(&name) => {
                let how = if op_of(reason) == "expire" { "expired" } else { "free" };
                let json = lock_json(recipe, &name, None).with("expired", (how == "expired").then_some(true));
                list.push(Item::new(json).cells([how, &name, "", ""]).name(&*name))?;
            }
            Ok(LockEvent::Ready) => app.note_watch("ready", "all holders are printed; changes follow"),
            Ok(LockEvent::Resync) => app.note_watch("resync", "changes may be missing; all holders follow again"),
            Ok(_) => {}
            Err(error) if is_end_of_watch(&error) => return Err(error.into()),
            Err(error) => app.out.warn(&message_of(&error)),
        }
    }
    list.finish()?;
    Ok(Code::Success)
}

async fn under_lock(app: &App, locks: Locks, recipe: &str, name: &str, options: &RunOptions) -> Done {
    let locks = options.owner.iter().fold(locks, |locks, owner| locks.owner(owner));
    let what = format!("lock `{name}` of `{recipe}`");
    let guard = match locks.try_lock(name).await.map_err(RunOptions::not_had)? {
        Some(guard) => guard,
        None if options.wait.is_some_and(|limit| limit.is_zero()) => {
            let error = Error::new(ErrorKind::Timeout { after: Duration::ZERO });
            return Err(RunOptions::not_had(error).context(&format!("{what} is held")));
        }
        None => {
            let holder = locks.holder(name).await.map_err(RunOptions::not_had)?;
            let holder = holder.map_or_else(String::new, |holder| format!(", which `{}` holds", holder.owner));
            app.out.note(&format!("waiting for {what}{holder}"));
            let lock = locks.lock(name);
            let lock = options.wait.into_iter().fold(lock, |lock, limit| lock.wait(limit));
            lock.await.map_err(RunOptions::not_had)?
        }
    };
    let ended = options.run(app, &guard, &what).await;
    let released = guard.release().await;
    RunOptions::finish(app, &what, ended?, released)
}

/// Returns the holder. `None` if the lock is free, which is reported.
async fn holder(app: &App, locks: &Locks, term: &Term<'_>, fence: u64) -> Result<Option<LockHolder>, Failure> {
    let holder = locks.holder(term.name).await?;
    match &holder {
        Some(holder) => term.check_fence(holder.fence.get(), fence)?,
        None => app.out.note(&format!("{} is free already", term.what)),
    }
    Ok(holder)
}

async fn end(app: &App, locks: &Locks, term: &Term<'_>, options: &EndOptions) -> Done {
    let Some(holder) = holder(app, locks, term, options.fence).await? else { return Ok(Code::Success) };
    app.out.note(&format!(
        "the holder `{}` learns of the loss at its next renewal, usually within a third of the TTL; until then it may \
         continue, and the server refuses only its fenced writes",
        holder.owner
    ));
    let broken = async { locks.break_lock(term.name, holder.fence).await.map(drop) };
    term.end(app, &held(&holder), options, broken).await
}

/// Waits until the term ends without a break.
async fn wait_for_end(app: &App, locks: &Locks, term: &Term<'_>, fence: u64) -> Done {
    let mut events = locks.watch().await?;
    let Some(found) = holder(app, locks, term, fence).await? else { return Ok(Code::Success) };
    // No program of the library writes a lease without a TTL.
    if found.expires_in == Duration::MAX {
        return Err(Failure::conflict(format!("the record of {} has no TTL, so it does not expire", term.what)));
    }
    // The server expires a record up to a second late.
    let end = Instant::now() + found.expires_in + Duration::from_secs(2);
    app.out.note(&format!("waiting up to {} for the end of the TTL", time::short(end - Instant::now())));
    loop {
        match tokio::time::timeout_at(end, events.next()).await {
            Ok(Some(Ok(LockEvent::Free { name, .. }))) if name == term.name => break,
            Ok(Some(Ok(LockEvent::Held { name, holder: next }))) if name == term.name => {
                if next.fence != found.fence {
                    break;
                }
            }
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(error))) if is_end_of_watch(&error) => return Err(error.into()),
            Ok(Some(Err(error))) => app.out.warn(&message_of(&error)),
            Ok(None) | Err(_) => {
                let Some(now) = holder(app, locks, term, fence).await? else { break };
                return Err(Failure::conflict(format!(
                    "{} is still held: `{}` renewed it and is alive",
                    term.what, now.owner
                )));
            }
        }
    }
    app.out.note(&format!("the term of {} has ended", term.what));
    Ok(Code::Success)
}
