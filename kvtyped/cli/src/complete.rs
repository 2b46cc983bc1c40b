//! Completion of buckets and keys by a shell.

use std::ffi::OsStr;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use futures::StreamExt;
use kvtyped::{Filter, Key};

use crate::app::App;
use crate::args::Cli;
use crate::fail::Failure;
use crate::time::parse_duration;

/// The longest time that a completion may take, unless KVTYPED_COMPLETE_TIMEOUT names another one.
const TIMEOUT: Duration = Duration::from_millis(300);

/// The largest number of keys that a completion reads.
const MAX_KEYS: usize = 500;

/// Returns the command with completers for its buckets and keys.
pub(crate) fn command() -> clap::Command {
    with_completers(Cli::command())
}

fn with_completers(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| match arg.get_id().as_str() {
        "bucket" | "from" => arg.add(ArgValueCompleter::new(|current: &OsStr| ask(current, false))),
        "key" | "keys" => arg.add(ArgValueCompleter::new(|current: &OsStr| ask(current, true))),
        _ => arg,
    });
    command.mut_subcommands(with_completers)
}

/// Asks the store for candidates. Returns none after an error or the timeout.
fn ask(current: &OsStr, wants_keys: bool) -> Vec<CompletionCandidate> {
    let words: Vec<String> = std::env::args().skip_while(|word| word != "--").skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (Ok(runtime), Some(current)) = (runtime, current.to_str()) else { return Vec::new() };
    let timeout = std::env::var("KVTYPED_COMPLETE_TIMEOUT").ok().and_then(|text| parse_duration(&text).ok());
    let asked =
        async { tokio::time::timeout(timeout.unwrap_or(TIMEOUT), candidates(&words, current, wants_keys)).await };
    let found = runtime.block_on(asked);
    runtime.shutdown_background();
    let found = found.ok().and_then(Result::ok).unwrap_or_default();
    found.into_iter().filter(|name| name.starts_with(current)).map(CompletionCandidate::new).collect()
}

async fn candidates(words: &[String], current: &str, wants_keys: bool) -> Result<Vec<String>, Failure> {
    // Only the options that select the store matter, and the other words may be incomplete.
    let mut arguments = vec!["kvtyped".to_owned(), "-q".to_owned()];
    for pair in words.windows(2) {
        match pair[0].as_str() {
            "--url" | "--context" | "--creds" | "--fixture" => arguments.extend(pair.iter().cloned()),
            _ => {}
        }
    }
    arguments.push("buckets".to_owned());
    let cli = Cli::try_parse_from(arguments).map_err(|error| Failure::usage(error.to_string()))?;
    let app = App::new(cli.global);
    let store = app.store().await?;
    let buckets = store.buckets().await?;
    if !wants_keys {
        return Ok(buckets);
    }
    // The bucket precedes the key.
    let Some(bucket) = words.iter().skip(1).find(|word| buckets.contains(word)) else { return Ok(Vec::new()) };
    let bucket = store.raw(bucket).read_only().await?;
    // The segments before the last one select the keys.
    let filter = match current.rsplit_once('.') {
        Some((segments, _)) => Filter::subject(&format!("{segments}.>"))?,
        None => (..).into(),
    };
    let keys: Vec<Key> =
        bucket.keys(filter).limit(MAX_KEYS).await?.filter_map(|key| async { key.ok() }).collect().await;
    Ok(keys.iter().map(Key::to_string).collect())
}
