//! Exports, imports and copies.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::world::{Ran, SOON, World, card, on_each_store, run};

/// Returns the lines of an export without what differs in a copy.
fn normalized(export: &str) -> Vec<Value> {
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let object = line.as_object_mut().unwrap();
        for field in [
            "bucket",
            "revision",
            "created",
            "expires_in_ms",
            "expires_at_ms",
            "ttl_ms",
            "last_revision",
            "bytes",
            "store",
            "replicas",
        ] {
            object.remove(field);
        }
        line
    };
    export.lines().map(line).collect()
}

/// Returns the deadlines of the keys of an export.
fn deadlines(export: &str) -> Vec<(String, Option<i64>)> {
    let lines = export.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let entries = lines.filter(|line| line["type"] == "entry");
    entries.map(|line| (line["key"].as_str().unwrap().to_owned(), line["expires_at_ms"].as_i64())).collect()
}

fn records(count: u32) -> Vec<String> {
    (0..count).map(|id| format!(r#""key":"k.{id}","codec":"json","value":{{"id":{id}}}"#)).collect()
}

fn strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

on_each_store! {
    fn export_of_an_import_is_the_same(world: &World) {
        let settings = format!(r#"{},"description":"of a test""#, card("x", "mp.{id}", "msgpack", 2));
        world.fill(&settings, &[
            r#""key":"mp.1","codec":"msgpack","headers":{"Kvtyped-Version":"2"},"value":{"z":{"$f32":1.5},"a":[{"$bin":"AP8="}]}"#,
            r#""key":"ttl","codec":"json","ttl_ms":600000,"expires_in_ms":600000,"value":{"b":1,"a":0.1}"#,
            r#""key":"spaced","value_b64":"eyAiYSI6IDEuMGUyIH0=""#,
            r#""key":"bad","value_b64":"gP/B""#,
            r#""key":"text","codec":"text","value":"a\nb\u001b""#,
            r#""key":"=kvtyped.counter.x","codec":"json","value":{"n":1}"#,
            // As many levels as JSON and MessagePack allow.
            &format!(r#""key":"deep","value_b64":"{}""#, BASE64.encode(&[[b'['; 126], [b']'; 126]].concat())),
            &format!(r#""key":"mp.deep","value_b64":"{}""#, BASE64.encode(&[&[0x91; 126][..], &[0xc0]].concat())),
        ]);
        let first = world.ok(&["export", "$B", "--reserved"]);
        assert_eq!(first.lines().count(), 10, "{first}");
        let ran = world.feed(&["import", "copy_$B", "-o", "json"], first.as_bytes());
        assert_eq!(ran.code, 0, "{ran:?}");
        let counts: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!((&counts["imported"], &counts["refused"]), (&json!(8), &json!(0)));
        let second = world.ok(&["export", "copy_$B", "--reserved"]);
        assert_eq!(normalized(&first), normalized(&second));
        for ((key, before), (_, after)) in deadlines(&first).into_iter().zip(deadlines(&second)) {
            match (before, after) {
                (Some(before), Some(after)) => assert!((before - after).abs() <= 2_000, "{key}: {before} {after}"),
                (before, after) => assert_eq!(before, after, "{key}"),
            }
        }
        // The same again changes nothing.
        let again = world.feed(&["import", "copy_$B", "-o", "json"], first.as_bytes());
        let counts: Value = serde_json::from_str(&again.out).unwrap();
        assert_eq!((again.code, &counts["unchanged"]), (0, &json!(8)), "{again:?}");
        let only = world.ok(&["export", "$B", "mp.*"]);
        assert_eq!(only.lines().count(), 4, "{only}");
    }

    fn conflicts_are_reported_skipped_or_overwritten(world: &World) {
        world.fill("", &[r#""key":"a","codec":"json","value":1"#]);
        let export = world.export("", &[r#""key":"a","codec":"json","value":2"#, r#""key":"b","codec":"json","value":3"#]);
        let counts = |ran: &Ran| serde_json::from_str::<Value>(&ran.out).unwrap();

        let dry = world.feed(&["import", "$B", "--dry-run", "-o", "json"], export.as_bytes());
        assert_eq!((dry.code, &counts(&dry)["conflicts"]), (4, &json!(1)), "{dry:?}");
        assert_eq!(world.ok(&["ls", "$B", "--count"]), "1\n");
        let failed = world.feed(&["import", "$B", "-o", "json"], export.as_bytes());
        assert_eq!((failed.code, &counts(&failed)["conflicts"]), (4, &json!(1)), "{failed:?}");
        assert!(failed.err.contains("line 2"), "{failed:?}");
        let skipped = world.feed(&["import", "$B", "--on-conflict", "skip", "-o", "json"], export.as_bytes());
        assert_eq!((skipped.code, &counts(&skipped)["skipped"]), (0, &json!(1)), "{skipped:?}");
        assert_eq!(world.json(&["get", "$B", "a"])["value"], 1);
        let refused = world.feed(&["import", "$B", "--on-conflict", "overwrite"], export.as_bytes());
        assert_eq!(refused.code, 10, "{refused:?}");
        let written = world.feed(&["import", "$B", "--on-conflict", "overwrite", "--yes"], export.as_bytes());
        assert_eq!(written.code, 0, "{written:?}");
        assert_eq!(world.json(&["get", "$B", "a"])["value"], 2);
    }

    fn export_that_is_cut_in_a_pipe_is_told(world: &World) {
        let export = world.export("", &strs(&records(5)));
        let lines: Vec<_> = export.split_inclusive('\n').collect();
        let position = world.path("position").display().to_string();
        let import = |input: &str, more: &[&str]| world.feed(&[&["import", "$B", "-o", "json"], more].concat(), input.as_bytes());
        let message = |ran: &Ran| ran.error()["message"].as_str().unwrap().to_owned();
        // In the header, nothing can be imported.
        let cut = import(&lines[0][..10], &[]);
        assert_eq!((cut.code, message(&cut)), (9, "the export is cut off in line 1; nothing was imported".to_owned()), "{cut:?}");
        assert_eq!(world.run(&["ls", "$B"]).code, 3);
        // A dry run does not create the file of a store.
        world.ok(&["bucket", "create", "other_$B"]);
        // In the middle of line 4: two records are whole.
        let in_line: String = lines[..3].concat() + &lines[3][..20];
        let dry = import(&in_line, &["--dry-run"]);
        assert_eq!((dry.code, message(&dry)), (9, "the export is cut off in line 4".to_owned()), "{dry:?}");
        let cut = import(&in_line, &["--resume", &position]);
        let told = "the export is cut off in line 4; imported: 2, unchanged: 0";
        assert_eq!((cut.code, message(&cut)), (9, told.to_owned()), "{cut:?}");
        assert!(cut.error()["hint"].as_str().unwrap().contains("import the whole export again"), "{cut:?}");
        assert_eq!(serde_json::from_str::<Value>(&cut.out).unwrap()["refused"], 0, "{cut:?}");
        // Between two lines.
        let between = import(&lines[..4].concat(), &[]);
        let told = "the export is cut off after line 4: it has no end line; imported: 1, unchanged: 2";
        assert_eq!((between.code, message(&between)), (9, told.to_owned()), "{between:?}");
        let again = import(&lines[..4].concat(), &["--resume", &position]);
        assert_eq!(again.code, 9, "a position does not hide the cut: {again:?}");
        let partial = import(&in_line, &["--partial"]);
        assert!(partial.code == 0 && partial.err.contains("cut off in line 4"), "{partial:?}");
        // The whole export imports the rest, also from the position, which is before the line that was cut.
        world.ok(&["rm", "$B", "k.2"]);
        fs::write(&position, fs::read_to_string(&position).unwrap().replace(r#""line":4"#, r#""line":3"#)).unwrap();
        let whole = import(&export, &["--resume", &position]);
        assert_eq!(whole.code, 0, "{whole:?}");
        assert_eq!(world.ok(&["ls", "$B", "--count"]), "5\n");
        let again = import(&export, &[]);
        assert_eq!(serde_json::from_str::<Value>(&again.out).unwrap()["unchanged"], 5, "{again:?}");
    }

    fn invalid_lines_are_refused_one_by_one(world: &World) {
        let export = world.export(r#""history":1,"ttl_ms":3600000"#, &[
            r#""key":"a","codec":"json","value":1"#,
            r#""key":"a..b","codec":"json","value":1"#,
            r#""key":"c","codec":"unknown","value":1"#,
            r#""key":"d","value_b64":"?""#,
            r#""key":"e""#,
            r#""key":"f","codec":"json","value":1,"headers":{"X-Other":"1"}"#,
            r#""key":"f","codec":"json","value":1,"never_expires":true"#,
            r#""key":"g","codec":"json","value":7"#,
        ]);
        let ran = world.feed(&["import", "$B", "-o", "json"], export.as_bytes());
        let counts: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!((ran.code, &counts["imported"], &counts["refused"]), (9, &json!(2), &json!(6)), "{ran:?}");
        for line in 3..9 {
            assert!(ran.err.contains(&format!("line {line}")), "{line}: {ran:?}");
        }
        assert_eq!(world.ok(&["ls", "$B"]), "a\ng\n");
    }

    fn expired_records_stay_expired(world: &World) {
        let past = r#""ttl_ms":600000,"expires_in_ms":600000,"expires_at_ms":1700000000000"#;
        let export = world.export(&card("x", "{id}", "json", 1), &[&format!(r#""key":"a","codec":"json","value":1,{past}"#)]);
        let ran = world.feed(&["import", "$B", "-o", "json"], export.as_bytes());
        assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap()["expired"], 1, "{ran:?}");
        assert_eq!(world.run(&["get", "$B", "a"]).code, 3);
        let ran = world.feed(&["import", "$B", "--ttl-as-exported"], export.as_bytes());
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(world.json(&["get", "$B", "a"])["ttl_ms"], 600_000);
    }

    fn export_that_was_cut_off_is_refused(world: &World) {
        let export = world.export("", &strs(&records(5)));
        let cut = &export[..export.rfind("{\"v\":1,\"type\":\"end\"").unwrap()];
        let file = world.path("cut.ndjson");
        fs::write(&file, cut).unwrap();
        let name = file.display().to_string();
        let refused = world.run(&["import", "$B", &name]);
        assert!(refused.code == 9 && refused.err.contains("--partial"), "{refused:?}");
        assert_eq!(world.run(&["ls", "$B"]).code, 3, "nothing was created");
        let mut redirected = world.command(&["import", "$B"]);
        redirected.stdin(fs::File::open(&file).unwrap()).stdout(Stdio::null()).stderr(Stdio::null());
        assert_eq!(redirected.status().unwrap().code(), Some(9));
        world.ok(&["import", "$B", &name, "--partial"]);
        assert_eq!(world.ok(&["ls", "$B", "--count"]), "5\n");
        let piped = world.feed(&["import", "piped_$B"], cut.as_bytes());
        assert!(piped.code == 9 && piped.err.contains("cut off"), "{piped:?}");
    }
}

#[test]
fn equal_records_are_not_overwritten() {
    // A store in memory begins with whole TTLs in each process.
    for world in [World::file(), World::server()] {
        check_overwrites(&world);
    }
}

fn check_overwrites(world: &World) {
    let settings = card("x", "{id}", "json", 3);
    let export = world.export(
        &settings,
        &[
            r#""key":"plain","codec":"json","value":1"#,
            r#""key":"header","codec":"json","headers":{"Kvtyped-Version":"2"},"value":2"#,
            r#""key":"ttl","codec":"json","ttl_ms":600000,"expires_in_ms":600000,"value":3"#,
        ],
    );
    assert_eq!(world.feed(&["import", "$B"], export.as_bytes()).code, 0);
    // This export has the expiry times of its records.
    let whole = world.ok(&["export", "$B"]);
    let again = |more: &[&str]| {
        let arguments = [&["import", "$B", "--on-conflict", "overwrite", "--yes", "-o", "json"], more].concat();
        let ran = world.feed(&arguments, whole.as_bytes());
        assert_eq!(ran.code, 0, "{ran:?}");
        let counts: Value = serde_json::from_str(&ran.out).unwrap();
        (counts["imported"].as_u64().unwrap(), counts["unchanged"].as_u64().unwrap())
    };
    let revisions = || ["plain", "header", "ttl"].map(|key| world.json(&["get", "$B", key])["revision"].clone());
    let before = revisions();
    assert_eq!((again(&["--dry-run"]), again(&[])), ((0, 3), (0, 3)));
    assert_eq!(revisions(), before);
    // Another value, another header and another TTL are differences.
    world.ok(&["put", "$B", "plain", "7"]);
    assert_eq!((again(&["--dry-run"]), again(&[]), again(&[])), ((1, 2), (1, 2), (0, 3)));
    world.ok(&["touch", "$B", "ttl", "--ttl", "5m"]);
    assert_eq!((again(&[]), again(&[])), ((1, 2), (0, 3)));
    world.ok(&["touch", "$B", "plain", "--ttl", "5m"]);
    assert_eq!(again(&[]), (1, 2));
    assert_eq!(world.json(&["get", "$B", "plain"]).get("ttl_ms"), None);
    let version = whole.replace(r#""Kvtyped-Version":"2""#, r#""Kvtyped-Version":"3""#);
    let ran = world.feed(&["import", "$B", "--on-conflict", "overwrite", "--yes", "-o", "json"], version.as_bytes());
    assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap()["imported"], 1, "{ran:?}");
}

#[test]
fn damaged_exports_are_imported_as_far_as_possible() {
    let world = World::file();
    let export = world.export("", &strs(&records(5)));
    let without = |number: usize| {
        let lines = export.lines().enumerate().filter(|(index, _)| *index != number);
        lines.map(|(_, line)| format!("{line}\n")).collect::<String>()
    };
    // Another program has written the lines again, with spaces.
    let spaced = world.path("spaced.ndjson");
    fs::write(&spaced, export.replace("\":", "\": ")).unwrap();
    world.ok(&["import", "spaced_$B", spaced.to_str().unwrap()]);
    assert_eq!(world.ok(&["ls", "spaced_$B", "--count"]), "5\n");
    // A record is missing, and the end line is there.
    let short = world.feed(&["import", "short_$B", "-o", "json"], without(3).as_bytes());
    assert!(short.code == 9 && short.error()["message"].as_str().unwrap().contains("4 of 5 records"), "{short:?}");
    let partial = world.feed(&["import", "partial_$B", "--partial"], without(3).as_bytes());
    assert_eq!(partial.code, 0, "{partial:?}");
    // Without a header, there are no settings.
    let headless = world.feed(&["import", "headless_$B"], without(0).as_bytes());
    assert!(headless.code == 9 && headless.err.contains("no header"), "{headless:?}");
    assert_eq!(world.run(&["ls", "headless_$B"]).code, 3);
    // Bytes that are no text, and a line of a later format.
    let mut bytes = export.clone().into_bytes();
    let at = export.find(r#""value":{"id":2}"#).unwrap();
    bytes[at + 2] = 0xff;
    let binary = world.feed(&["import", "binary_$B", "-o", "json"], &bytes);
    assert!(binary.code == 9 && binary.err.contains("line 4"), "{binary:?}");
    assert_eq!(world.ok(&["ls", "binary_$B", "--count"]), "4\n");
    let later = export.replacen(r#"{"v":1,"type":"entry""#, r#"{"v":2,"type":"entry""#, 1);
    let later = world.feed(&["import", "later_$B"], later.as_bytes());
    assert!(later.code == 9 && later.err.contains("line 2: its format is 2"), "{later:?}");
    let newer = world.feed(&["import", "newer_$B"], export.replace(r#""v":1"#, r#""v":2"#).as_bytes());
    assert!(newer.code == 9 && newer.err.contains("its format is 2"), "{newer:?}");
    assert_eq!(world.feed(&["import", "empty_$B"], b"").code, 9);
    // Unknown fields of this format are ignored.
    let more = world.feed(&["import", "more_$B"], export.replace(r#""v":1,"#, r#""v":1,"later":[1],"#).as_bytes());
    assert_eq!(more.code, 0, "{more:?}");
}

#[test]
fn named_pipes_and_dashes_are_read_to_their_end() {
    let world = World::file();
    let export = world.export("", &strs(&records(5)));
    for (bucket, file) in [("a", "-"), ("b", "/dev/stdin")] {
        let ran = world.feed(&["import", bucket, file], export.as_bytes());
        assert_eq!(ran.code, 0, "{file}: {ran:?}");
        assert_eq!(world.ok(&["ls", bucket, "--count"]), "5\n");
    }
    let missing = world.run(&["import", "c", "/no/such/file"]);
    assert!(missing.code == 3 && missing.err.contains("/no/such/file"), "{missing:?}");
}

#[test]
fn export_continues_after_a_cursor() {
    let world = World::server();
    world.fill("", &strs(&records(5)));
    let page = world.run(&["ls", "$B", "-l", "--limit", "2", "-o", "json"]);
    let cursor = page.error()["cursor"].as_str().unwrap().to_owned();
    let whole = world.ok(&["export", "$B"]);
    let begin: String = whole.lines().take(3).map(|line| format!("{line}\n")).collect();
    let rest = world.ok(&["export", "$B", "--after", &cursor]);
    assert_eq!(rest.lines().count(), 4, "{rest}");
    let imported = world.feed(&["import", "copy_$B"], (begin + &rest).as_bytes());
    assert_eq!(imported.code, 0, "{imported:?}");
    assert_eq!(world.ok(&["ls", "copy_$B", "--count"]), "5\n");
    let wrong = world.run(&["export", "$B", "--after", "x"]);
    assert!(wrong.code == 2 && wrong.err.contains("no cursor"), "{wrong:?}");
}

#[test]
fn copy_continues_at_its_position() {
    let world = World::server();
    world.fill("", &strs(&records(5)));
    let position = world.path("position");
    let arguments = ["copy", "$B", "copy_$B", "--resume", position.to_str().unwrap()];
    assert_eq!(world.json(&arguments)["records"], 5);
    world.ok(&["patch", "$B", "k.3", r#"{"id":33}"#]);
    // Only the change, and without a question about the records of the first copy.
    assert_eq!(world.json(&arguments)["records"], 1);
    assert_eq!(world.json(&["get", "copy_$B", "k.3"])["value"]["id"], 33);

    let position = position.to_str().unwrap();
    for target in ["other_$B", "copy_$B"] {
        if target == "copy_$B" {
            world.ok(&["bucket", "rm", "copy_$B", "--yes"]);
            world.ok(&["bucket", "create", "copy_$B"]);
        }
        let wrong = world.run(&["copy", "$B", target, "--resume", position]);
        assert!(wrong.code == 2 && wrong.err.contains("another target"), "{wrong:?}");
    }
}

#[test]
fn import_continues_only_in_its_bucket() {
    let world = World::server();
    let file = world.path("export.ndjson");
    fs::write(&file, world.export("", &strs(&records(5)))).unwrap();
    let (file, position) = (file.display().to_string(), world.path("position"));
    let position = position.to_str().unwrap();
    world.ok(&["import", "$B", &file, "--resume", position]);
    let wrong = world.run(&["import", "other_$B", &file, "--resume", position]);
    assert!(wrong.code == 2 && wrong.err.contains("another target"), "{wrong:?}");
    fs::remove_file(position).unwrap();
    world.ok(&["import", "other_$B", &file, "--resume", position]);
    assert_eq!(world.ok(&["ls", "other_$B", "--count"]), "5\n");
}

#[test]
fn record_that_would_never_expire_is_refused() {
    let world = World::server();
    world.ok(&["bucket", "create", "$B", "--history", "3"]);
    // The TTL is that of the exported bucket.
    let record = r#""key":"a","codec":"json","value":1,"expires_in_ms":600000"#;
    let ran = world.feed(&["import", "$B"], world.export(r#""ttl_ms":3600000"#, &[record]).as_bytes());
    assert!(ran.code == 9 && ran.err.contains("it expires"), "{ran:?}");
    assert_eq!(world.ok(&["ls", "$B", "--count"]), "0\n");
}

#[test]
fn buckets_are_copied_between_stores() {
    let (file, server) = (World::file(), World::server());
    file.fill(
        &card("x", "{id}", "json", 2),
        &[
            r#""key":"a","codec":"json","headers":{"Kvtyped-Version":"2"},"value":{"z":1,"a":2}"#,
            r#""key":"b","codec":"json","ttl_ms":600000,"expires_in_ms":600000,"value":1"#,
        ],
    );
    let (from, to) = (format!("{}/{}", file.url(), file.bucket), format!("{}/{}", server.url(), server.bucket));
    let copied = file.run(&["copy", &from, &to, "--verify", "-o", "json"]);
    assert_eq!(copied.code, 0, "{copied:?}");
    assert_eq!(serde_json::from_str::<Value>(&copied.out).unwrap()["records"], 2);
    let copy = server.json(&["get", "$B", "b"]);
    assert!(copy["expires_in_ms"].as_u64().unwrap() > 500_000, "{copy}");
    assert_eq!(server.json(&["get", "$B", "a"])["headers"]["Kvtyped-Version"], "2");
    assert_eq!(file.run(&["diff", &from, &to]).code, 0);
    server.ok(&["patch", "$B", "a", r#"{"a":3}"#]);
    let differs = file.run(&["diff", &from, &to]);
    assert_eq!((differs.code, differs.out.as_str()), (1, "changed\ta\n"), "{differs:?}");
    let refused = file.run(&["copy", &from, &to]);
    assert!(refused.code == 10 && refused.err.contains("overwrite the 2 records"), "{refused:?}");
    file.ok(&["copy", &from, &to, "--yes", "--verify"]);
    let same = file.run(&["copy", &from, &from, "--yes"]);
    assert_eq!(same.code, 2, "{same:?}");
}

#[test]
fn copy_follows_changes() {
    let (server, file) = (World::server(), World::file());
    server.fill("", &[r#""key":"a","codec":"json","value":1"#]);
    let (from, to) = (format!("{}/{}", server.url(), server.bucket), format!("{}/copy", server.url()));
    let to = format!("{to}_{}", server.bucket);
    let mut child =
        file.command(&["copy", &from, &to, "--follow"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let copy = |key: &str, arguments: &[&str]| {
        let name = format!("copy_{}", server.bucket);
        server.run(&[&["wait", &name, key], arguments, &["--timeout", "30s"]].concat())
    };
    let started = Instant::now();
    while copy("a", &[]).code != 0 {
        assert!(started.elapsed() < SOON, "the copy is created");
    }
    server.ok(&["put", "$B", "b", "2"]);
    assert_eq!(copy("b", &["=2"]).code, 0);
    server.ok(&["put", "$B", "a", "7"]);
    assert_eq!(copy("a", &["=7"]).code, 0);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn killed_import_is_resumed() {
    let (world, whole) = (World::server(), World::server());
    let count = 10_000;
    let file = world.path("export.ndjson");
    fs::write(&file, world.export(r#""history":1,"ttl_ms":3600000"#, &strs(&records(count)))).unwrap();
    let (file, position) = (file.display().to_string(), world.path("position"));
    let arguments = ["import", "$B", &file, "--resume", position.to_str().unwrap()];
    let mut child = world.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !position.exists() && child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < SOON, "the import makes progress");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let imported: u32 = world.ok(&["ls", "$B", "--count"]).trim().parse().unwrap();
    assert!(imported > 0 && imported < count, "{imported}: the import was killed in the middle");
    let ran = world.run(&[&arguments[..], &["-o", "json"]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let counts: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(counts["imported"].as_u64().unwrap() < u64::from(count), "lines are not imported again: {counts}");
    whole.ok(&["import", "$B", &file]);
    let addresses = [&world, &whole].map(|world| format!("{}/{}", world.url(), world.bucket));
    assert_eq!(world.run(&["diff", &addresses[0], &addresses[1]]).code, 0);

    let other = world.path("other.ndjson");
    fs::write(&other, world.export(r#""history":2"#, &[])).unwrap();
    let wrong = world.run(&["import", "$B", other.to_str().unwrap(), "--resume", position.to_str().unwrap()]);
    assert!(wrong.code == 2 && wrong.err.contains("another export"), "{wrong:?}");
}

#[test]
fn records_with_a_ttl_need_a_bucket_that_supports_it() {
    let world = World::server();
    world.ok(&["bucket", "create", "$B", "--history", "3"]);
    let export = world.export(
        "",
        &[
            r#""key":"a","codec":"json","value":1,"ttl_ms":600000,"expires_in_ms":600000"#,
            r#""key":"b","codec":"json","value":1"#,
        ],
    );
    let ran = world.feed(&["import", "$B"], export.as_bytes());
    assert!(ran.code == 9 && ran.err.contains("line 2 (`a`)") && ran.err.contains("history"), "{ran:?}");
    assert_eq!(world.ok(&["ls", "$B"]), "b\n");
}

#[test]
fn missing_source_file_is_not_created() {
    let world = World::file();
    let missing = world.path("typo.kv");
    let ran = run(world.command(&["copy", &format!("file:{}/b", missing.display()), "c"]), b"");
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(!missing.exists());
}
