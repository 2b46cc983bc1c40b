//! Lock holders that run as separate processes, and are killed or paused for longer than their lease.
//!
//! The process is this test binary itself, running the test [`lock_holder_process`], which executes commands from stdin.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use kvtyped::prelude::*;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::needs::needs;
use crate::support::{Session, World};

const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(2);
/// The tolerance for the end of a lease on a loaded machine.
const LATE: Duration = Duration::from_secs(3);
const JOB: &str = "KVTYPED_HOLDER";

/// A process that holds the lock of a record.
struct Holder {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Holder {
    /// Starts the process and waits until it has the lock.
    async fn start(url: &str, bucket: &str) -> Self {
        let program = std::env::current_exe().expect("this binary has a path");
        let mut process = Command::new(program)
            .args(["--ignored", "--exact", "lock_processes::lock_holder_process", "--nocapture", "--test-threads=1"])
            .env(JOB, format!("{url} {bucket}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let input = process.stdin.take().expect("it is piped");
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        let holder = Self { process, input, output };
        let (holder, _) = holder.answer("held ").await;
        holder
    }

    async fn answer(mut self, prefix: &'static str) -> (Self, String) {
        let wait = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            while !line.contains(prefix) {
                line.clear();
                assert!(
                    self.output.read_line(&mut line).expect("it is text") > 0,
                    "the holder ended before {prefix:?}"
                );
            }
            let at = line.find(prefix).unwrap_or_default() + prefix.len();
            let answer = line[at..].trim().to_owned();
            (self, answer)
        });
        wait.await.expect("it answers")
    }

    async fn tell(mut self, order: &str, prefix: &'static str) -> (Self, String) {
        writeln!(self.input, "{order}").expect("it listens");
        self.answer(prefix).await
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("it is there");
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs in the child process: holds the lock of a session and executes commands, one per line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that the other tests of this file start"]
async fn lock_holder_process() {
    let job = std::env::var(JOB).expect("started by another test");
    let (url, bucket) = job.split_once(' ').expect("a URL and a bucket");
    let world = World::at(url).await;
    let sessions: Bucket<Session> = world.store.bucket().name(bucket).await.unwrap();
    let session = Session::new("acme", 7);
    let guard = sessions.lock(&session.key()).ttl(TTL).await.unwrap();
    let by_holder = session.visited(1);
    // Prepared while the lock is certainly held, before the parent can pause this process. It is sent later.
    let mut prepared = Some(sessions.put(&by_holder).fenced_by(&guard));
    println!("held {}", guard.fence());
    loop {
        let order = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).map(|_| line)
        });
        let order = order.await.unwrap().unwrap();
        match order.trim() {
            "check" => println!("checked {:?}", guard.check().map_err(|error| format!("{:?}", error.kind()))),
            "write" => {
                let written = prepared.take().expect("told once").await;
                println!("written {:?}", written.map(drop).map_err(|error| format!("{:?}", error.kind())));
            }
            _ => break,
        }
    }
}

/// P20: after `kill -9` of the holder, the lock is free within its TTL plus a tolerance.
#[tokio::test]
async fn lock_of_killed_holder_becomes_free() {
    needs!(Locks);
    let world = World::nats().await;
    let url = harness::shared().await.url();
    let sessions: Bucket<Session> = world.bucket().await;
    for _ in 0..3 {
        let holder = Holder::start(&url, sessions.name()).await;
        let key = Session::new("acme", 7).key();
        assert!(sessions.try_lock(&key).await.unwrap().is_none());
        let waiter = tokio::spawn(sessions.lock(&key).wait(60 * SECOND).into_future());
        holder.signal(Signal::KILL);
        let killed = Instant::now();
        let guard = waiter.await.unwrap().unwrap();
        let took = killed.elapsed();
        eprintln!("killed, and taken over after {took:?} of {TTL:?}");
        assert!(took <= TTL + LATE, "taken over after {took:?}");
        guard.release().await.unwrap();
    }
}

/// P14, P11: a holder that was paused for longer than its lease detects the loss at its first check, and the server
/// refuses the write that it had prepared.
#[tokio::test]
async fn fenced_write_of_paused_holder_is_refused() {
    needs!(Locks);
    let world = World::nats().await;
    let url = harness::shared().await.url();
    let sessions: Bucket<Session> = world.bucket().await;
    let session = Session::new("acme", 7);
    let holder = Holder::start(&url, sessions.name()).await;
    holder.signal(Signal::STOP);
    let guard = sessions.lock(&session.key()).wait(60 * SECOND).await.unwrap();
    let revision = sessions.put(&session.visited(2)).fenced_by(&guard).await.unwrap();
    holder.signal(Signal::CONT);
    let (holder, checked) = holder.tell("check", "checked ").await;
    assert_eq!(checked, "Err(\"Lost\")");
    let (_holder, written) = holder.tell("write", "written ").await;
    assert_eq!(written, "Err(\"Fenced\")");
    let entry = sessions.get(&Session::new("acme", 7).key()).await.unwrap().expect("it was written");
    assert_eq!((entry.revision(), entry.visits), (revision, 2));
    guard.check().unwrap();
    guard.release().await.unwrap();
}

/// The control: without the pause, the prepared write is applied.
#[tokio::test]
async fn fenced_write_of_active_holder_is_applied() {
    needs!(Locks);
    let world = World::nats().await;
    let url = harness::shared().await.url();
    let sessions: Bucket<Session> = world.bucket().await;
    let holder = Holder::start(&url, sessions.name()).await;
    let (holder, checked) = holder.tell("check", "checked ").await;
    assert_eq!(checked, "Ok(())");
    let (_holder, written) = holder.tell("write", "written ").await;
    assert_eq!(written, "Ok(())");
    assert_eq!(sessions.get(&Session::new("acme", 7).key()).await.unwrap().expect("written").visits, 1);
}
