//! The tool on a real pseudo-terminal.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::json;

use crate::world::{SOON, World};

/// A command on a terminal.
pub(crate) struct Terminal {
    child: Child,
    master: File,
    output: Receiver<Vec<u8>>,
    seen: String,
    /// The position after the last expected text.
    at: usize,
}

impl Terminal {
    pub(crate) fn spawn(mut command: Command, columns: u16) -> Self {
        let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        tcsetwinsize(&master, Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let slave = || OpenOptions::new().read(true).write(true).open(&name).unwrap();
        let child = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
        // The copies of the command would keep the terminal open.
        drop(command);
        let master = File::from(master);
        let (sender, output) = channel();
        let mut reader = master.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            // The read fails once the child has closed the terminal.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, master, output, seen: String::new(), at: 0 }
    }

    /// Waits until the terminal shows this text after the last one.
    pub(crate) fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(found) = self.seen[self.at..].find(text) {
                self.at += found + text.len();
                return;
            }
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("expected {text:?} in {:?}", self.seen),
            }
        }
    }

    /// Waits for several texts in any order, and returns everything that the terminal has shown.
    pub(crate) fn all(&mut self, texts: &[&str]) -> &str {
        for text in texts {
            self.at = 0;
            self.expect(text);
        }
        &self.seen
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Waits for the end, and returns the exit code and everything that was shown.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        while let Ok(bytes) = self.output.recv_timeout(SOON) {
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
        (status.code(), self.seen)
    }
}

fn show(world: &World, arguments: &[&str], columns: u16) -> (Option<i32>, String) {
    Terminal::spawn(world.command(arguments), columns).end()
}

