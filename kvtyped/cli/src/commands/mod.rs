//! The commands, one file each.

pub(crate) mod bucket;
pub(crate) mod buckets;
pub(crate) mod completions;
pub(crate) mod context;
pub(crate) mod copy;
pub(crate) mod counter;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod edit;
pub(crate) mod election;
pub(crate) mod export;
pub(crate) mod file;
pub(crate) mod get;
pub(crate) mod group;
pub(crate) mod history;
pub(crate) mod id;
pub(crate) mod import;
pub(crate) mod lock;
pub(crate) mod ls;
pub(crate) mod once;
pub(crate) mod patch;
pub(crate) mod put;
pub(crate) mod rate;
pub(crate) mod restore;
pub(crate) mod rm;
pub(crate) mod schema;
pub(crate) mod semaphore;
pub(crate) mod top;
pub(crate) mod touch;
pub(crate) mod wait;
pub(crate) mod watch;

use kvtyped::bucket::Cursor;
use kvtyped::{Error, ErrorKind, Filter, Key, RawRecord};

use crate::app::App;
use crate::args::Command;
use crate::fail::{Done, Failure};

/// Runs a command.
pub(crate) async fn run(app: &App, command: Command) -> Done {
    match command {
        Command::Buckets(args) => buckets::run(app, args).await,
        Command::Bucket(command) => bucket::run(app, command).await,
        Command::Ls(args) => ls::run(app, args).await,
        Command::Get(args) => get::run(app, args).await,
        Command::History(args) => history::run(app, args).await,
        Command::Watch(args) => watch::run(app, args).await,
        Command::Wait(args) => wait::run(app, args).await,
        Command::Diff(args) => diff::run(app, args).await,
        Command::Put(args) => put::run(app, args).await,
        Command::Edit(args) => edit::run(app, args).await,
        Command::Patch(args) => patch::run(app, args).await,
        Command::Rm(args) => rm::run(app, args).await,
        Command::Touch(args) => touch::run(app, args).await,
        Command::Restore(args) => restore::run(app, args).await,
        Command::Export(args) => export::run(app, args).await,
        Command::Import(args) => import::run(app, args).await,
        Command::Copy(args) => copy::run(app, args).await,
        Command::Lock(command) => lock::run(app, command).await,
        Command::Election(command) => election::run(app, command).await,
        Command::Group(command) => group::run(app, command).await,
        Command::Semaphore(command) => semaphore::run(app, command).await,
        Command::Counter(command) => counter::run(app, command).await,
        Command::Once(command) => once::run(app, command).await,
        Command::Rate(command) => rate::run(app, command).await,
        Command::Id(command) => id::run(app, command).await,
        Command::Schema(command) => schema::run(app, command).await,
        Command::File(command) => file::run(app, command).await,
        Command::Doctor(args) => doctor::run(app, args).await,
        Command::Top(args) => top::run(app, args).await,
        Command::Context(command) => context::run(app, command),
        Command::Completions(args) => completions::run(app, args),
        // It runs before the store and the signals of the tool are set up.
        Command::Watchdog(args) => crate::watchdog::run(&args),
        Command::Man(args) => completions::man(app, args),
    }
}

/// Whether an argument is a filter of keys rather than a key.
pub(crate) fn is_filter(text: &str) -> bool {
    text.split('.').any(|segment| matches!(segment, "*" | ">"))
}

/// Returns the filter of an argument. Without an argument, it selects all keys.
pub(crate) fn filter(text: Option<&str>) -> Result<Filter<RawRecord>, Failure> {
    match text {
        Some(text) => Ok(Filter::subject(text)?),
        None => Ok((..).into()),
    }
}

/// Returns the key of an argument.
pub(crate) fn key(text: &str) -> Result<Key, Failure> {
    Ok(Key::new(text)?)
}

/// Returns the error of a key without a record.
pub(crate) fn no_record(bucket: &str, key: &Key) -> Failure {
    Failure::not_found(format!("bucket `{bucket}` has no record `{key}`"))
        .hint(format!("list the keys with `kvtyped ls {bucket}`"))
}

/// Returns the error of a revision that a key does not have.
pub(crate) fn no_revision(bucket: &str, key: &Key, revision: u64) -> Failure {
    Failure::not_found(format!("bucket `{bucket}` keeps no revision {revision} of `{key}`"))
        .hint(format!("list the revisions with `kvtyped history {bucket} {key}`"))
}

/// Parses the cursor that an earlier command printed.
pub(crate) fn cursor(text: Option<&str>) -> Result<Option<Cursor>, Failure> {
    let parse = |text: &str| {
        text.parse().map_err(|_| {
            Failure::usage(format!("`{text}` is no cursor"))
                .hint("a page ends with the cursor of the next one: `--after CURSOR`")
        })
    };
    text.map(parse).transpose()
}

/// Whether a watch ends with this error. It continues after others.
pub(crate) fn is_end_of_watch(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Closed | ErrorKind::BucketNotFound | ErrorKind::PermissionDenied { .. })
}
