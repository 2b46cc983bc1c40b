//! `context`: names for stores.

use crate::app::App;
use crate::context::{self, without_userinfo};
use crate::fail::{Code, Done, Failure};
use crate::out::Item;

/// The commands of `context`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the contexts, including the contexts of the `nats` tool
    Ls,
    /// Select the context of later commands
    Use {
        /// The context
        name: String,
    },
    /// Show a context without its secrets
    Show {
        /// The context. By default the selected one
        name: Option<String>,
    },
}

const COLUMNS: [&str; 5] = ["NAME", "SELECTED", "URL", "RULES", "FILE"];

pub(crate) fn run(app: &App, command: Command) -> Done {
    let selected = context::selected();
    match command {
        Command::Ls => {
            let mut list = app.out.list(&COLUMNS);
            for context in context::all()? {
                list.push(item(&context, selected.as_deref()))?;
            }
            list.finish()?;
        }
        Command::Use { name } => {
            context::select(&name)?;
            app.out.note(&format!("context `{name}` is selected"));
        }
        Command::Show { name } => {
            let name = name.or_else(|| selected.clone()).ok_or_else(|| {
                Failure::not_found("no context is selected").hint("select one with `kvtyped context use NAME`")
            })?;
            let context = context::find(&name)?;
            if let Some(warning) = context.exposed() {
                app.out.warn(&warning);
            }
            app.out.one(&COLUMNS, &item(&context, selected.as_deref()))?;
        }
    }
    Ok(Code::Success)
}

fn item(context: &context::Context, selected: Option<&str>) -> Item {
    let is_selected = selected == Some(&*context.name);
    let rules = [(context.is_read_only(), "read-only"), (context.is_production(), "production")];
    let rules: Vec<_> = rules.into_iter().filter(|(is_set, _)| *is_set).map(|(_, name)| name).collect();
    Item::new(context.json(is_selected)).name(&context.name).cells([
        context.name.clone(),
        if is_selected { "*".to_owned() } else { String::new() },
        without_userinfo(context.url()),
        rules.join(","),
        context.path.display().to_string(),
    ])
}
