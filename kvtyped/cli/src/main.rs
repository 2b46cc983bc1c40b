//! The command line tool `kvtyped`: see and mend the records of NATS JetStream KV buckets and of files.

mod address;
mod app;
mod args;
mod child;
mod codec;
mod commands;
mod complete;
mod condition;
mod confirm;
mod context;
mod diffs;
mod doctor;
mod entry;
mod escape;
mod fail;
mod fixture;
mod interrupt;
mod json;
mod merge;
mod msgpack;
mod out;
mod path;
mod readable;
mod records;
mod recipes;
mod remedy;
mod shape;
mod settings;
mod template;
mod terms;
mod time;
mod transfer;
mod watchdog;
mod writes;
mod writing;

use std::process::ExitCode;

use clap::Parser;

use crate::app::App;
use crate::args::Cli;
use crate::fail::{Code, Failure};
use crate::interrupt::Signals;

fn main() -> ExitCode {
    // Answers a shell that asks for completions, and ends.
    clap_complete::CompleteEnv::with_factory(complete::command).complete();
    let Cli { global, command } = Cli::parse();
    if let args::Command::Watchdog(args) = &command {
        return watchdog::run(args).map_or_else(|failure| failure.code.into(), Into::into);
    }
    let app = App::new(global);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => {
            let signals = runtime.block_on(async { Signals::listen() });
            interrupt::enforce();
            let done = runtime.block_on(run(&app, command, signals));
            // A blocking read of stdin must not delay the end.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(Failure::from(error)),
    };
    let flushed = |code| app.out.flush().map(|()| code).map_err(|failure: Failure| failure.with_writes(&app.writes));
    match done.and_then(flushed) {
        Ok(code) => code.into(),
        Err(failure) if failure.is_closed_pipe() => Code::Success.into(),
        Err(failure) => {
            // The output so far comes before the error.
            let _ = app.out.flush();
            app.out.fail(&failure);
            failure.code.into()
        }
    }
}

/// Runs a command until it ends or a signal arrives. Dropping the command removes its temporary files.
async fn run(app: &App, command: args::Command, mut signals: Signals) -> Result<Code, Failure> {
    let started = tokio::time::Instant::now();
    let done = tokio::select! {
        biased;
        done = commands::run(app, command) => done,
        failure = signals.next() => Err(failure),
    };
    // Releases of leases and tickets do not count as writes of the command.
    let done = done.map_err(|failure| failure.with_writes(&app.writes));
    let closed = app.close().await;
    if app.options.verbose {
        app.out.note(&format!("took {}", time::short(started.elapsed())));
    }
    let code = done?;
    closed?;
    Ok(code)
}
