//! Commands that run under a lock or a leadership, in real processes.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

use crate::terminal::Terminal;
use crate::world::{Ran, SOON, World, on_each_store};

const SETTINGS: &str = r#""history":1,"limit_markers_ms":300000"#;

/// A tool that runs in the background, and the lines of its output.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Waits for the next line, which the command under the lock prints.
    fn line(&mut self) -> String {
        self.lines.next().expect("a line").unwrap()
    }

    /// Runs a command under the lock `a` of the bucket, and waits until it has printed `up`.
    fn holding(world: &World, options: &[&str]) -> Self {
        let command = ["--", "sh", "-c", "echo up; exec sleep 600"];
        let mut holder = Self::spawn(world.command(&[&["lock", "run", "$B", "a"], options, &command].concat()));
        assert_eq!(holder.line(), "up");
        holder
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn end(self) -> Ran {
        Ran::of(self.child)
    }
}

/// Waits until a process has ended.
fn assert_ends(pid: &str) {
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    let end = Instant::now() + SOON;
    while test_kill_process(pid).is_ok() {
        assert!(Instant::now() < end, "process {pid:?} still runs");
        std::thread::yield_now();
    }
}

fn fence(world: &World, name: &str) -> String {
    let lock: Value = world.json(&["lock", "show", "$B", name]);
    assert_eq!(lock["state"], "held", "{lock}");
    lock["fence"].to_string()
}

on_each_store! {
    fn exit_code_is_that_of_the_command(world: &World) {
        world.fill(SETTINGS, &[]);
        let run = |script: &str| world.run(&["lock", "run", "$B", "nightly", "--", "sh", "-c", script]);
        let ran = run("echo $KVTYPED_NAME $KVTYPED_FENCE; exit 7");
        assert_eq!((ran.code, ran.out.split(' ').next()), (7, Some("nightly")), "{ran:?}");
        assert!(ran.out.trim().split(' ').nth(1).is_some_and(|fence| fence.parse::<u64>().is_ok()), "{ran:?}");
        assert_eq!((run("exit 0").code, run("kill -9 $$").code), (0, 137));
        assert_eq!(world.json(&["lock", "show", "$B", "nightly"])["state"], "free");
        let missing = world.run(&["lock", "run", "$B", "nightly", "--", "/no/such/program"]);
        assert!(missing.code == 127 && missing.err.contains("/no/such/program"), "{missing:?}");
        let folder = world.path("").display().to_string();
        assert_eq!(world.run(&["lock", "run", "$B", "nightly", "--", &folder]).code, 126);
        assert_eq!(world.json(&["lock", "show", "$B", "nightly"])["state"], "free");
        assert_eq!(world.run(&["--read-only", "lock", "run", "$B", "nightly", "--", "true"]).code, 10);
        assert_eq!(world.run(&["lock", "run", "$B", "nightly", "--ttl", "5s", "--grace", "5s", "--", "true"]).code, 2);
        let led = world.run(&["election", "run", "scheduler", "--bucket", "$B", "--value", "{\"a\":1}", "--", "sh", "-c", "exit 9"]);
        assert_eq!(led.code, 9, "{led:?}");
    }
}

#[test]
fn lock_that_is_not_had_in_time_is_124() {
    let world = World::server();
    let holder = Running::holding(&world, &["--owner", "first", "--note", "a test"]);
    for wait in ["0s", "300ms"] {
        let late = world.run(&["lock", "run", "$B", "a", "--wait", wait, "--", "true"]);
        assert_eq!(late.code, 124, "{wait}: {late:?}");
        assert_eq!(late.err.contains("which `first` holds"), wait != "0s", "{late:?}");
    }
    let shown = world.json(&["lock", "show", "$B", "a"]);
    assert!(shown["owner"] == "first" && shown["note"] == "a test", "{shown}");
    // A waiter is shown, and gets the lock when the holder ends.
    let mut waiter =
        Running::spawn(world.command(&["lock", "run", "$B", "a", "--owner", "second", "--", "sh", "-c", "echo next"]));
    let end = Instant::now() + SOON;
    while world.json(&["lock", "show", "$B", "a"])["waiters"][0]["owner"] != "second" {
        assert!(Instant::now() < end, "the waiter is not shown");
    }
    kill_process(holder.pid(), Signal::TERM).unwrap();
    assert_eq!(holder.end().code, 128 + 15, "SIGTERM ends the command");
    assert_eq!(waiter.line(), "next");
    assert_eq!(waiter.end().code, 0);
    let unreachable = format!("nats://127.0.0.1:{}", harness::free_port());
    let mut command = crate::world::tool(world.folder.path());
    command.args(["--url", &unreachable, "--timeout", "500ms", "lock", "run", "x", "a", "--", "true"]);
    assert_eq!(crate::world::run(command, b"").code, 125);
}

