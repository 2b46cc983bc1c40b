//! P45: processes that are killed while they write.

use super::folder::Folder;
use super::writer::{Job, Writer, check, command};

/// Kills a writer this many times, and checks the store after each time.
async fn kills(rounds: u32) {
    let folder = Folder::new("kill");
    let mut acknowledged = 0;
    for round in 0..rounds {
        let job = Job { workers: 4, rounds: 0, sync: round % 4 != 3, journal: 0 };
        let mut writer = Writer::start(command(&[], &folder.file(), job));
        // Some rounds end during the open.
        let lines = [0, 1, 50, 300, 1_500][rand_index(round)];
        let writer = tokio::task::spawn_blocking(move || {
            writer.read(lines);
            writer
        });
        let printed = writer.await.unwrap().kill();
        assert_eq!(printed.errors, [""; 0], "round {round}");
        acknowledged += printed.lines;
        let backend = folder.open().await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        check(&backend, &printed).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        backend.close().await.unwrap();
    }
    eprintln!("{rounds} kills, {acknowledged} acknowledged or delivered writes, none lost");
    assert!(acknowledged > u64::from(rounds) * 50, "the writers write: {acknowledged}");
}

/// Spreads the rounds over the five durations.
fn rand_index(round: u32) -> usize {
    (round as usize * 7 + round as usize / 5) % 5
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_writer_loses_no_acknowledged_write() {
    kills(20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: 200 kills"]
async fn writer_killed_200_times_loses_no_acknowledged_write() {
    kills(200).await;
}
