//! The JSON output as a contract, and the generated texts.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::world::{World, card, run, tool};

/// Replaces what differs from run to run.
fn fixed(value: &mut Value, bucket: &str) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match name.as_str() {
                    "created" | "renewed" | "stored_at" | "at" => *value = Value::from("<time>"),
                    "by" => *value = Value::from("<user>"),
                    // The name of the bucket, whose length varies, counts as bytes.
                    "expires_in_ms" | "expires_at_ms" | "whole_in_ms" | "bytes" => *value = Value::from("<number>"),
                    _ => fixed(value, bucket),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fixed(item, bucket)),
        Value::String(text) => {
            *text = text.replace(bucket, "$B");
            if let Some((entries, _)) = text.split_once(" entries, ") {
                *text = format!("{entries} entries, <size>");
            }
            if let Some((before, after)) = text.split_once(" ago") {
                let before = before.rsplit_once(' ').map_or("", |(before, _)| before);
                *text = format!("{before} <age> ago{after}");
            }
            // The time of a round trip.
            if let Some((before, _)) = text.split_once(" answered in ") {
                *text = format!("{before} answered in <time>");
            }
        }
        _ => {}
    }
}

/// Commands whose output is in the golden file. They run in this order on one store.
const COMMANDS: &[&[&str]] = &[
    &["buckets"],
    &["bucket", "show", "$B"],
    &["bucket", "drift", "$B", "--history", "5"],
    &["ls", "$B"],
    &["ls", "$B", "-l"],
    &["ls", "$B", "--count"],
    &["get", "$B", "acme.7"],
    &["get", "$B", "bad.1"],
    &["get", "$B", "none"],
    &["history", "$B", "acme.7"],
    &["watch", "$B", "acme.*", "--until", "1"],
    &["put", "$B", "new.1", "{\"a\":1}"],
    &["put", "$B", "new.1", "{\"a\":2}", "--dry-run"],
    &["put", "$B", "new.1", "{\"a\":2}", "--create"],
    &["patch", "$B", "acme.7", "{\"visits\":2}"],
    &["touch", "$B", "acme.7", "--ttl", "10m"],
    &["rm", "$B", "new.1"],
    &["rm", "$B", ">", "--dry-run"],
    &["rm", "$B", ">"],
    &["export", "$B", "acme.*"],
    &["copy", "$B", "copy_$B"],
    &["diff", "$B", "acme.7"],
    &["bucket", "compact", "$B"],
    &["bucket", "create", "new_$B", "--history", "3", "--dry-run"],
    &["bucket", "create", "new_$B", "--history", "3"],
    &["bucket", "set", "new_$B", "--history", "5", "--description", "changed", "--dry-run"],
    &["bucket", "set", "new_$B", "--history", "5", "--description", "changed"],
    &["bucket", "set", "new_$B", "--history", "5"],
    &["bucket", "rm", "new_$B", "--dry-run"],
    &["bucket", "rm", "new_$B", "--yes"],
    &["copy", "$B", "other_$B", "--dry-run"],
    &["--read-only", "rm", "$B", "acme.7"],
];