#[test]
fn broken_lock_stops_the_command() {
    let world = World::server();
    // The command prints its number, and reports SIGTERM.
    let script = "trap 'echo term; exit 0' TERM; echo $$; while :; do sleep 0.05; done";
    let mut holder = Running::spawn(
        world.command(&["lock", "run", "$B", "a", "--ttl", "6s", "--grace", "1s", "--", "sh", "-c", script]),
    );
    let pid = holder.line();
    let broken = world.run(&["lock", "break", "$B", "a", "--fence", &fence(&world, "a"), "--yes"]);
    assert!(broken.code == 0 && broken.err.contains("next renewal"), "{broken:?}");
    assert_eq!(holder.line(), "term");
    let ended = holder.end();
    assert!(ended.code == 125 && ended.err.contains("lost"), "{ended:?}");
    assert_ends(&pid);
}

#[test]
fn command_that_ignores_sigterm_is_killed_after_the_grace() {
    let world = World::server();
    // A child of the command ignores the signal, too.
    let script = "trap '' TERM; sh -c 'echo $$; while :; do sleep 0.05; done' & echo $$; wait";
    let mut holder = Running::spawn(
        world.command(&["lock", "run", "$B", "a", "--ttl", "6s", "--grace", "500ms", "--", "sh", "-c", script]),
    );
    let pids = [holder.line(), holder.line()];
    let start = Instant::now();
    assert_eq!(world.run(&["lock", "break", "$B", "a", "--fence", &fence(&world, "a"), "--yes"]).code, 0);
    let ended = holder.end();
    assert!(ended.code == 125 && start.elapsed() >= Duration::from_millis(500), "{ended:?}");
    pids.iter().for_each(|pid| assert_ends(pid));
}

#[test]
fn leadership_that_is_ended_stops_the_command() {
    let world = World::server();
    let mut leader = Running::spawn(world.command(&[
        "election",
        "run",
        "$B",
        "--value",
        "\"10.0.0.7\"",
        "--ttl",
        "6s",
        "--grace",
        "1s",
        "--",
        "sh",
        "-c",
        "echo up; exec sleep 600",
    ]));
    assert_eq!(leader.line(), "up");
    let shown = world.json(&["election", "show", "$B"]);
    assert_eq!(shown["value"], "10.0.0.7");
    let late = world.run(&["election", "run", "$B", "--wait", "300ms", "--", "true"]);
    assert_eq!(late.code, 124, "{late:?}");
    let fence = shown["fence"].to_string();
    assert_eq!(world.run(&["election", "resign", "$B", "--fence", &fence, "--yes"]).code, 0);
    let ended = leader.end();
    assert!(ended.code == 125 && ended.err.contains("lost"), "{ended:?}");
}

#[test]
fn live_holder_is_not_broken_by_waiting() {
    let world = World::server();
    let holder = Running::holding(&world, &["--ttl", "4s", "--grace", "1s"]);
    let waited = world.run(&["lock", "break", "$B", "a", "--fence", &fence(&world, "a"), "--wait"]);
    assert!(waited.code == 4 && waited.err.contains("is alive"), "{waited:?}");
    kill_process(holder.pid(), Signal::INT).unwrap();
    assert_eq!(holder.end().code, 128 + 2);
}

#[test]
fn command_ends_before_the_lock_of_a_hung_server_expires() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(harness::Server::start());
    let world = World::file();
    let mut command = crate::world::tool(world.folder.path());
    let script = "trap '' TERM; echo $$; while :; do sleep 0.05; done";
    command.args(["--url", &server.url(), "--timeout", "2s", "lock", "run", "jobs", "a"]);
    command.args(["--ttl", "6s", "--grace", "1s", "--", "sh", "-c", script]);
    let mut holder = Running::spawn(command);
    let pid = holder.line();
    // The last renewal came before this moment, so the lock expires within six seconds from here.
    let start = Instant::now();
    server.freeze();
    assert_ends(&pid);
    let ended = start.elapsed();
    server.thaw();
    assert!(ended < Duration::from_secs(6), "{ended:?}");
    let ended = holder.end();
    assert_eq!(ended.code, 125, "{ended:?}");
    runtime.block_on(server.terminate());
}

#[test]
fn interrupt_reaches_the_command_and_the_lock_is_released() {
    let world = World::server();
    // The command chooses its time of end and its exit code.
    let script = "trap 'echo interrupted; exit 3' INT; echo up; while :; do sleep 0.05; done";
    let mut holder = Running::spawn(world.command(&["lock", "run", "$B", "a", "--", "sh", "-c", script]));
    assert_eq!(holder.line(), "up");
    fence(&world, "a");
    kill_process(holder.pid(), Signal::INT).unwrap();
    assert_eq!(holder.line(), "interrupted");
    assert_eq!(holder.end().code, 3);
    assert_eq!(world.json(&["lock", "show", "$B", "a"])["state"], "free");
}

