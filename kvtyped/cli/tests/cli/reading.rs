//! Commands that read.

use std::process::Stdio;

use serde_json::json;

use crate::world::{Ran, World, card, on_each_store};

on_each_store! {
    fn buckets_are_listed_with_their_models(world: &World) {
        world.fill(&card("session", "{tenant}.{id}", "json", 1), &[r#""key":"acme.7","codec":"json","value":{"a":1}"#]);
        let buckets = world.json(&["buckets"]);
        let found = buckets.as_array().unwrap().iter().find(|bucket| bucket["bucket"] == *world.bucket).expect("the bucket");
        assert_eq!((&found["v"], &found["type"]), (&json!(1), &json!("bucket")));
        assert_eq!(found["models"][0]["codec"], "json");
        assert_eq!(found["models"][0]["key"], "{tenant}.{id}");
        assert_eq!((&found["entries"], &found["history"]), (&json!(1), &json!(1)));
        let shown = world.json(&["bucket", "show", "$B"]);
        assert_eq!(shown["bucket"], *world.bucket);
        assert!(world.ok(&["bucket", "show", "$B"]).contains("model session: key {tenant}.{id}, codec json"));
        assert!(world.ok(&["buckets", "-o", "name"]).lines().any(|line| line == world.bucket));
    }

    fn values_are_json_whatever_their_codec(world: &World) {
        let settings = card("a", "mp.{id}", "msgpack", 1);
        world.fill(&settings, &[
            r#""key":"mp.1","codec":"msgpack","value":{"user":"ada","raw":{"$bin":"AP8="},"big":18446744073709551615}"#,
            r#""key":"guessed","codec":"msgpack","value":{"z":1,"a":2}"#,
            r#""key":"text","codec":"text","value":"plain text""#,
            r#""key":"bytes","value_b64":"AP8B""#,
            r#""key":"mp.bad","value_b64":"wQ==""#,
        ]);
        let entry = world.json(&["get", "$B", "mp.1"]);
        assert_eq!(entry["value"], json!({"user": "ada", "raw": {"$bin": "AP8="}, "big": u64::MAX}));
        assert_eq!((&entry["codec"], entry.get("codec_guessed")), (&json!("msgpack"), None));
        let entry = world.json(&["get", "$B", "guessed"]);
        assert_eq!((&entry["codec"], &entry["codec_guessed"]), (&json!("msgpack"), &json!(true)));
        assert_eq!(world.ok(&["get", "$B", "guessed", "-o", "value"]), "{\"z\":1,\"a\":2}\n", "the order of fields stays");
        assert_eq!(world.json(&["get", "$B", "text"])["value"], "plain text");
        assert_eq!(world.json(&["get", "$B", "bytes"])["value"], json!({"$bin": "AP8B"}));

        let bad = world.run(&["get", "$B", "mp.bad", "-o", "json"]);
        assert_eq!(bad.code, 9, "{bad:?}");
        let entry: serde_json::Value = serde_json::from_str(&bad.out).unwrap();
        assert_eq!(entry["value_b64"], "wQ==");
        assert!(entry["undecodable"].as_str().unwrap().contains("MessagePack"), "{entry}");
        let all = world.run(&["get", "$B", ">", "-o", "ndjson"]);
        assert_eq!((all.code, all.out.lines().count()), (9, 5), "{all:?}");
        assert_eq!(world.ok(&["get", "$B", "text", "--raw"]), "plain text");
        let custom = world.ok(&["get", "$B", "mp.bad", "--decode-with", "wc -c", "-o", "value"]);
        assert_eq!(custom, "1\n");
    }

    fn keys_are_listed_in_pages_trees_and_counts(world: &World) {
        world.fill("", &[
            r#""key":"acme.1","codec":"json","value":1"#,
            r#""key":"acme.2","codec":"json","value":2"#,
            r#""key":"a=2Eb.1","codec":"json","value":3"#,
            r#""key":"=kvtyped.lock.x.lease","codec":"json","value":{}"#,
        ]);
        assert_eq!(world.ok(&["ls", "$B"]), "acme.1\nacme.2\na=2Eb.1\n");
        assert_eq!(world.ok(&["ls", "$B", "acme.*"]), "acme.1\nacme.2\n");
        assert_eq!(world.ok(&["ls", "$B", "--count"]), "3\n");
        assert_eq!(world.ok(&["ls", "$B", "--count", "--reserved"]), "4\n");
        assert_eq!(world.ok(&["ls", "$B", "--tree"]), "a=2Eb  1\n  1\nacme  2\n  1\n  2\n");
        assert!(world.ok(&["ls", "$B", "--unescape"]).contains("a.b · 1"));
        let page = world.run(&["ls", "$B", "--limit", "2", "-o", "json"]);
        let keys: serde_json::Value = serde_json::from_str(&page.out).unwrap();
        assert_eq!((keys[0]["key"].as_str(), keys.as_array().unwrap().len()), (Some("acme.1"), 2));
        let long = world.ok(&["ls", "$B", "-l"]);
        assert_eq!(long.lines().next().unwrap().split('\t').count(), 6, "{long}");
        if world.path("fixture.ndjson").exists() {
            return; // A cursor belongs to one store, and each process has another one.
        }
        let cursor = page.error()["cursor"].as_str().unwrap().to_owned();
        assert_eq!(world.ok(&["ls", "$B", "--after", &cursor]), "a=2Eb.1\n");
    }

    fn missing_things_have_exit_code_three(world: &World) {
        world.fill("", &[r#""key":"a","codec":"json","value":1"#]);
        for command in [
            &["get", "$B", "none"][..],
            &["get", "$B", "a", "--at", "99"],
            &["history", "$B", "none"],
            &["ls", "no_such_bucket"],
            &["bucket", "show", "no_such_bucket"],
            &["restore", "$B", "a", "99"],
        ] {
            let ran = world.run(&[command, &["-o", "json"]].concat());
            assert_eq!((ran.code, ran.out.as_str()), (3, ""), "{command:?}: {ran:?}");
            let error = ran.error();
            assert_eq!((&error["type"], &error["outcome"]), (&json!("error"), &json!("not_applied")), "{error}");
            assert!(error["message"].is_string() && error["hint"].is_string(), "{error}");
        }
    }

    fn conditions_on_a_value_end_a_wait(world: &World) {
        world.fill("", &[r#""key":"job","codec":"json","value":{"status":{"phase":"done"},"n":3}"#]);
        let entry = world.json(&["wait", "$B", "job", ".status.phase=done"]);
        assert_eq!(entry["value"]["n"], 3);
        world.ok(&["wait", "$B", "job", "n=3"]);
        let late = world.run(&["wait", "$B", "job", "n=4", "--timeout", "300ms"]);
        assert_eq!(late.code, 6, "{late:?}");
        world.ok(&["put", "$B", "list", r#"{"items":[{"id":7}],"a.b":1}"#]);
        for condition in ["items[0].id=7", ".items[0].id", "items.0.id=7", "/items/0/id=7", "[\"a.b\"]=1"] {
            assert_eq!(world.json(&["wait", "$B", "list", condition])["key"], "list", "{condition}");
        }
        let invalid = world.run(&["wait", "$B", "list", "items[x]=7"]);
        assert!(invalid.code == 2 && invalid.err.contains("invalid path"), "{invalid:?}");
    }

    fn watch_prints_records_and_runs_a_command(world: &World) {
        world.fill("", &[r#""key":"a.1","codec":"json","value":1"#, r#""key":"b.1","codec":"json","value":2"#]);
        let seen = world.path("seen");
        let exec = format!("echo \"$KVTYPED_OP $KVTYPED_KEY $(cat)\" >> {}", seen.display());
        let out = world.ok(&["watch", "$B", "a.>", "--until", "1", "--exec", &exec, "-o", "ndjson"]);
        assert_eq!(out.lines().count(), 1, "{out}");
        let entry: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&entry["key"], &entry["value"]), (&json!("a.1"), &json!(1)));
        let seen = std::fs::read_to_string(seen).unwrap();
        assert!(seen.starts_with("put a.1 {\"v\":1,") && seen.ends_with("}\n"), "{seen}");
    }
}

#[test]
fn revisions_of_a_key_are_shown_and_compared() {
    for world in [World::file(), World::server()] {
        world.ok(&["bucket", "create", "$B", "--history", "5"]);
        world.ok(&["put", "$B", "a", r#"{"n":1,"same":true}"#]);
        let second = world.json(&["put", "$B", "a", r#"{"n":2,"same":true}"#])["revision"].to_string();
        world.ok(&["rm", "$B", "a"]);
        let history = world.json(&["history", "$B", "a"]);
        let ops: Vec<_> = history.as_array().unwrap().iter().map(|entry| entry["op"].as_str().unwrap()).collect();
        assert_eq!(ops, ["put", "put", "delete"]);
        let since = world.ok(&["watch", "$B", "--since", &second, "--until", "2"]);
        assert_eq!(since.lines().filter_map(|line| line.split('\t').next()).collect::<Vec<_>>(), ["put", "delete"]);
        let first = history[0]["revision"].to_string();
        let diff = world.run(&["diff", "$B", "a", &first, &second]);
        assert_eq!(diff.code, 1);
        assert!(
            diff.out.contains("-   \"n\": 1,\n+   \"n\": 2,\n") && diff.out.contains("    \"same\": true"),
            "{}",
            diff.out
        );
        assert_eq!(world.run(&["diff", "$B", "a", &second, &second]).code, 0);
        assert!(world.ok(&["history", "$B", "a", "--diff"]).contains("-   \"n\": 1"));
        let old = world.json(&["get", "$B", "a", "--at", &first]);
        assert_eq!(old["value"]["n"], 1);
        assert_eq!(world.run(&["get", "$B", "a"]).code, 3);
        world.ok(&["restore", "$B", "a", &first]);
        assert_eq!(world.json(&["get", "$B", "a", "--leader"])["value"]["n"], 1);
    }
}

#[test]
fn history_of_a_fixture_is_shown_compared_and_restored() {
    let world = World::memory();
    // The lines of one key are its history.
    let export = world.export(
        r#""history":5"#,
        &[r#""key":"a","codec":"json","value":{"n":1}"#, r#""key":"a","codec":"json","value":{"n":2}"#],
    );
    let fixture = world.path("history.ndjson");
    std::fs::write(&fixture, export).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = crate::world::tool(world.folder.path());
        command.args(["--fixture", fixture.to_str().unwrap()]);
        command.args(arguments.iter().map(|argument| argument.replace("$B", &world.bucket)));
        crate::world::run(command, b"")
    };
    let values = run(&["history", "$B", "a", "-o", "value"]);
    assert_eq!((values.code, values.out.as_str()), (0, "{\"n\":1}\n{\"n\":2}\n"), "{values:?}");
    let diff = run(&["diff", "$B", "a"]);
    assert!(diff.code == 1 && diff.out.contains("+   \"n\": 2"), "{diff:?}");
    assert_eq!(run(&["get", "$B", "a", "--at", "1", "-o", "value"]).out, "{\"n\":1}\n");
    let restored = run(&["restore", "$B", "a", "1"]);
    assert!(restored.code == 0 && restored.out.contains('3'), "{restored:?}");
}

#[test]
fn closed_pipe_ends_the_tool_quietly() {
    let world = World::memory();
    let entries: Vec<_> = (0..20_000).map(|id| format!(r#""key":"k.{id}","codec":"json","value":{id}"#)).collect();
    world.fill("", &entries.iter().map(String::as_str).collect::<Vec<_>>());
    let mut child = world.command(&["ls", "$B"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::with_capacity(16, child.stdout.take().unwrap()), &mut line)
        .unwrap();
    assert_eq!(line, "k.0\n");
    let ran = Ran::of(child);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
}

#[test]
fn counted_buckets_tell_records_from_markers() {
    // The store in memory keeps no markers between two runs.
    for world in [World::file(), World::server()] {
        let lock = r#""key":"=kvtyped.lock.a.lease","codec":"json","value":{"v":1,"id":"b","owner":"w","since":1}"#;
        let entries = ["a", "b", "c"].map(|key| format!(r#""key":"{key}","codec":"json","value":1"#));
        let [a, b, c] = &entries;
        world.fill(r#""history":1"#, &[a, b, c, lock]);
        world.ok(&["rm", "$B", "a"]);
        let find = |arguments: &[&str]| {
            let buckets = world.json(arguments);
            let found = buckets.as_array().unwrap().iter().find(|bucket| bucket["bucket"] == world.bucket.as_str());
            found.unwrap_or_else(|| panic!("{buckets}")).clone()
        };
        let counted = find(&["buckets", "--count"]);
        let counts = ["records", "recipe_records", "old_entries", "entries"].map(|field| counted[field].clone());
        assert_eq!(counts, [2, 1, 1, 4].map(|count| json!(count)), "{counted}");
        let bounded = find(&["buckets"]);
        assert_eq!((&bounded["entries"], bounded.get("records")), (&json!(4), None));
    }
    let world = World::file();
    world.fill("", &[]);
    let (_, shown) = crate::terminal::Terminal::spawn(world.command(&["buckets"]), 100).end();
    assert!(shown.contains("RECORDS≤"), "{shown}");
}
