//! `counter`: totals that several processes add to.

use kvtyped::recipes::Counters;

use crate::app::App;
use crate::confirm;
use crate::fail::{Code, Done, Failure};
use crate::json::object;
use crate::out::{Item, Payload};
use crate::recipes::Recipe;

/// The commands of `counter`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the counters with their totals
    Ls {
        #[command(flatten)]
        recipe: Recipe,
    },
    /// Print the total of a counter. A counter that does not exist is zero
    Get {
        #[command(flatten)]
        recipe: Recipe,
        /// The counter
        name: String,
    },
    /// Add to a counter, and print the new total
    Add {
        #[command(flatten)]
        recipe: Recipe,
        /// The counter
        name: String,
        /// The number to add, which may be negative
        #[arg(allow_negative_numbers = true)]
        delta: i64,
        /// Only print the total that would result
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove a counter, so that it starts at zero again
    Rm {
        #[command(flatten)]
        recipe: Recipe,
        /// The counter
        name: String,
        /// Only print what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}

pub(crate) async fn run(app: &App, command: Command) -> Done {
    match command {
        Command::Ls { recipe } => {
            let mut list = app.out.list(&["COUNTER", "TOTAL"]);
            for (name, total) in counters(app, &recipe).await?.all().await? {
                list.push(item(&recipe, &name, total, &[]))?;
            }
            list.finish()?;
        }
        Command::Get { recipe, name } => {
            let total = counters(app, &recipe).await?.get(&name).await?;
            app.out.one(&["COUNTER", "TOTAL"], &item(&recipe, &name, total, &[]))?;
        }
        Command::Add { recipe, name, delta, dry_run } => {
            let counters = counters_to_write(app, &recipe, dry_run).await?;
            let total = match dry_run {
                true => counters.get(&name).await?.saturating_add(delta),
                false => counters.add(&name, delta).await?,
            };
            app.out.one(&["COUNTER", "TOTAL"], &item(&recipe, &name, total, &[("dry_run", dry_run)]))?;
        }
        Command::Rm { recipe, name, dry_run } => {
            let counters = counters_to_write(app, &recipe, dry_run).await?;
            let total = counters.get(&name).await?;
            if !dry_run {
                let what = format!("This removes counter `{name}` of `{}`, whose total is {total}", recipe.name);
                confirm::name(app, &what, &name).await?;
                counters.remove(&name).await?;
            }
            app.out.one(
                &["COUNTER", "TOTAL"],
                &item(&recipe, &name, total, &[("removed", !dry_run), ("dry_run", dry_run)]),
            )?;
        }
    }
    Ok(Code::Success)
}

/// Returns the counters of a bucket that exists.
async fn counters(app: &App, recipe: &Recipe) -> Result<Counters, Failure> {
    let store = app.store().await?;
    match app.view(recipe.bucket()).await {
        Ok(_) => {}
        // A bucket with counters of the server is no bucket of records.
        Err(failure) if failure.code == Code::NotFound => return Err(failure),
        Err(_) => {}
    }
    Ok(store.counters(&*recipe.name).bucket(recipe.bucket()))
}

async fn counters_to_write(app: &App, recipe: &Recipe, dry_run: bool) -> Result<Counters, Failure> {
    if !dry_run {
        app.store_to_write(recipe.bucket()).await?;
    }
    counters(app, recipe).await
}

fn item(recipe: &Recipe, name: &str, total: i64, flags: &[(&str, bool)]) -> Item {
    let json = object! {
        "v" => 1u8,
        "type" => "counter",
        "recipe" => recipe.name.as_str(),
        "name" => name,
        "total" => total,
    };
    let json = flags.iter().fold(json, |json, (flag, is_set)| json.with(flag, is_set.then_some(true)));
    Item::new(json).cells([name.to_owned(), total.to_string()]).name(name).value(Payload::Json(total.into()))
}
