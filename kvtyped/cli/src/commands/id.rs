//! `id`: sequences of unique ids.

use crate::app::App;
use crate::fail::{Code, Done};
use crate::json::object;
use crate::out::{Item, Payload};
use crate::recipes::{Recipe, handle};

/// The commands of `id`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print the first id that no process has allocated, without allocating it
    Peek {
        #[command(flatten)]
        recipe: Recipe,
    },
}

pub(crate) async fn run(app: &App, command: Command) -> Done {
    let Command::Peek { recipe } = command;
    let ids = handle(app, &recipe, |store, bucket, _| store.ids(&*recipe.name).bucket(bucket)).await?;
    let next = ids.peek().await?;
    let json = object! { "v" => 1u8, "type" => "id", "recipe" => recipe.name.as_str(), "next" => next };
    let item = Item::new(json).cells([next.to_string()]).name(next.to_string()).value(Payload::Json(next.into()));
    app.out.one(&["NEXT"], &item)?;
    Ok(Code::Success)
}