#[test]
fn tables_have_headers_colors_and_the_width_of_the_terminal() {
    let world = World::file();
    let long = "x".repeat(300);
    world.fill("", &[&format!(r#""key":"acme.1","codec":"json","value":"{long}""#)]);
    let (code, shown) = show(&world, &["get", "$B", "*.*"], 60);
    assert_eq!(code, Some(0));
    assert!(
        shown.contains("\u{1b}[1mKEY") && shown.contains("\u{1b}[36macme.1\u{1b}[0m") && shown.contains('…'),
        "{shown:?}"
    );
    let plain = strip(&shown);
    assert!(plain.lines().all(|line| line.chars().count() <= 60), "{plain}");
    let (_, uncolored) = Terminal::spawn(
        {
            let mut command = world.command(&["get", "$B", "*.*"]);
            command.env("NO_COLOR", "1");
            command
        },
        60,
    )
    .end();
    assert!(!uncolored.contains('\u{1b}'), "{uncolored:?}");
    let forced = world.run(&["ls", "$B", "--color", "always"]);
    assert_eq!(forced.out, "acme.1\n", "rows in a pipe have no colors");
    let (_, one) = show(&world, &["get", "$B", "acme.1"], 60);
    assert!(strip(&one).contains("revision") && one.contains(&long), "{one}");
}

#[test]
fn narrow_terminals_lose_nothing() {
    let world = World::server();
    let lock = r#""key":"=kvtyped.lock.a.lease","codec":"json","value":{"v":1,"id":"b","owner":"a-worker-with-a-name","since":1}"#;
    world.fill(r#""history":5"#, &[lock]);
    let words = |text: &str| strip(text).split_whitespace().collect::<String>();
    for columns in [20, 40, 60, 80, 100] {
        let (code, shown) = show(&world, &["doctor", "$B"], columns);
        assert_eq!(code, Some(1));
        let plain = strip(&shown);
        // The last line is the summary on stderr.
        let lines: Vec<_> = plain.lines().filter(|line| !line.contains(" checks: ")).collect();
        assert!(lines.iter().all(|line| line.chars().count() <= usize::from(columns)), "{columns}: {plain}");
        assert!(!plain.contains('…'), "{plain}");
        let joined = words(&shown).replace("error", "").replace("warning", "");
        for text in ["--history1`", "--limit-markers1s`", "2.11ornewer"] {
            assert!(joined.contains(text), "{columns}: {text} in {plain}");
        }
    }
    let world = World::server();
    world.fill(r#""history":1,"limit_markers_ms":300000"#, &[lock]);
    for arguments in [&["lock", "ls", "$B"][..], &["buckets"], &["buckets", "--count"], &["bucket", "show", "$B"]] {
        let (_, shown) = show(&world, arguments, 40);
        let plain = strip(&shown);
        assert!(arguments[0] == "bucket" || plain.lines().all(|line| line.chars().count() <= 40), "{plain}");
        let wanted = if arguments[0] == "lock" { "a-worker-with-a-name" } else { &world.bucket };
        assert!(plain.contains(wanted) && !plain.contains('…'), "{arguments:?}: {plain}");
    }
    let (_, wide) = show(&world, &["lock", "ls", "$B"], 120);
    assert!(strip(&wide).starts_with("RECIPE"), "{wide}");
}

/// Removes the colors.
pub(crate) fn strip(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        out.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    out + rest
}

#[test]
fn hostile_texts_are_shown_escaped() {
    let world = World::server();
    world.fill(
        &crate::world::card("x", "text.{id}", "text", 1),
        &[
            r#""key":"json","codec":"json","value":{"a\u001b]0;x\u0007":"\u009b2J\u202egpj"}"#,
            r#""key":"text.1","codec":"text","value":"\u001b[31mred\u0007""#,
        ],
    );
    for arguments in [
        &["get", "$B", ">"][..],
        &["get", "$B", "json"],
        &["get", "$B", "text.1"],
        &["get", "$B", "text.1", "--raw"],
        &["get", "$B", ">", "-o", "json"],
        &["get", "$B", ">", "-o", "value"],
        &["history", "$B", "json"],
        &["watch", "$B", "--until", "2", "--diff"],
        &["export", "$B"],
    ] {
        let (_, shown) = show(&world, arguments, 200);
        let shown = strip(&shown);
        assert!(!shown.contains(['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}']), "{arguments:?}: {shown:?}");
        let lower = shown.to_lowercase();
        assert!(lower.contains("001b") || lower.contains("u{1b}"), "{arguments:?}: {shown:?}");
    }
}

#[test]
fn typed_count_confirms_a_removal() {
    let world = World::file();
    let entries: Vec<_> = (0..7).map(|id| format!(r#""key":"a.{id}","codec":"json","value":{id}"#)).collect();
    world.fill("", &entries.iter().map(String::as_str).collect::<Vec<_>>());
    let mut terminal = Terminal::spawn(world.command(&["rm", "$B", "a.*"]), 100);
    terminal.expect("This removes 7 records");
    terminal.expect("Type `7` to continue:");
    terminal.send("8\n");
    terminal.expect("not confirmed");
    assert_eq!(terminal.end().0, Some(10));
    assert_eq!(world.ok(&["ls", "$B", "--count"]), "7\n");
    let mut terminal = Terminal::spawn(world.command(&["rm", "$B", "a.*"]), 100);
    terminal.expect("Type `7` to continue:");
    terminal.send("7\n");
    assert_eq!(terminal.end().0, Some(0));
    assert_eq!(world.ok(&["ls", "$B", "--count"]), "0\n");
}

#[test]
fn production_asks_for_the_name_of_the_bucket() {
    let world = World::server();
    world.fill("", &[r#""key":"a","codec":"json","value":1"#]);
    let contexts = world.path("config/kvtyped/context");
    std::fs::create_dir_all(&contexts).unwrap();
    let context = json!({ "url": world.url(), "production": true }).to_string();
    std::fs::write(contexts.join("prod.json"), context).unwrap();
    let command = |arguments: &[&str]| {
        let mut command = crate::world::tool(world.folder.path());
        command
            .args(["--context", "prod"])
            .args(arguments.iter().map(|argument| argument.replace("$B", &world.bucket)));
        command
    };
    let mut terminal = Terminal::spawn(command(&["put", "$B", "a", "2", "--yes"]), 100);
    terminal.expect("\u{1b}[31mThis writes to bucket");
    terminal.expect("Type");
    terminal.send("yes\n");
    terminal.expect("not confirmed");
    assert_eq!(terminal.end().0, Some(10));
    let mut terminal = Terminal::spawn(command(&["put", "$B", "a", "2"]), 100);
    terminal.expect("to continue:");
    terminal.send(&format!("{}\n", world.bucket));
    assert_eq!(terminal.end().0, Some(0));
    assert_eq!(world.json(&["get", "$B", "a"])["value"], 2);
    let refused = crate::world::run(command(&["put", "$B", "a", "3"]), b"");
    assert_eq!(refused.code, 10, "{refused:?}");
}

#[test]
fn interrupt_ends_a_watch_and_a_question() {
    let world = World::server();
    world.fill("", &[r#""key":"a","codec":"json","value":1"#, r#""key":"b","codec":"json","value":1"#]);
    for (arguments, text) in [(&["watch", "$B"][..], "all existing records"), (&["rm", "$B", ">"], "to continue:")] {
        let mut terminal = Terminal::spawn(world.command(arguments), 100);
        terminal.expect(text);
        let pid = rustix::process::Pid::from_child(&terminal.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        assert_eq!(terminal.end().0, Some(130), "{arguments:?}");
    }
    assert_eq!(world.ok(&["ls", "$B", "--count"]), "2\n");
}

#[test]
fn conflict_reopens_the_editor_with_the_change_merged() {
    let world = World::server();
    world.fill("", &[r#""key":"a","codec":"json","value":{"mine":1,"theirs":1}"#]);
    let once = world.path("once");
    let script = world.path("editor.sh");
    // The first time another user writes while the editor is open. The second time the merged text stays.
    let text = format!(
        "if [ ! -e {once} ]; then\n  touch {once}\n  {tool} --url {url} patch {bucket} a '{{\"theirs\":2}}' >/dev/null\n  sed -i 's/\"mine\": 1/\"mine\": 2/' \"$1\"\nelse\n  grep '\"mine\": 2' \"$1\"\n  grep '\"theirs\": 2' \"$1\"\nfi\n",
        once = once.display(),
        tool = env!("CARGO_BIN_EXE_kvtyped"),
        url = world.url(),
        bucket = world.bucket,
    );
    std::fs::write(&script, text).unwrap();
    let mut command = world.command(&["edit", "$B", "a"]);
    command.env("EDITOR", format!("sh -e {}", script.display()));
    let mut terminal = Terminal::spawn(command, 100);
    terminal.expect("another writer changed the record");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(world.json(&["get", "$B", "a"])["value"], json!({"mine": 2, "theirs": 2}));
}

#[test]
fn progress_is_shown_on_a_terminal_only() {
    let world = World::server();
    let entries: Vec<_> = (0..3_000).map(|id| format!(r#""key":"k.{id}","codec":"json","value":{id}"#)).collect();
    let file = world.path("e.ndjson");
    std::fs::write(&file, world.export("", &entries.iter().map(String::as_str).collect::<Vec<_>>())).unwrap();
    let (code, shown) = show(&world, &["import", "$B", file.to_str().unwrap()], 100);
    assert!(code == Some(0) && shown.contains("imported") && shown.contains('█'), "{shown:?}");
    let (code, shown) = show(&world, &["export", "$B"], 100);
    let rate = shown.split("3,000  ").nth(1).and_then(|rest| rest.split("/s").next()).unwrap_or_default();
    assert!(code == Some(0) && rate.replace(',', "").parse::<u64>().is_ok(), "{rate:?} in {shown:?}");
    let piped = world.run(&["export", "$B"]);
    assert_eq!((piped.code, piped.err.as_str()), (0, "3000 records exported\n"));
}
