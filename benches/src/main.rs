//! Benchmarks of kvtyped against the plain NATS client with serde, both measured in the same run.
//!
//! `cargo run --release -p kvtyped-benches` starts a server, measures, prints a summary, and writes a table and a plot
//! to `target/benches/`. `--quick` only checks that everything runs. `--save` also writes the table and the plot of the
//! docs. `--up-to=100000` omits the larger sizes of the group `sizes`. Any other argument is a group. If groups are
//! given, only these are measured.

mod allocator;
mod contention;
mod derive;
mod embedded;
mod file;
mod indexes;
mod lists;
mod locks;
mod many;
mod measure;
mod memory;
mod pure;
mod record;
mod report;
mod single;
mod sizes;
mod versions;
mod watching;
mod workers;
mod world;

use measure::Effort;
use world::World;

const GROUPS: [&str; 14] = [
    "single",
    "embedded",
    "file",
    "contention",
    "many",
    "lists",
    "indexes",
    "watching",
    "versions",
    "sizes",
    "memory",
    "locks",
    "pure",
    "derive",
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "worker") {
        return workers::work(&arguments[1..]);
    }
    let (options, groups): (Vec<_>, Vec<_>) = arguments.into_iter().partition(|word| word.starts_with("--"));
    let unknown = |word: &&String| match word.strip_prefix("--") {
        Some(option) => !["quick", "save"].contains(&option) && up_to(word).is_none(),
        None => !GROUPS.contains(&word.as_str()),
    };
    if let Some(word) = options.iter().chain(&groups).find(unknown) {
        eprintln!("{word} is unknown: say --quick, --save, --up-to=SIZE, or some of {}", GROUPS.join(" "));
        std::process::exit(2);
    }
    let [quick, save] = ["--quick", "--save"].map(|option| options.iter().any(|word| word == option));
    let most = options.iter().find_map(|option| up_to(option)).unwrap_or(usize::MAX);
    let runtime = tokio::runtime::Runtime::new().expect("the runtime starts");
    runtime.block_on(async {
        let mut world = World::new(Effort { quick, most }).await;
        for group in GROUPS.into_iter().filter(|group| groups.is_empty() || groups.iter().any(|word| word == group)) {
            measure(group, &mut world).await;
        }
        world.report.finish(save);
    });
}

/// Parses `--up-to=SIZE`. Returns `None` if the size is smaller than every size of the group.
fn up_to(option: &str) -> Option<usize> {
    option.strip_prefix("--up-to=")?.parse().ok().filter(|size| *size >= sizes::SIZES[0])
}

async fn measure(group: &str, world: &mut World) {
    match group {
        "single" => single::measure(world).await,
        "embedded" => embedded::measure(world).await,
        "file" => file::measure(world).await,
        "contention" => contention::measure(world).await,
        "many" => many::measure(world).await,
        "lists" => lists::measure(world).await,
        "indexes" => indexes::measure(world).await,
        "watching" => watching::measure(world).await,
        "versions" => versions::measure(world).await,
        "sizes" => sizes::measure(world).await,
        "memory" => memory::measure(world).await,
        "locks" => locks::measure(world).await,
        "pure" => pure::measure(world).await,
        "derive" if !world.effort.quick => derive::measure(world),
        _ => {}
    }
}
