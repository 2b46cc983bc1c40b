//! Followers in separate processes that are killed. The process is this test binary, running [`follower_process`].

use std::process::{Child, Command, Stdio};

use super::*;
use crate::index_probe::{IndexProbe, user};
use crate::support::World;

const JOB: &str = "KVTYPED_FOLLOWER";

/// A process that follows a bucket.
struct Process(Child);

impl Process {
    fn start(url: &str, bucket: &str) -> Self {
        let program = std::env::current_exe().expect("this binary has a path");
        let mut command = Command::new(program);
        command.args(["--ignored", "--exact", "index_follower::process::follower_process", "--test-threads=1"]);
        command.env(JOB, format!("{url} {bucket}")).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("it starts"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // `SIGKILL`.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
#[ignore = "the process that the other test of this file starts"]
async fn follower_process() {
    let job = std::env::var(JOB).expect("started by another test");
    let (url, bucket) = job.split_once(' ').expect("a URL and a bucket");
    let world = World::at(url).await;
    let users: Bucket<User> = world.store.bucket().name(bucket).await.unwrap();
    users.maintain_indexes().ttl(2 * SECOND).await.unwrap();
}

#[tokio::test]
async fn killed_followers_miss_nothing() {
    crate::needs::needs!(Locks);
    let world = World::nats().await;
    let url = harness::shared().await.url();
    let probe = IndexProbe::new(&world).await;
    let (users, raw) = (&probe.users, probe.foreign(&world).await);
    let mut waiting = Process::start(&url, users.name());
    let mut records = 0;
    for round in 0..3_u64 {
        let leader = std::mem::replace(&mut waiting, Process::start(&url, users.name()));
        let write = async |count: u64| {
            for id in 0..count {
                let mail = format!("mail{round}.{count}.{id}");
                put_foreign(&raw, &user(round * 1_000 + count * 10 + id, &mail)).await;
            }
        };
        write(5).await;
        synced(users).await;
        write(30).await;
        drop(leader);
        write(20).await;
        records += 55;
        synced(users).await;
        assert_eq!(users.count_by(User::by_team("core")).await.unwrap(), records);
    }
    assert!(users.verify_indexes().await.unwrap().is_clean());
}
