//! `completions` and `man`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::app::App;
use crate::args::Cli;
use crate::fail::{Code, Done};

/// The arguments of `completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(app: &App, args: Args) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kvtyped", &mut script);
    print(app, &script)
}

pub(crate) fn man(app: &App) -> Done {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    print(app, &page)
}

fn print(app: &App, text: &[u8]) -> Done {
    // Without escapes, also on a terminal: the text contains nothing of a store.
    app.out.line(String::from_utf8_lossy(text).trim_end())?;
    Ok(Code::Success)
}
