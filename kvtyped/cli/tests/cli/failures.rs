//! Failures in the middle of a command: interrupts, lost servers, lost acknowledgements, files in use, limits.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::world::{Ran, SOON, World, run, tool};

/// Starts a tool whose output is collected.
fn start(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn entries(count: u32) -> Vec<String> {
    (0..count).map(|id| format!(r#""key":"k.{id}","codec":"json","value":"{id} {}""#, "x".repeat(200))).collect()
}

/// Fills a bucket with many records, so that long commands take a while.
fn fill(world: &World, count: u32) {
    let entries = entries(count);
    world.fill(crate::recipes::SETTINGS, &entries.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn interrupt_ends_every_long_command() {
    let world = World::server();
    fill(&world, 5_000);
    let file = world.path("export.ndjson").display().to_string();
    std::fs::write(&file, world.ok(&["export", "$B"])).unwrap();
    let commands: &[&[&str]] = &[
        &["export", "$B"],
        &["get", "$B", ">"],
        &["ls", "$B", "-l"],
        &["schema", "check", "$B"],
        &["import", "import_$B", &file],
        &["copy", "$B", "copy_$B"],
        &["rm", "$B", ">", "--yes"],
        &["wait", "$B", "none", "--timeout", "1h"],
        &["watch", "$B", "none.*"],
        &["lock", "watch", "$B"],
        &["election", "watch", "none", "--bucket", "$B"],
        &["group", "watch", "none", "--bucket", "$B"],
        &["top", "$B"],
        &["doctor", "$B", "--sample", "5000"],
    ];
    for arguments in commands {
        let mut child = start(world.command(arguments));
        // The test does not read the output of the export, so its write blocks.
        let is_blocked = arguments[0] == "export";
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0][..usize::from(is_blocked)]).unwrap();
        let (blocked, read) = if is_blocked { (Some(out), None) } else { (None, Some(out)) };
        let rest =
            std::thread::spawn(move || read.map_or(Ok(0), |mut out| std::io::copy(&mut out, &mut std::io::sink())));
        if await_handler(&mut child) {
            kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        }
        let mut err = String::new();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        let status = child.wait().unwrap();
        rest.join().unwrap().unwrap();
        drop(blocked);
        let is_write = ["import", "copy", "rm"].contains(&arguments[0]);
        if status.code() == Some(130) && !is_write && !is_blocked {
            assert!(err.contains("interrupted; nothing was written"), "{arguments:?}: {err}");
        }
        // A short command may end before the signal.
        let is_ended = status.code() == Some(130) || status.success() && !is_blocked;
        assert!(is_ended, "{arguments:?}: {status}");
    }
}

/// Waits until a process handles the signal. Returns `false` if it has ended.
fn await_handler(child: &mut Child) -> bool {
    let end = Instant::now() + SOON;
    let caught = |id: u32| {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
    };
    while caught(child.id()) & 0b10 == 0 {
        assert!(Instant::now() < end, "the tool does not handle the signal");
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

#[test]
fn server_that_goes_away_is_reported_and_work_continues_later() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(harness::Server::start());
    let world = World::file();
    let command = |arguments: &[&str]| {
        let mut command = tool(world.folder.path());
        command.env("KVTYPED_URL", server.url()).args(arguments);
        command
    };
    let entries = entries(10_000);
    let export = world.export(r#""history":1"#, &entries.iter().map(String::as_str).collect::<Vec<_>>());
    let (file, position) = (world.path("export.ndjson"), world.path("position"));
    std::fs::write(&file, &export).unwrap();
    let import = ["import", "b", file.to_str().unwrap(), "--resume", position.to_str().unwrap(), "--timeout", "5s"];
    let mut child = start(command(&import));
    let end = Instant::now() + SOON;
    while !position.exists() && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "the import makes progress");
        std::thread::sleep(Duration::from_millis(2));
    }
    runtime.block_on(server.terminate());
    let ran = Ran::of(child);
    assert!([6, 7].contains(&ran.code), "{ran:?}");
    assert!(ran.err.contains("line "), "{ran:?}");

    runtime.block_on(server.restart());
    let resumed = run(command(&import), b"");
    assert_eq!(resumed.code, 0, "{resumed:?}");
    let count = run(command(&["ls", "b", "--count"]), b"");
    assert_eq!(count.out, "10000\n", "{count:?}");

    // A watch survives the restart of the server.
    let mut watch = start(command(&["watch", "b", "--new", "--until", "1", "-o", "ndjson"]));
    let mut notes = BufReader::new(watch.stderr.take().unwrap()).lines();
    assert!(notes.next().unwrap().unwrap().contains("ready"));
    runtime.block_on(server.terminate());
    runtime.block_on(server.restart());
    assert_eq!(run(command(&["put", "b", "new", "1"]), b"").code, 0);
    let ran = Ran::of(watch);
    assert!(ran.code == 0 && ran.out.contains(r#""key":"new""#), "{ran:?}");
    runtime.block_on(server.terminate());
}

/// A proxy that swallows every reply of the server after the first write.
struct Swallow {
    url: String,
}

impl Swallow {
    fn start(server: &str) -> Self {
        let server = server.strip_prefix("nats://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
                let has_written = Arc::new(AtomicBool::new(false));
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let seen = Arc::clone(&has_written);
                std::thread::spawn(move || {
                    let mut buffer = [0; 65_536];
                    while let Ok(count @ 1..) = from.read(&mut buffer) {
                        let is_write = String::from_utf8_lossy(&buffer[..count]).contains("PUB $KV.");
                        seen.fetch_or(is_write, Ordering::SeqCst);
                        to.write_all(&buffer[..count]).unwrap();
                    }
                });
                let (mut from, mut to) = (server, client);
                std::thread::spawn(move || {
                    let mut buffer = [0; 65_536];
                    while let Ok(count @ 1..) = from.read(&mut buffer) {
                        if !has_written.load(Ordering::SeqCst) && to.write_all(&buffer[..count]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { url }
    }
}

#[test]
fn lost_acknowledgement_is_an_unknown_outcome() {
    let world = World::server();
    world.fill("", &[r#""key":"a","codec":"json","value":1"#]);
    let proxy = Swallow::start(world.url());
    let mut command = tool(world.folder.path());
    command.args(["--url", &proxy.url, "--timeout", "2s", "put", &world.bucket, "a", "2", "-o", "json"]);
    let ran = run(command, b"");
    let error = ran.error();
    assert_eq!((ran.code, &error["outcome"], &error["exit"]), (7, &json!("unknown"), &json!(7)), "{ran:?}");
    assert!(error["hint"].as_str().unwrap().contains("kvtyped get"), "{error}");
    // The write was applied.
    assert_eq!(world.json(&["get", "$B", "a", "--leader"])["value"], 2);
}

#[test]
fn interrupt_says_whether_a_write_is_under_way() {
    let world = World::server();
    world.fill("", &[r#""key":"a","codec":"json","value":1"#]);
    // A write whose acknowledgement does not come.
    let proxy = Swallow::start(world.url());
    let mut command = tool(world.folder.path());
    command.args(["--url", &proxy.url, "put", &world.bucket, "a", "2", "-o", "json"]);
    let child = start(command);
    let end = Instant::now() + SOON;
    while world.json(&["get", "$B", "a", "--leader"])["value"] != 2 {
        assert!(Instant::now() < end, "the write arrives");
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ran = Ran::of(child);
    let error = ran.error();
    assert_eq!(
        (ran.code, &error["kind"], &error["outcome"]),
        (130, &json!("interrupted"), &json!("unknown")),
        "{ran:?}"
    );
    assert!(error["message"].as_str().unwrap().contains("may be applied"), "{error}");

    // No write was sent.
    let mut wait = start(world.command(&["wait", "$B", "none", "--timeout", "1h", "-o", "json"]));
    assert!(await_handler(&mut wait));
    kill_process(Pid::from_child(&wait), Signal::INT).unwrap();
    let ran = Ran::of(wait);
    let error = ran.error();
    assert_eq!((ran.code, &error["outcome"]), (130, &json!("not_applied")), "{ran:?}");
    assert_eq!(error["message"], "interrupted; nothing was written");
}

#[test]
fn file_in_use_names_its_process() {
    let world = World::file();
    world.fill("", &[r#""key":"a","codec":"json","value":1"#]);
    let mut watch = start(world.command(&["watch", "$B"]));
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains('a'));
    for arguments in [&["ls", "$B"][..], &["put", "$B", "a", "2"]] {
        let ran = world.run(&[arguments, &["-o", "json", "--timeout", "300ms"]].concat());
        let error = ran.error();
        assert_eq!(
            (ran.code, &error["kind"], &error["outcome"]),
            (6, &json!("in_use"), &json!("not_applied")),
            "{ran:?}"
        );
        assert!(error["message"].as_str().unwrap().contains(&watch.id().to_string()), "{error}");
        let hint = error["hint"].as_str().unwrap();
        assert!(hint.starts_with("it is `kvtyped`; ") && hint.contains("wait until that process ends"), "{error}");
    }
    let doctor = world.run(&["doctor", "-o", "json", "--timeout", "300ms"]);
    assert_eq!(doctor.code, 1, "{doctor:?}");
    let findings: serde_json::Value = serde_json::from_str(&doctor.out).unwrap();
    let text = |field: &str| findings[0][field].as_str().unwrap().to_owned();
    assert!(text("reason").contains(&format!("process {}", watch.id())), "{findings}");
    assert!(
        text("repair").contains("wait until that process ends") && !text("repair").contains("server"),
        "{findings}"
    );
    kill_process(Pid::from_child(&watch), Signal::INT).unwrap();
    assert_eq!(watch.wait().unwrap().code(), Some(130));
    assert_eq!(world.ok(&["ls", "$B"]), "a\n");
}

#[test]
fn huge_and_binary_values_are_stored_or_refused() {
    let world = World::server();
    world.fill("", &[]);
    let value: Vec<u8> = (0..900_000_u32).map(|at| (at % 251) as u8).collect();
    let stored = world.feed(&["put", "$B", "blob", "--raw", "-"], &value);
    assert_eq!(stored.code, 0, "{stored:?}");
    let file = world.path("blob");
    let mut raw = world.command(&["get", "$B", "blob", "--raw"]);
    raw.stdout(std::fs::File::create(&file).unwrap());
    assert!(raw.status().unwrap().success());
    assert_eq!(std::fs::read(&file).unwrap(), value);
    let export = world.ok(&["export", "$B"]);
    let imported = world.feed(&["import", "copy_$B"], export.as_bytes());
    assert_eq!(imported.code, 0, "{imported:?}");
    let addresses = ["", "copy_"].map(|prefix| format!("{}/{prefix}{}", world.url(), world.bucket));
    assert_eq!(world.run(&["diff", &addresses[0], &addresses[1]]).code, 0);
    let large = world.feed(&["put", "$B", "large", "--raw", "-", "-o", "json"], &vec![7; 2 << 20]);
    assert_eq!((large.code, &large.error()["kind"]), (9, &json!("too_large")), "{large:?}");
    assert_eq!(world.ok(&["ls", "$B"]), "blob\n");
}

#[test]
fn feature_that_the_bucket_lacks_is_unsupported() {
    let world = World::server();
    world.ok(&["bucket", "create", "$B", "--history", "1", "--limit-markers", "off"]);
    let ran = world.run(&["put", "$B", "a", "1", "--ttl", "1m", "-o", "json"]);
    assert_eq!((ran.code, &ran.error()["kind"]), (8, &json!("unsupported")), "{ran:?}");
    assert_eq!(world.ok(&["ls", "$B"]), "");
}

#[test]
fn unreadable_local_files_are_named() {
    let world = World::file();
    let folder = world.folder.path().display().to_string();
    for arguments in [&["import", "b", folder.as_str()][..], &["put", "b", "a", "@/no/such/file"]] {
        let ran = world.run(arguments);
        assert!(ran.code != 0 && ran.out.is_empty(), "{arguments:?}: {ran:?}");
        let named = if arguments[0] == "import" { folder.as_str() } else { "/no/such" };
        assert!(ran.err.contains(named), "{arguments:?}: {ran:?}");
    }
    let mut command = tool(world.folder.path());
    command.args(["--creds", "/no/such/creds", "--url", "nats://127.0.0.1:1", "buckets"]);
    let ran = run(command, b"");
    assert!(ran.code == 2 && ran.err.contains("/no/such/creds"), "{ran:?}");
}
