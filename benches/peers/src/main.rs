//! Compares kvtyped on NATS with etcd and Redis in the same run.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml --target-dir target` starts its own servers, measures and
//! prints a table. A peer that is not installed is reported as not done. `--quick` only checks that everything runs;
//! `etcd` or `redis` measures that peer alone.

mod etcd;
mod nats;
mod process;
mod redis;
mod report;
mod rows;
mod side;

// Shared with the benchmark of the workspace, which uses more of them.
#[allow(dead_code)]
#[path = "../../src/measure.rs"]
mod measure;
#[allow(dead_code)]
#[path = "../../src/record.rs"]
mod record;

use measure::Effort;
use rows::Servers;

/// The arguments of the command that select one peer.
const PEERS: [&str; 2] = ["etcd", "redis"];

fn main() {
    let (options, peers): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|word| word.starts_with("--"));
    let unknown_peer = peers.iter().find(|peer| !PEERS.contains(&peer.as_str()));
    if let Some(word) = options.iter().find(|option| *option != "--quick").or(unknown_peer) {
        eprintln!("{word} is unknown: use --quick, etcd or redis");
        std::process::exit(2);
    }
    let effort = Effort { quick: !options.is_empty(), most: usize::MAX };
    let wanted = PEERS.map(|peer| peers.is_empty() || peers.iter().any(|word| word == peer));
    let runtime = tokio::runtime::Runtime::new().expect("the runtime starts");
    let servers = runtime.block_on(Servers::start(wanted));
    // A future that `block_on` polls wakes more slowly than a task.
    let work = runtime.spawn(rows::measure(effort, servers));
    if let Err(failed) = runtime.block_on(work) {
        std::panic::resume_unwind(failed.into_panic());
    }
}