#[test]
fn control_c_on_a_terminal_reaches_the_command_once() {
    let world = World::server();
    // A second signal would print a second line.
    let script =
        "trap 'echo interrupted; n=1' INT; echo up; while [ -z \"$n\" ]; do sleep 0.05; done; sleep 0.2; exit 3";
    let tool = world.command(&["lock", "run", "$B", "a", "--", "sh", "-c", script]);
    // In a new session, the terminal sends the signal to the foreground.
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait"]).arg(tool.get_program()).args(tool.get_args());
    for (name, value) in tool.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut terminal = Terminal::spawn(command, 100);
    terminal.expect("up");
    terminal.send("\u{3}");
    let (code, shown) = terminal.end();
    assert_eq!((code, shown.matches("interrupted").count()), (Some(3), 1), "{shown:?}");
    assert_eq!(world.json(&["lock", "show", "$B", "a"])["state"], "free");
}

/// A command that prints its process ID and that of a child, and reports SIGTERM.
const FAMILY: &str = "trap 'echo term; exit 0' TERM; sh -c 'echo $$; while :; do sleep 0.05; done' & echo $$; while :; do sleep 0.05; done";

#[test]
fn killed_tool_leaves_no_command_behind() {
    let world = World::server();
    let mut holder = Running::spawn(world.command(&["lock", "run", "$B", "a", "--", "sh", "-c", FAMILY]));
    let pids = [holder.line(), holder.line()];
    kill_process(holder.pid(), Signal::KILL).unwrap();
    assert_eq!(holder.line(), "term", "the command may clean up");
    pids.iter().for_each(|pid| assert_ends(pid));
    assert_eq!(holder.end().code, -1);
}

#[test]
fn killed_tool_kills_a_command_that_ignores_sigterm_before_the_lock_expires() {
    let world = World::server();
    let script = "trap '' TERM; echo $$; while :; do sleep 0.05; done";
    let options = ["--ttl", "8s", "--grace", "500ms", "--", "sh", "-c", script];
    let mut holder = Running::spawn(world.command(&[&["lock", "run", "$B", "a"], &options[..]].concat()));
    let pid = holder.line();
    kill_process(holder.pid(), Signal::KILL).unwrap();
    assert_ends(&pid);
    assert_eq!(world.json(&["lock", "show", "$B", "a"])["state"], "held", "the command has ended before the lock");
    holder.end();
}

#[test]
fn killed_tool_on_a_terminal_ends_the_command() {
    let world = World::server();
    let script = "echo up $$.; exec sleep 600";
    let mut terminal = Terminal::spawn(world.command(&["lock", "run", "$B", "a", "-v", "--", "sh", "-c", script]), 100);
    // The tool prints its line once the watchdog knows the command. The lines come in any order.
    let shown = terminal.all(&["is held with fence", "up ", "."]);
    let pid = shown.split("up ").nth(1).and_then(|rest| rest.split('.').next()).unwrap().to_owned();
    kill_process(terminal.pid(), Signal::KILL).unwrap();
    assert_ends(&pid);
    assert_eq!(terminal.end().0, None);
}

#[test]
fn sigterm_and_sighup_reach_the_command_and_its_children() {
    let world = World::server();
    for (signal, code) in [(Signal::TERM, 0), (Signal::HUP, 128 + 1)] {
        let mut holder = Running::spawn(world.command(&["lock", "run", "$B", "a", "--", "sh", "-c", FAMILY]));
        let pids = [holder.line(), holder.line()];
        kill_process(holder.pid(), signal).unwrap();
        pids.iter().for_each(|pid| assert_ends(pid));
        assert_eq!(holder.end().code, code, "{signal:?}");
        assert_eq!(world.json(&["lock", "show", "$B", "a"])["state"], "free");
    }
}

#[test]
fn no_watchdog_outlives_its_tool() {
    let world = World::server();
    // The watchdog is a child of the tool, which is the parent of the command.
    let script = "cat /proc/$PPID/task/$PPID/children";
    let ran = world.run(&["lock", "run", "$B", "a", "--", "sh", "-c", script]);
    let children: Vec<_> = ran.out.split_whitespace().collect();
    assert_eq!((ran.code, children.len()), (0, 2), "the watchdog and the command: {ran:?}");
    children.iter().for_each(|pid| assert_ends(pid));
}

#[test]
fn interrupt_while_waiting_leaves_no_ticket() {
    let world = World::server();
    let holder = Running::holding(&world, &[]);
    let waiter = Running::spawn(world.command(&["lock", "run", "$B", "a", "--fair", "--", "true"]));
    let waiters = || world.json(&["lock", "show", "$B", "a"])["waiters"].as_array().unwrap().len();
    let end = Instant::now() + SOON;
    while waiters() == 0 {
        assert!(Instant::now() < end, "the waiter is not shown");
    }
    kill_process(waiter.pid(), Signal::INT).unwrap();
    assert_eq!(waiter.end().code, 130);
    assert_eq!(waiters(), 0, "the ticket is given back");
    kill_process(holder.pid(), Signal::TERM).unwrap();
    assert_eq!(holder.end().code, 128 + 15);
}
