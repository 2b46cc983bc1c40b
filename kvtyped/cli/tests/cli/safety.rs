//! The tool does not write with `--read-only`, and shows no credentials.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::world::{World, run, tool};

/// A proxy that records what clients send.
struct Recorder {
    url: String,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    fn start(server: &str) -> Self {
        let server = server.trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let sent = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&sent);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
                pump(server.try_clone().unwrap(), client.try_clone().unwrap(), None);
                pump(client, server, Some(Arc::clone(&record)));
            }
        });
        Self { url, sent }
    }

    /// Returns the subjects that change records or buckets.
    fn writes(&self) -> Vec<String> {
        let sent = String::from_utf8_lossy(&self.sent.lock().unwrap()).into_owned();
        let is_write = |subject: &str| {
            subject.starts_with("$KV.")
                || ["CREATE", "UPDATE", "DELETE", "PURGE", "MSG.DELETE"]
                    .iter()
                    .any(|verb| subject.starts_with(&format!("$JS.API.STREAM.{verb}")))
        };
        let subjects = sent.lines().filter_map(|line| line.strip_prefix("PUB ").or(line.strip_prefix("HPUB ")));
        subjects
            .filter_map(|rest| rest.split(' ').next())
            .filter(|subject| is_write(subject))
            .map(str::to_owned)
            .collect()
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, record: Option<Arc<Mutex<Vec<u8>>>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if let Some(record) = &record {
                record.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
            if to.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
}

#[test]
fn read_only_sends_nothing_that_writes() {
    let world = World::server();
    let mut entries =
        vec![r#""key":"a","codec":"json","value":1"#.to_owned(), r#""key":"b","codec":"json","value":1"#.to_owned()];
    entries.extend(crate::recipes::entries());
    world.fill(crate::recipes::SETTINGS, &entries.iter().map(String::as_str).collect::<Vec<_>>());
    let export = world.ok(&["export", "$B"]);
    let recorder = Recorder::start(world.url());
    let command = |arguments: &[&str]| {
        let mut command = tool(world.folder.path());
        command.args(["--url", &recorder.url, "--yes"]);
        command.args(arguments.iter().map(|argument| argument.replace("$B", &world.bucket)));
        command.env("EDITOR", "true");
        command
    };
    let refused: &[&[&str]] = &[
        &["put", "$B", "a", "2"],
        &["patch", "$B", "a", r#"{"n":2}"#],
        &["edit", "$B", "a"],
        &["rm", "$B", "a"],
        &["rm", "$B", ">"],
        &["touch", "$B", "a"],
        &["restore", "$B", "a", "1"],
        &["import", "$B"],
        &["bucket", "create", "x_$B"],
        &["bucket", "set", "$B", "--history", "5"],
        &["bucket", "rm", "$B"],
        &["bucket", "compact", "$B"],
        &["copy", "$B", "copy_$B"],
        &["lock", "run", "$B", "nightly", "--", "true"],
        &["lock", "break", "$B", "nightly", "--fence", "3"],
        &["election", "run", "$B", "--", "true"],
        &["election", "resign", "scheduler", "--bucket", "$B", "--fence", "4"],
        &["counter", "add", "hits", "home", "1", "--bucket", "$B"],
        &["counter", "rm", "hits", "home", "--bucket", "$B"],
        &["once", "forget", "charges", "charge-42", "--bucket", "$B"],
        &["rate", "reset", "api", "client", "--bucket", "$B"],
    ];
    for arguments in refused {
        let ran = run(command(&[&["--read-only"], *arguments].concat()), export.as_bytes());
        assert_eq!(ran.code, 10, "{arguments:?}: {ran:?}");
    }
    for arguments in [
        &["buckets"][..],
        &["ls", "$B", "-l"],
        &["get", "$B", "a"],
        &["get", "$B", ">"],
        &["history", "$B", "a"],
        &["watch", "$B", "--until", "2"],
        &["export", "$B"],
        &["bucket", "show", "$B"],
        &["bucket", "drift", "$B"],
        &["lock", "ls", "$B"],
        &["lock", "show", "$B", "nightly"],
        &["lock", "watch", "$B", "--until", "1"],
        &["election", "ls", "$B"],
        &["election", "show", "scheduler", "--bucket", "$B"],
        &["election", "watch", "scheduler", "--bucket", "$B", "--until", "1"],
        &["group", "ls", "$B"],
        &["group", "members", "workers", "--bucket", "$B"],
        &["semaphore", "ls", "$B"],
        &["semaphore", "show", "gpu", "--bucket", "$B"],
        &["counter", "ls", "hits", "--bucket", "$B"],
        &["counter", "get", "hits", "home", "--bucket", "$B"],
        &["once", "ls", "charges", "--bucket", "$B"],
        &["once", "show", "charges", "charge-42", "--bucket", "$B"],
        &["rate", "show", "api", "--bucket", "$B"],
        &["id", "peek", "orders", "--bucket", "$B"],
        &["schema", "show", "$B"],
        &["schema", "check", "$B"],
        &["doctor", "$B"],
        &["top", "$B", "--interval", "10ms", "--until", "1"],
    ] {
        let ran = run(command(&[&["--read-only"], arguments].concat()), b"");
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
    }
    // Locks of other tests may be unreadable.
    assert!([0, 9].contains(&run(command(&["--read-only", "lock", "ls"]), b"").code));
    assert_eq!(recorder.writes(), Vec::<String>::new());
    // The proxy does see writes.
    assert_eq!(run(command(&["put", "$B", "a", "2"]), b"").code, 0);
    assert_eq!(recorder.writes(), [format!("$KV.{}.a", world.bucket)]);
}

#[test]
fn dry_runs_send_nothing_that_writes() {
    let world = World::server();
    world.fill("", &[r#""key":"a","codec":"json","value":1"#, r#""key":"b","codec":"json","value":1"#]);
    let export = world.ok(&["export", "$B"]);
    let recorder = Recorder::start(world.url());
    for arguments in [
        &["put", "$B", "a", "2"][..],
        &["patch", "$B", "a", r#"{"n":2}"#],
        &["edit", "$B", "a"],
        &["rm", "$B", "a"],
        &["rm", "$B", ">"],
        &["touch", "$B", "a"],
        &["import", "$B"],
        &["import", "new_$B"],
        &["bucket", "create", "x_$B"],
        &["bucket", "set", "$B", "--history", "5"],
        &["bucket", "rm", "$B"],
        &["copy", "$B", "copy_$B"],
    ] {
        let mut command = tool(world.folder.path());
        command
            .args(["--url", &recorder.url])
            .args(arguments.iter().map(|argument| argument.replace("$B", &world.bucket)));
        command.arg("--dry-run").env("EDITOR", "sed -i s/1/2/");
        let ran = run(command, export.as_bytes());
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
    }
    assert_eq!(recorder.writes(), Vec::<String>::new());
}

#[test]
fn credentials_are_neither_arguments_nor_output() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = "authorization { user: ada, password: s3cret }";
    let server = runtime.block_on(harness::Server::builder().config(config).auth().start());
    let world = World::file();
    let host = format!("127.0.0.1:{}", server.port());
    let secret = format!("nats://ada:s3cret@{host}");

    let argument = run(
        {
            let mut command = tool(world.folder.path());
            command.args(["--url", &secret, "buckets"]);
            command
        },
        b"",
    );
    assert!(argument.code == 2 && !argument.err.contains("s3cret"), "{argument:?}");
    let wrong = format!("nats://ada:wr0ng@{host}");
    for (name, value, code) in [("KVTYPED_URL", secret.as_str(), 0), ("KVTYPED_URL", wrong.as_str(), 5)] {
        let mut command = tool(world.folder.path());
        command.args(["buckets", "-v"]).env(name, value);
        let ran = run(command, b"");
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(!ran.err.contains("s3cret") && !ran.err.contains("wr0ng") && ran.err.contains("***@"), "{ran:?}");
    }
    let mut command = tool(world.folder.path());
    command
        .args(["buckets"])
        .env("KVTYPED_URL", format!("nats://{host}"))
        .env("KVTYPED_USER", "ada")
        .env("KVTYPED_PASSWORD", "s3cret");
    assert_eq!(run(command, b"").code, 0);

    let contexts = world.path("config/nats/context");
    fs::create_dir_all(&contexts).unwrap();
    let file = contexts.join("old.json");
    fs::write(&file, json!({ "url": format!("nats://{host}"), "user": "ada", "password": "s3cret" }).to_string())
        .unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let context = |arguments: &[&str]| {
        let mut command = tool(world.folder.path());
        command.args(arguments);
        run(command, b"")
    };
    let ran = context(&["--context", "old", "buckets", "-v"]);
    assert!(ran.code == 0 && ran.err.contains("chmod 600") && !ran.err.contains("s3cret"), "{ran:?}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(context(&["context", "use", "old"]).code, 0);
    let ran = context(&["buckets"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    for arguments in
        [&["context", "ls", "-o", "json"][..], &["context", "show"], &["context", "show", "old", "-o", "json"]]
    {
        let ran = context(arguments);
        assert!(ran.code == 0 && ran.out.contains("old") && !ran.out.contains("s3cret"), "{arguments:?}: {ran:?}");
    }
    assert_eq!(context(&["context", "use", "none"]).code, 3);
    assert_eq!(context(&["--context", "../old", "buckets"]).code, 3);
}

#[cfg(target_os = "linux")]
#[test]
fn failed_output_does_not_hide_a_write() {
    let world = World::file();
    world.ok(&["bucket", "create", "$B"]);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran = world.command(&["put", "$B", "k", "1", "-o", "json"]).stdout(full).output().unwrap();
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.code() == Some(7) && told.contains("the command has written before that"), "{told}");
    assert!(told.contains(r#""outcome":"unknown""#), "{told}");
    assert_eq!(world.json(&["get", "$B", "k"])["value"], 1);
}

#[test]
fn context_may_be_read_only() {
    let world = World::server();
    world.fill("", &[r#""key":"a","codec":"json","value":1"#]);
    let contexts = world.path("config/kvtyped/context");
    fs::create_dir_all(&contexts).unwrap();
    fs::write(contexts.join("ro.json"), json!({ "url": world.url(), "read_only": true }).to_string()).unwrap();
    let context = |arguments: &[&str]| {
        let mut command = tool(world.folder.path());
        command.args(["--context", "ro", "--yes"]).args(arguments);
        run(command, b"")
    };
    assert_eq!(context(&["get", &world.bucket, "a"]).code, 0);
    assert_eq!(context(&["put", &world.bucket, "a", "2"]).code, 10);
    let to = format!("@ro/copy_{}", world.bucket);
    assert_eq!(context(&["copy", &world.bucket, &to]).code, 10);
    assert_eq!(world.run(&["copy", &world.bucket, &to]).code, 10);

    // A URL in the environment does not end the rule of a context.
    let mut command = tool(world.folder.path());
    command.env("KVTYPED_URL", world.url()).env("KVTYPED_CONTEXT", "ro").args(["put", &world.bucket, "a", "2"]);
    let ran = run(command, b"");
    assert!(ran.code == 2 && ran.err.contains("are both set"), "{ran:?}");
    fs::write(contexts.join("ro.json"), json!({ "url": world.url(), "raed_only": true }).to_string()).unwrap();
    let ran = context(&["put", &world.bucket, "a", "2"]);
    assert!(ran.code == 2 && ran.err.contains("unknown field `raed_only`"), "{ran:?}");
}

#[test]
fn unreachable_server_is_not_applied() {
    let world = World::file();
    let url = format!("nats://127.0.0.1:{}", harness::free_port());
    let mut command = tool(world.folder.path());
    command.args(["--url", &url, "--timeout", "500ms", "put", "b", "a", "1", "-o", "json"]);
    let ran = run(command, b"");
    assert_eq!(
        (ran.code, &ran.error()["outcome"], &ran.error()["exit"]),
        (6, &json!("not_applied"), &json!(6)),
        "{ran:?}"
    );
}

#[test]
fn wrong_usage_has_exit_code_two() {
    let world = World::server();
    for arguments in [
        &["get"][..],
        &["no-such-command"],
        &["ls", "$B", "a..b"],
        &["get", "$B", "a b"],
        &["put", "$B", "a", "1", "--ttl", "5"],
        &["--url", "ftp://x", "buckets"],
        &["ls", "bad name"],
    ] {
        assert_eq!(
            run(
                {
                    let mut command = tool(world.folder.path());
                    command.env("KVTYPED_URL", world.url()).args(arguments);
                    command
                },
                b"",
            )
            .code,
            2,
            "{arguments:?}"
        );
    }
    let mut command = tool(world.folder.path());
    command.arg("buckets").stdin(Stdio::null());
    let ran = run(command, b"");
    assert!(ran.code == 2 && ran.err.contains("KVTYPED_URL"), "{ran:?}");
}