#[test]
fn json_is_the_contract() {
    let world = World::memory();
    let mut settings = card("session", "{tenant}.{id}", "json", 2);
    settings.push_str(r#","description":"sessions of a test""#);
    world.fill(&settings, &[
        r#""key":"acme.7","codec":"json","ttl_ms":600000,"expires_in_ms":600000,"headers":{"Kvtyped-Version":"2"},"value":{"user":"ada","visits":1}"#,
        r#""key":"bad.1","headers":{"Kvtyped-Version":"2"},"value_b64":"/w==""#,
        r#""key":"guessed","codec":"msgpack","value":{"z":1}"#,
    ]);
    compare(&world, COMMANDS, "contract.txt");
}

/// Commands of recipes, whose output is in another golden file.
const RECIPES: &[&[&str]] = &[
    &["lock", "ls", "$B"],
    &["lock", "show", "$B", "nightly"],
    &["lock", "show", "$B", "none"],
    &["lock", "watch", "$B", "--until", "1"],
    &["lock", "break", "$B", "nightly", "--fence", "9", "--yes"],
    &["lock", "break", "$B", "nightly", "--fence", "1", "--dry-run"],
    &["lock", "break", "$B", "nightly", "--fence", "1", "--yes", "--reason", "stuck"],
    &["lock", "show", "$B", "nightly"],
    &["election", "ls", "$B"],
    &["election", "show", "scheduler", "--bucket", "$B"],
    &["election", "resign", "scheduler", "--bucket", "$B", "--fence", "1", "--yes"],
    &["election", "show", "scheduler", "--bucket", "$B"],
    &["group", "ls", "$B"],
    &["group", "members", "workers", "--bucket", "$B"],
    &["group", "watch", "workers", "--bucket", "$B", "--until", "1"],
    &["semaphore", "ls", "$B"],
    &["semaphore", "show", "gpu", "--bucket", "$B"],
    &["counter", "add", "hits", "home", "5", "--bucket", "$B"],
    &["counter", "rm", "hits", "home", "--bucket", "$B", "--yes"],
    &["once", "ls", "charges", "--bucket", "$B"],
    &["once", "show", "charges", "charge-42", "--bucket", "$B"],
    &["once", "forget", "charges", "charge-42", "--bucket", "$B", "--yes"],
    &["rate", "show", "api", "--bucket", "$B"],
    &["rate", "reset", "api", "client.1", "--bucket", "$B", "--yes"],
    &["id", "peek", "orders", "--bucket", "$B"],
    &["schema", "show", "$B"],
    &["schema", "check", "$B"],
    &["top", "$B", "--interval", "10ms", "--until", "1"],
    &["doctor", "$B"],
];

#[test]
fn json_of_recipes_is_the_contract() {
    let world = World::memory();
    crate::recipes::fill(&world);
    compare(&world, RECIPES, "recipes.txt");
}

/// Runs commands in this order, and compares their objects with a golden file.
fn compare(world: &World, commands: &[&[&str]], golden: &str) {
    let mut text = String::new();
    for arguments in commands {
        let ran = world.run(&[*arguments, &["-o", "ndjson"]].concat());
        text.push_str(&format!("$ kvtyped {} -o ndjson\n", arguments.join(" ")));
        for line in ran.out.lines().chain(ran.err.lines()) {
            // Objects only: hints for people are no part of the contract.
            let Ok(mut value) = serde_json::from_str::<Value>(line) else { continue };
            fixed(&mut value, &world.bucket);
            text.push_str(&format!("{value}\n"));
        }
        text.push_str(&format!("exit {}\n", ran.code));
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(golden);
    if std::env::var_os("KVTYPED_GOLDEN").is_some_and(|value| value == "overwrite") {
        fs::write(&golden, &text).unwrap();
    }
    let wanted = fs::read_to_string(&golden).unwrap_or_default();
    for (number, (wanted, found)) in (1..).zip(wanted.lines().zip(text.lines())) {
        assert_eq!(
            wanted,
            found,
            "line {number} of {}; KVTYPED_GOLDEN=overwrite accepts added fields",
            golden.display()
        );
    }
    assert_eq!(wanted.lines().count(), text.lines().count());
}

#[test]
fn json_and_ndjson_are_the_same_objects() {
    let world = World::memory();
    world.fill("", &[r#""key":"a","codec":"json","value":1"#, r#""key":"b","codec":"json","value":"x""#]);
    for arguments in [&["get", "$B", ">"][..], &["ls", "$B"], &["buckets"], &["ls", "$B", "none"]] {
        let without_times = |text: &str| {
            let mut value: Value = serde_json::from_str(text).unwrap();
            fixed(&mut value, &world.bucket);
            value
        };
        let document = without_times(&world.ok(&[arguments, &["-o", "json"]].concat()));
        let lines = world.ok(&[arguments, &["-o", "ndjson"]].concat());
        let lines: Vec<Value> = lines.lines().map(without_times).collect();
        assert_eq!(document, Value::from(lines), "{arguments:?}");
    }
}

#[test]
fn shells_complete_commands_buckets_and_keys() {
    let world = World::server();
    world.fill("", &[r#""key":"acme.7","codec":"json","value":1"#, r#""key":"beta.1","codec":"json","value":1"#]);
    let complete = |words: &[&str]| {
        let mut command = tool(world.folder.path());
        // Whatever the load of the machine, the answer of the server is awaited.
        command.env("KVTYPED_COMPLETE_TIMEOUT", "60s");
        command.env("COMPLETE", "fish").env("KVTYPED_URL", world.url()).args(["--", "kvtyped"]).args(words);
        let ran = run(command, b"");
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
        ran.out.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(complete(&["exp"]).contains(&"export".to_owned()));
    assert_eq!(complete(&["ls", &world.bucket]), [world.bucket.as_str()]);
    assert_eq!(complete(&["get", &world.bucket, "a"]), ["acme.7"]);
    assert_eq!(complete(&["get", &world.bucket, "beta."]), ["beta.1"]);
    let mut command = tool(world.folder.path());
    let url = format!("nats://127.0.0.1:{}", harness::free_port());
    command.env("COMPLETE", "fish").env("KVTYPED_URL", url).args(["--", "kvtyped", "ls", "b"]);
    let ran = run(command, b"");
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""), "an unreachable server is no error");
}

#[test]
fn completions_and_man_page_are_generated() {
    let world = World::memory();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = world.ok(&["completions", shell]);
        assert!(script.contains("kvtyped") && script.contains("COMPLETE"), "{shell}");
    }
    let man = world.ok(&["man"]);
    assert!(man.contains(".TH kvtyped") && man.contains("Exit codes"), "{man}");
    assert!(!man.contains("fixture"));
    let folder = world.path("man");
    world.ok(&["man", "--folder", folder.to_str().unwrap()]);
    let page = fs::read_to_string(folder.join("kvtyped-bucket-set.1")).unwrap();
    assert!(page.contains("history"), "{page}");
}
