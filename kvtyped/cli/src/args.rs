//! The arguments of the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::commands;
use crate::out::{ColorChoice, Format};
use crate::time::parse_duration;

/// Inspect and repair the records of NATS JetStream KV buckets and of files.
///
/// Exit codes: 0 success, 1 the answer is no, 2 wrong usage, 3 not found, 4 conflict, 5 not allowed, 6 unavailable or
/// timeout and not applied (a retry is safe), 7 outcome unknown (read the record first), 8 unsupported by the server,
/// 9 undecodable or invalid data, 10 refused for safety or by the editor, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "kvtyped", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// The store: `nats://host:4222`, `tls://host`, `file:app.kv`. Without it, KVTYPED_URL, then the context
    #[arg(long, global = true, value_name = "URL", conflicts_with = "context")]
    pub(crate) url: Option<String>,
    /// The context that names the store; see `kvtyped context`. Without it, KVTYPED_CONTEXT, then the selected context
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// A credentials file (`.creds`) of a NATS user
    #[arg(long, global = true, value_name = "FILE", env = "KVTYPED_CREDS", hide_env_values = true)]
    pub(crate) creds: Option<PathBuf>,
    /// The format of the output
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
    /// Refuse every command that writes
    #[arg(long, global = true, env = "KVTYPED_READ_ONLY", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) read_only: bool,
    /// Do not ask for confirmation
    #[arg(short, long, global = true)]
    pub(crate) yes: bool,
    /// The longest time of one operation
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// Write only results and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Write more to stderr: the store and the time that the command took
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// When to use colors
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) color: ColorChoice,
    /// Loads an export into a `memory:` store before the command, for tests
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub(crate) fixture: Option<PathBuf>,
    /// Exports the store to the fixture after the command, for tests
    #[arg(long, global = true, hide = true, requires = "fixture")]
    pub(crate) fixture_save: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the buckets with their sizes and models
    Buckets(commands::buckets::Args),
    /// Show, create, change or remove a bucket
    #[command(subcommand)]
    Bucket(commands::bucket::Command),
    /// List keys
    Ls(commands::ls::Args),
    /// Print records
    Get(commands::get::Args),
    /// Print the kept revisions of a key
    History(commands::history::Args),
    /// Print changes as they happen
    Watch(commands::watch::Args),
    /// Wait until a field of a record has a value
    Wait(commands::wait::Args),
    /// Compare two revisions of a key, or two buckets
    Diff(commands::diff::Args),
    /// Write a record
    Put(commands::put::Args),
    /// Change a record in an editor
    Edit(commands::edit::Args),
    /// Change fields of a record
    Patch(commands::patch::Args),
    /// Remove records
    Rm(commands::rm::Args),
    /// Restart the TTL of a record
    Touch(commands::touch::Args),
    /// Write an older revision as the newest
    Restore(commands::restore::Args),
    /// Print the records of a bucket as lines of JSON, with their remaining TTLs
    Export(commands::export::Args),
    /// Write the records of an export
    Import(commands::import::Args),
    /// Copy a bucket to another store
    Copy(commands::copy::Args),
    /// Show, watch and break locks, and run a command under a lock
    #[command(subcommand)]
    Lock(commands::lock::Command),
    /// Show and watch leaders, and run a command while leading
    #[command(subcommand)]
    Election(commands::election::Command),
    /// Show and watch the members of groups
    #[command(subcommand)]
    Group(commands::group::Command),
    /// Show the holders of permits
    #[command(subcommand)]
    Semaphore(commands::semaphore::Command),
    /// Show and change counters
    #[command(subcommand)]
    Counter(commands::counter::Command),
    /// Show and forget the results of work that runs once
    #[command(subcommand)]
    Once(commands::once::Command),
    /// Show and reset the keys of rate limiters
    #[command(subcommand)]
    Rate(commands::rate::Command),
    /// Show sequences of ids
    #[command(subcommand)]
    Id(commands::id::Command),
    /// Show the models of a bucket, and check its records against their schemas
    #[command(subcommand)]
    Schema(commands::schema::Command),
    /// Repair the file of a `file:` store
    #[command(subcommand)]
    File(commands::file::Command),
    /// Find problems of the server, the permissions and the buckets
    Doctor(commands::doctor::Args),
    /// Show the rates of all buckets, again and again
    Top(commands::top::Args),
    /// Show and select contexts: names for stores
    #[command(subcommand)]
    Context(commands::context::Command),
    /// Print the script that completes commands, buckets and keys in a shell
    Completions(commands::completions::Args),
    /// Ends the command of `lock run` if the tool dies first. The tool starts it
    #[command(hide = true)]
    Watchdog(crate::watchdog::Args),
    /// Print the man page
    Man(commands::completions::ManArgs),
}
