//! `group`: the live members of groups.

use futures::StreamExt;
use kvtyped::recipes::{Group, GroupEvent, LeaveReason, MemberInfo, RecipeKind};
use serde_json::Value;

use crate::app::App;
use crate::commands::is_end_of_watch;
use crate::fail::{Code, Done, Failure, message_of};
use crate::json::{Json, object};
use crate::out::Item;
use crate::recipes::{Held, InBucket, Recipe, found, handle};

/// The commands of `group`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the groups with the numbers of their members
    Ls(InBucket),
    /// List the members of a group
    Members {
        #[command(flatten)]
        recipe: Recipe,
    },
    /// Print the members, and then each change
    Watch {
        #[command(flatten)]
        recipe: Recipe,
        /// End after this many events
        #[arg(long, value_name = "N")]
        until: Option<u64>,
    },
}

const COLUMNS: [&str; 5] = ["MEMBER", "OWNER", "JOINED", "LEFT", "VALUE"];

pub(crate) async fn run(app: &App, command: Command) -> Done {
    match command {
        Command::Ls(bucket) => ls(app, bucket.name()).await,
        Command::Members { recipe } => members(app, &recipe).await,
        Command::Watch { recipe, until } => watch(app, &recipe, until).await,
    }
}

async fn ls(app: &App, bucket: Option<&str>) -> Done {
    let mut list = app.out.list(&["BUCKET", "GROUP", "MEMBERS"]);
    for (bucket, group) in found(app, RecipeKind::Group, bucket).await? {
        let json = object! {
            "v" => 1u8,
            "type" => "group",
            "bucket" => bucket.as_str(),
            "group" => group.name.as_str(),
            "members" => group.records,
        };
        let cells = [bucket, group.name.clone(), group.records.to_string()];
        list.push(Item::new(json).cells(cells).name(group.name))?;
    }
    list.finish()?;
    Ok(Code::Success)
}

async fn group(app: &App, recipe: &Recipe) -> Result<Group<Value>, Failure> {
    handle(app, recipe, |store, bucket, ttl| store.group(&*recipe.name).bucket(bucket).ttl(ttl)).await
}

fn member_json(group: &str, op: &str, id: &str) -> Json {
    object! { "v" => 1u8, "type" => "member", "group" => group, "op" => op, "member" => id }
}

/// Returns the object of a member and its cells.
fn described(group: &str, op: &str, member: &MemberInfo<Value>) -> (Json, [String; 5]) {
    let held = Held {
        owner: member.owner(),
        since: member.since(),
        renewed: member.renewed(),
        expires_in: member.expires_in(),
        fence: Some(member.fence().get()),
    };
    let value = Json::from(member.value());
    let cells = [member.id().to_owned(), member.owner().to_owned(), held.held_for(), held.left(), value.line()];
    (held.json(member_json(group, op, member.id())).with("value", value), cells)
}

async fn members(app: &App, recipe: &Recipe) -> Done {
    let mut list = app.out.list(&COLUMNS);
    for member in group(app, recipe).await?.members().await? {
        let (json, cells) = described(&recipe.name, "joined", &member);
        list.push(Item::new(json).cells(cells).name(member.id()))?;
    }
    list.finish()?;
    Ok(Code::Success)
}

async fn watch(app: &App, recipe: &Recipe, until: Option<u64>) -> Done {
    let mut events = group(app, recipe).await?.watch().await?;
    let mut list = app.out.live(&["OP", "MEMBER", "OWNER", "VALUE"]);
    let name = recipe.name.as_str();
    let item = |op: &str, member: &MemberInfo<Value>| {
        let (json, [id, owner, .., value]) = described(name, op, member);
        Item::new(json).cells([op.to_owned(), id.clone(), owner, value]).name(id)
    };
    while until != Some(list.count()) {
        match events.next().await {
            Some(Ok(GroupEvent::Joined(member))) => list.push(item("joined", &member))?,
            Some(Ok(GroupEvent::Updated(member))) => list.push(item("updated", &member))?,
            Some(Ok(GroupEvent::Left { id, reason })) => {
                let op = if reason == LeaveReason::Expired { "expired" } else { "left" };
                list.push(Item::new(member_json(name, op, &id)).cells([op, &id, "", ""]).name(&*id))?;
            }
            Some(Ok(GroupEvent::Ready)) => app.note_watch("ready", "all members are printed; changes follow"),
            Some(Ok(_)) => {}
            Some(Err(error)) if is_end_of_watch(&error) => return Err(error.into()),
            Some(Err(error)) => app.out.warn(&message_of(&error)),
            None => break,
        }
    }
    list.finish()?;
    Ok(Code::Success)
}
