//! `election`: the leaders of a bucket, and a command that runs while leading.

use futures::StreamExt;
use kvtyped::recipes::{Election, Leader, RecipeKind};
use serde_json::Value;

use crate::app::App;
use crate::child::RunOptions;
use crate::commands::is_end_of_watch;
use crate::fail::{Code, Done, Failure, message_of};
use crate::json::{Json, object};
use crate::out::Item;
use crate::readable::{Readable, of_bucket};
use crate::recipes::{Held, InBucket, Recipe, buckets_with, handle, lease_ttl};
use crate::terms::{EndOptions, Term, last_end};

/// The commands of `election`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the leaders
    Ls(InBucket),
    /// Show the leader of an election. Exit code 3 if there is no leader
    Show {
        #[command(flatten)]
        recipe: Recipe,
    },
    /// Print each new leader
    Watch {
        #[command(flatten)]
        recipe: Recipe,
        /// End after this many leaders
        #[arg(long, value_name = "N")]
        until: Option<u64>,
    },
    /// Campaign, and run a command while leading. The exit code is that of the command; 124 if the leadership was not
    /// had in time, 125 if it was lost or the tool failed
    Run {
        #[command(flatten)]
        recipe: Recipe,
        /// The value that describes the leader, as JSON
        #[arg(long, value_name = "JSON", default_value = "null", value_parser = parse_value)]
        value: Value,
        #[command(flatten)]
        options: RunOptions,
    },
    /// End the term of the leader, so that another candidate is elected
    Resign {
        #[command(flatten)]
        recipe: Recipe,
        #[command(flatten)]
        options: EndOptions,
    },
}

fn parse_value(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))
}

const COLUMNS: [&str; 7] = ["BUCKET", "ELECTION", "OWNER", "LEADING", "LEFT", "FENCE", "VALUE"];

pub(crate) async fn run(app: &App, command: Command) -> Done {
    match command {
        Command::Ls(bucket) => ls(app, bucket.name()).await,
        Command::Show { recipe } => {
            let Some(leader) = election(app, &recipe).await?.leader().await? else {
                return Err(no_leader(app, &recipe).await?);
            };
            app.out.one(&COLUMNS, &item(recipe.bucket(), &recipe.name, &leader))?;
            Ok(Code::Success)
        }
        Command::Watch { recipe, until } => watch(app, &recipe, until).await,
        Command::Run { recipe, value, options } => {
            let margin = options.margin()?;
            let target = app.store_to_write(recipe.bucket()).await.map_err(RunOptions::not_run)?;
            let election = target.store.election::<Value>(&*recipe.name).bucket(recipe.bucket());
            let election = election.ttl(options.ttl).safety_margin(margin);
            lead(app, election, &recipe.name, &value, &options).await
        }
        Command::Resign { recipe, options } => resign(app, &recipe, &options).await,
    }
}

async fn election(app: &App, recipe: &Recipe) -> Result<Election<Value>, Failure> {
    handle(app, recipe, |store, bucket, ttl| store.election(&*recipe.name).bucket(bucket).ttl(ttl)).await
}

/// Returns the error of an election without a leader, which says how the last term ended.
async fn no_leader(app: &App, recipe: &Recipe) -> Result<Failure, Failure> {
    let last_end = last_end(&recipe.view(app).await?, RecipeKind::Election, &recipe.name, false).await?;
    let ended = last_end.map(|end| format!("; last end: {}", end.text)).unwrap_or_default();
    Ok(Failure::not_found(format!("election `{}` has no leader{ended}", recipe.name)))
}

fn held(leader: &Leader<Value>) -> Held<'_> {
    Held {
        owner: leader.owner(),
        since: leader.since(),
        renewed: leader.renewed(),
        expires_in: leader.expires_in(),
        fence: Some(leader.fence().get()),
    }
}

fn item(bucket: &str, name: &str, leader: &Leader<Value>) -> Item {
    let json = object! { "v" => 1u8, "type" => "leader", "bucket" => bucket, "election" => name };
    let value = Json::from(leader.value());
    let held = held(leader);
    let cells = [
        bucket.to_owned(),
        name.to_owned(),
        leader.owner().to_owned(),
        held.held_for(),
        held.left(),
        leader.fence().to_string(),
        value.line(),
    ];
    Item::new(held.json(json).with("value", value)).cells(cells).name(name)
}

async fn ls(app: &App, bucket: Option<&str>) -> Done {
    let (is_named, mut list, mut code) = (bucket.is_some(), app.out.list(&COLUMNS), Code::Success);
    for bucket in buckets_with(app, RecipeKind::Election, bucket).await? {
        let ttl = lease_ttl(&app.view(&bucket).await?.status.config);
        let any = app.store().await?.election::<Value>(&*bucket).ttl(ttl);
        let Some(leaders) = of_bucket(app, is_named, any.all().await)? else { continue };
        let mut leaders = Readable::new(app, leaders);
        while let Some((name, leader)) = leaders.next().await? {
            list.push(item(&bucket, &name, &leader))?;
        }
        code = if code == Code::Success { leaders.code() } else { code };
    }
    list.finish()?;
    Ok(code)
}

async fn watch(app: &App, recipe: &Recipe, until: Option<u64>) -> Done {
    let mut leaders = election(app, recipe).await?.observe().await?;
    let mut list = app.out.live(&COLUMNS);
    while until != Some(list.count()) {
        match leaders.next().await {
            Some(Ok(leader)) => list.push(item(recipe.bucket(), &recipe.name, &leader))?,
            Some(Err(error)) if is_end_of_watch(&error) => return Err(error.into()),
            Some(Err(error)) => app.out.warn(&message_of(&error)),
            None => break,
        }
    }
    list.finish()?;
    Ok(Code::Success)
}

async fn lead(app: &App, election: Election<Value>, name: &str, value: &Value, options: &RunOptions) -> Done {
    let election = options.owner.iter().fold(election, |election, owner| election.owner(owner));
    let what = format!("the leadership of `{name}`");
    let campaign = election.campaign(value);
    let campaign = if let Some(limit) = options.wait { campaign.wait(limit) } else { campaign };
    let leadership = campaign.await.map_err(RunOptions::not_had)?;
    let ended = options.run(app, &leadership, &what).await;
    let released = leadership.resign().await;
    RunOptions::finish(app, &what, ended?, released)
}

async fn resign(app: &App, recipe: &Recipe, options: &EndOptions) -> Done {
    let election = election(app, recipe).await?;
    let term = Term {
        kind: RecipeKind::Election,
        bucket: recipe.bucket(),
        name: &recipe.name,
        what: format!("election `{}`", recipe.name),
        object: "leader_deposed",
        done: "deposed",
    };
    let Some(leader) = election.leader().await? else {
        app.out.note(&format!("{} has no leader", term.what));
        return Ok(Code::Success);
    };
    term.check_fence(leader.fence().get(), options.fence)?;
    app.out.note(&format!(
        "the leader `{}` learns of the end of its term at its next renewal, usually within a third of the TTL; another \
         leader may be elected before that",
        leader.owner()
    ));
    let deposed = async { election.depose(leader.fence()).await.map(drop) };
    term.end(app, &held(&leader), options, deposed).await
}
