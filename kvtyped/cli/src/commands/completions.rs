//! `completions` and `man`.

use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_complete::env::Shells;

use crate::app::App;
use crate::args::Cli;
use crate::fail::{Code, Done, Failure};

/// The arguments of `completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(app: &App, args: Args) -> Done {
    let shells = Shells::builtins();
    let name = args.shell.to_string();
    let shell = shells.completer(&name).ok_or_else(|| Failure::usage(format!("no completions for `{name}`")))?;
    let mut script = Vec::new();
    shell.write_registration("COMPLETE", "kvtyped", "kvtyped", "kvtyped", &mut script)?;
    print(app, &script)
}

/// The arguments of `man`.
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Write the pages of all commands into this folder instead
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

pub(crate) fn man(app: &App, args: ManArgs) -> Done {
    if let Some(folder) = args.folder {
        std::fs::create_dir_all(&folder)?;
        clap_mangen::generate_to(Cli::command(), folder)?;
        return Ok(Code::Success);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    print(app, &page)
}

fn print(app: &App, text: &[u8]) -> Done {
    // Without escapes, also on a terminal: the text contains nothing of a store.
    app.out.line(String::from_utf8_lossy(text).trim_end())?;
    Ok(Code::Success)
}
