//! `semaphore`: the holders of permits.

use kvtyped::recipes::{PermitHolder, RecipeKind};

use crate::app::App;
use crate::fail::{Code, Done};
use crate::json::object;
use crate::out::Item;
use crate::recipes::{Held, InBucket, Recipe, found, handle};

/// The commands of `semaphore`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the semaphores with the numbers of taken permits
    Ls(InBucket),
    /// List the holders of the permits of a semaphore
    Show {
        #[command(flatten)]
        recipe: Recipe,
    },
}

pub(crate) async fn run(app: &App, command: Command) -> Done {
    match command {
        Command::Ls(bucket) => ls(app, bucket.name()).await,
        Command::Show { recipe } => show(app, &recipe).await,
    }
}

async fn ls(app: &App, bucket: Option<&str>) -> Done {
    let mut list = app.out.list(&["BUCKET", "SEMAPHORE", "TAKEN"]);
    for (bucket, semaphore) in found(app, RecipeKind::Semaphore, bucket).await? {
        let json = object! {
            "v" => 1u8,
            "type" => "semaphore",
            "bucket" => bucket.as_str(),
            "semaphore" => semaphore.name.as_str(),
            "taken" => semaphore.records,
        };
        let cells = [bucket, semaphore.name.clone(), semaphore.records.to_string()];
        list.push(Item::new(json).cells(cells).name(semaphore.name))?;
    }
    list.finish()?;
    Ok(Code::Success)
}

async fn show(app: &App, recipe: &Recipe) -> Done {
    // Each program sets the number of permits. The holders of all slots are read, whatever the number.
    let semaphore =
        handle(app, recipe, |store, bucket, ttl| store.semaphore(&*recipe.name, 1).bucket(bucket).ttl(ttl)).await?;
    let mut list = app.out.list(&["SLOT", "OWNER", "HELD", "LEFT", "FENCE"]);
    for holder in semaphore.holders().await? {
        let PermitHolder { slot, owner, since, fence, renewed, expires_in, .. } = &holder;
        let fence = Some(fence.get());
        let held = Held { owner, since: *since, renewed: *renewed, expires_in: *expires_in, fence };
        let json = object! {
            "v" => 1u8,
            "type" => "permit",
            "semaphore" => recipe.name.as_str(),
            "slot" => *slot,
        };
        let cells = [slot.to_string(), owner.clone(), held.held_for(), held.left(), holder.fence.to_string()];
        list.push(Item::new(held.json(json)).cells(cells).name(slot.to_string()))?;
    }
    list.finish()?;
    Ok(Code::Success)
}
