//! Commands that write one record.

use std::fs;

use serde_json::{Value, json};

use crate::world::{World, card, on_each_store, run};

/// An editor that runs this script on its file, `$1`.
fn editor(world: &World, script: &str) -> String {
    let path = world.path("editor.sh");
    fs::write(&path, format!("#!/bin/sh\nset -e\n{script}\n")).unwrap();
    format!("sh {}", path.display())
}

fn edit(world: &World, script: &str, arguments: &[&str]) -> crate::world::Ran {
    let mut command = world.command(arguments);
    command.env("EDITOR", editor(world, script));
    run(command, b"")
}

const HEADERS: &str = r#""headers":{"Kvtyped-Version":"2"}"#;

on_each_store! {
    fn put_follows_the_model(world: &World) {
        world.fill(&card("session", "{tenant}.{id}", "msgpack", 2), &[]);
        let written = world.json(&["put", "$B", "acme.7", r#"{"user":"ada"}"#]);
        assert_eq!((&written["type"], &written["op"]), (&json!("written"), &json!("create")));
        let entry = world.json(&["get", "$B", "acme.7"]);
        assert_eq!((&entry["codec"], &entry["size"], &entry["value"]["user"]), (&json!("msgpack"), &json!(10), &json!("ada")));
        assert_eq!(entry["headers"]["Kvtyped-Version"], "2", "programs write version 2");
        let refused = world.run(&["put", "$B", "acme.7", "not json"]);
        assert_eq!(refused.code, 9, "{refused:?}");
        assert_eq!(world.json(&["get", "$B", "acme.7"])["value"]["user"], "ada");
        world.ok(&["put", "$B", "other", "plain text"]);
        assert_eq!(world.json(&["get", "$B", "other"])["value"], "plain text");
    }

    fn put_keeps_ttl_and_headers(world: &World) {
        let entry = format!(r#""key":"acme.7","codec":"json","ttl_ms":600000,"expires_in_ms":600000,{HEADERS},"value":{{"a":1}}"#);
        world.fill(&card("session", "{tenant}.{id}", "json", 3), &[&entry]);
        world.ok(&["put", "$B", "acme.7", r#"{"a":2}"#]);
        let stored = world.json(&["get", "$B", "acme.7"]);
        assert_eq!((&stored["value"]["a"], &stored["ttl_ms"]), (&json!(2), &json!(600_000)));
        assert_eq!(stored["headers"]["Kvtyped-Version"], "2");
        world.ok(&["put", "$B", "acme.7", r#"{"a":3}"#, "--ttl", "2m"]);
        assert_eq!(world.json(&["get", "$B", "acme.7"])["ttl_ms"], 120_000);
        world.ok(&["put", "$B", "acme.7", r#"{"a":4}"#, "--no-ttl"]);
        assert_eq!(world.json(&["get", "$B", "acme.7"]).get("ttl_ms"), None);
        world.ok(&["touch", "$B", "acme.7", "--ttl", "1m"]);
        let stored = world.json(&["get", "$B", "acme.7"]);
        assert_eq!((&stored["value"]["a"], &stored["ttl_ms"]), (&json!(4), &json!(60_000)));
    }

    fn conditions_of_put_are_checked(world: &World) {
        world.fill("", &[r#""key":"a","codec":"json","value":1"#]);
        let revision = world.json(&["get", "$B", "a"])["revision"].as_u64().unwrap();
        assert_eq!(world.run(&["put", "$B", "a", "2", "--create"]).code, 4);
        let wrong = world.run(&["put", "$B", "a", "2", "--if-revision", &(revision + 7).to_string(), "-o", "json"]);
        assert_eq!((wrong.code, &wrong.error()["kind"]), (4, &json!("conflict")), "{wrong:?}");
        assert_eq!(world.run(&["put", "$B", "a", "2", "--if-revision", &(revision + 7).to_string(), "--dry-run"]).code, 4);
        world.ok(&["put", "$B", "a", "2", "--dry-run"]);
        assert_eq!(world.json(&["get", "$B", "a"])["value"], 1);
        world.ok(&["put", "$B", "a", "2", "--if-revision", &revision.to_string()]);
        world.ok(&["put", "$B", "b", "3", "--create"]);
        assert_eq!(world.feed(&["put", "$B", "c", "-"], b"[4]").code, 0);
        assert_eq!(world.json(&["get", "$B", "c"])["value"], json!([4]));
    }

    fn patch_changes_fields_and_keeps_the_rest(world: &World) {
        let entry = format!(r#""key":"a","codec":"json","ttl_ms":600000,"expires_in_ms":600000,{HEADERS},"value":{{"z":1,"b":{{"c":1,"d":2}},"a":0}}"#);
        world.fill(&card("x", "{id}", "json", 3), &[&entry]);
        let dry = world.run(&["patch", "$B", "a", r#"{"z":9}"#, "--dry-run"]);
        assert!(dry.code == 0 && dry.err.contains("+   \"z\": 9"), "{dry:?}");
        world.ok(&["patch", "$B", "a", r#"{"b":{"c":null,"e":3},"z":7}"#]);
        assert_eq!(world.ok(&["get", "$B", "a", "-o", "value"]), "{\"z\":7,\"b\":{\"d\":2,\"e\":3},\"a\":0}\n");
        let stored = world.json(&["get", "$B", "a"]);
        assert_eq!((&stored["ttl_ms"], &stored["headers"]["Kvtyped-Version"]), (&json!(600_000), &json!("2")));
        assert_eq!(world.run(&["patch", "$B", "none", "{}"]).code, 3);
        assert_eq!(world.run(&["patch", "$B", "a", "[1]"]).code, 9);
        for (number, code) in [("12345678901234567890123", 9), ("18446744073709551615", 0), ("1e300", 0)] {
            assert_eq!(world.run(&["put", "$B", "number", &format!(r#"{{"n":{number}}}"#)]).code, code, "{number}");
        }
        assert_eq!(world.json(&["patch", "$B", "a", r#"{"z":7}"#])["op"], "unchanged");
    }

    fn edit_keeps_order_ttl_and_headers(world: &World) {
        let entry = format!(r#""key":"a","codec":"msgpack","ttl_ms":600000,"expires_in_ms":600000,{HEADERS},"value":{{"z":1,"a":{{"$bin":"AP8="}}}}"#);
        world.fill(&card("x", "{id}", "msgpack", 3), &[&entry]);
        let mode = world.path("mode");
        let script = format!("stat -c %a \"$1\" > {}; sed -i 's/\"z\": 1/\"z\": 2/' \"$1\"", mode.display());
        let ran = edit(world, &script, &["edit", "$B", "a", "-o", "json"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.err.contains("+   \"z\": 2") && ran.err.contains("expires in 10m"), "{ran:?}");
        assert_eq!(fs::read_to_string(mode).unwrap(), "600\n");
        let stored = world.json(&["get", "$B", "a"]);
        assert_eq!(stored["value"], json!({"z": 2, "a": {"$bin": "AP8="}}));
        assert_eq!((&stored["ttl_ms"], &stored["headers"]["Kvtyped-Version"]), (&json!(600_000), &json!("2")));
        let revision = &stored["revision"];

        let same = edit(world, "true", &["edit", "$B", "a"]);
        assert!(same.code == 0 && same.err.contains("unchanged"), "{same:?}");
        let broken = edit(world, "echo '{' > \"$1\"", &["edit", "$B", "a"]);
        assert!(broken.code == 9 && broken.err.contains("your text is in"), "{broken:?}");
        let failed = edit(world, "exit 3", &["edit", "$B", "a"]);
        assert!(failed.code == 10 && failed.err.contains("nothing was written"), "{failed:?}");
        assert_eq!(world.json(&["get", "$B", "a"])["revision"], *revision);
    }

    fn edit_refuses_a_value_that_json_cannot_show(world: &World) {
        // `1.0e2` would be written as `100.0`.
        world.fill("", &[r#""key":"a","value_b64":"eyJhIjoxLjBlMn0=""#]);
        let refused = edit(world, "false", &["edit", "$B", "a"]);
        assert!(refused.code == 9 && refused.err.contains("--raw"), "{refused:?}");
        assert_eq!(world.run(&["patch", "$B", "a", r#"{"b":1}"#]).code, 9);
        let raw = edit(world, "sed -i s/1.0e2/1.0e3/ \"$1\"", &["edit", "$B", "a", "--raw"]);
        assert_eq!(raw.code, 0, "{raw:?}");
        assert_eq!(world.ok(&["get", "$B", "a", "--raw"]), "{\"a\":1.0e3}");
    }

    fn sealed_records_are_not_replaced(world: &World) {
        let entry = r#""key":"a","value_b64":"AAEC","headers":{"Kvtyped-Encoding":"aead","Kvtyped-Key-Id":"k1"}"#;
        world.fill("", &[entry]);
        let shown = world.run(&["get", "$B", "a"]);
        assert!(shown.code == 9 && shown.out.contains("encrypted (key k1, aead, 3 bytes)"), "{shown:?}");
        for command in [&["put", "$B", "a", "1"][..], &["patch", "$B", "a", "{}"], &["edit", "$B", "a"]] {
            assert_eq!(world.run(command).code, 10, "{command:?}");
        }
        world.ok(&["put", "$B", "a", "xyz", "--raw"]);
        assert_eq!(world.run(&["get", "$B", "a", "-o", "json"]).out.parse::<Value>().unwrap()["headers"]["Kvtyped-Key-Id"], "k1");
    }

    fn several_records_are_removed_after_a_confirmation(world: &World) {
        let entries: Vec<_> = (0..7).map(|id| format!(r#""key":"a.{id}","codec":"json","value":{id}"#)).collect();
        world.fill("", &entries.iter().map(String::as_str).chain([r#""key":"b","codec":"json","value":0"#]).collect::<Vec<_>>());
        let refused = world.run(&["rm", "$B", "a.*"]);
        assert!(refused.code == 10 && refused.err.contains("removes 7 records"), "{refused:?}");
        world.ok(&["rm", "$B", "a.*", "--dry-run"]);
        assert_eq!(world.ok(&["ls", "$B", "--count"]), "8\n");
        assert_eq!(world.run(&["rm", "$B", "a.1", "a.2"]).code, 10);
        let ran = world.run(&["rm", "$B", "a.1", "a.nope", "--yes"]);
        assert!(ran.code == 3 && ran.out.starts_with("1\t0") && ran.err.contains("`a.nope`"), "{ran:?}");
        assert_eq!(world.json(&["rm", "$B", "a.*", "--yes"])["records"], 6);
        assert_eq!(world.ok(&["ls", "$B"]), "b\n");
        world.ok(&["rm", "$B", "b", "--purge"]);
        assert_eq!((world.run(&["rm", "$B", "b"]).code, world.run(&["rm", "$B", "x.*", "--yes"]).code), (3, 3));
    }

    fn settings_are_changed_one_by_one(world: &World) {
        world.ok(&["bucket", "create", "$B", "--history", "3", "--rollups", "false", "--description", "first"]);
        assert_eq!(world.run(&["bucket", "create", "$B"]).code, 4);
        let dry = world.run(&["bucket", "set", "$B", "--history", "5", "--dry-run"]);
        assert!(dry.code == 0 && dry.err.contains("history: 3 -> 5"), "{dry:?}");
        assert_eq!(world.run(&["bucket", "drift", "$B", "--history", "5"]).code, 1);
        world.ok(&["bucket", "set", "$B", "--history", "5"]);
        // These would remove records or revisions.
        for lossy in [["--history", "2"], ["--ttl", "2s"]] {
            let ran = world.run(&["bucket", "set", "$B", lossy[0], lossy[1]]);
            assert!(ran.code == 10 && ran.err.contains("the server removes"), "{ran:?}");
        }
        let shown = world.json(&["bucket", "show", "$B"]);
        assert_eq!((&shown["history"], &shown["rollups"], &shown["description"]), (&json!(5), &json!(false), &json!("first")));
        assert_eq!(world.run(&["bucket", "drift", "$B", "--history", "5"]).code, 0);
        assert_eq!(world.run(&["bucket", "rm", "$B"]).code, 10);
        world.ok(&["bucket", "rm", "$B", "--yes"]);
        assert_eq!(world.run(&["bucket", "show", "$B"]).code, 3);
    }

    fn old_markers_are_compacted(world: &World) {
        world.fill("", &[r#""key":"a","codec":"json","value":1"#, r#""key":"b","codec":"json","value":2"#]);
        world.ok(&["rm", "$B", "a"]);
        let younger = world.json(&["bucket", "compact", "$B"]);
        assert_eq!(younger["markers"], 0);
        if !world.path("fixture.ndjson").exists() {
            // A fixture has no markers.
            assert_eq!(world.json(&["bucket", "compact", "$B", "--older-than", "0s"])["markers"], 1);
        }
        assert_eq!(world.ok(&["ls", "$B"]), "b\n");
    }
}

#[test]
fn edit_keeps_the_deadline_or_removes_the_ttl() {
    let world = World::server();
    let entry = r#""key":"a","codec":"json","ttl_ms":600000,"expires_in_ms":60000,"value":{"n":1}"#;
    world.fill(&card("x", "{id}", "json", 1), &[entry]);
    let change = |from: u32, more: &str| {
        let script = format!("sed -i 's/\"n\": {from}/\"n\": {}/' \"$1\"", from + 1);
        let ran = edit(&world, &script, &["edit", "$B", "a", more]);
        assert_eq!(ran.code, 0, "{ran:?}");
        world.json(&["get", "$B", "a"])
    };
    let kept = change(1, "--keep-deadline");
    assert!(kept["ttl_ms"].as_u64().is_some_and(|left| left < 60_000), "{kept}");
    let forever = change(2, "--no-ttl");
    assert_eq!((forever.get("expires_in_ms"), &forever["value"]["n"]), (None, &json!(3)));
}

#[test]
fn overtaken_edit_is_refused_and_the_text_is_kept() {
    let world = World::server();
    world.fill("", &[r#""key":"a","codec":"json","value":{"mine":1,"theirs":1}"#]);
    // The editor of the first user is open while another user writes.
    let other =
        format!("{} --url {} patch {} a '{{\"theirs\":2}}'", env!("CARGO_BIN_EXE_kvtyped"), world.url(), world.bucket);
    let ran = edit(&world, &format!("{other}\nsed -i 's/\"mine\": 1/\"mine\": 2/' \"$1\""), &["edit", "$B", "a"]);
    assert!(ran.code == 4 && ran.err.contains("your text is in"), "{ran:?}");
    let path = ran.err.split("your text is in `").nth(1).unwrap().split('`').next().unwrap().to_owned();
    assert!(fs::read_to_string(&path).unwrap().contains("\"mine\": 2"));
    fs::remove_file(path).unwrap();
    assert_eq!(world.json(&["get", "$B", "a"])["value"], json!({"mine": 1, "theirs": 2}));
}

#[test]
fn file_is_free_while_the_editor_is_open() {
    let world = World::file();
    world.fill("", &[r#""key":"a","codec":"json","value":{"mine":1,"theirs":1}"#]);
    let other = |arguments: &str| {
        format!("{} --url {} --timeout 5s -q {arguments} >&2", env!("CARGO_BIN_EXE_kvtyped"), world.url())
    };
    let change = "sed -i 's/\"mine\": 1/\"mine\": 2/' \"$1\"";
    let (bucket, get) = (&world.bucket, || world.json(&["get", "$B", "a"])["value"].clone());
    // Another user reads and writes other records.
    let script = format!("{}\n{}\n{change}", other(&format!("ls {bucket}")), other(&format!("put {bucket} b 1")));
    let ran = edit(&world, &script, &["edit", "$B", "a"]);
    assert_eq!((ran.code, get()), (0, json!({"mine": 2, "theirs": 1})), "{ran:?}");
    // A change of the same record is a conflict.
    let script = format!(
        "{}\nsed -i 's/\"mine\": 2/\"mine\": 3/' \"$1\"",
        other(&format!("patch {bucket} a '{{\"theirs\":2}}'"))
    );
    let ran = edit(&world, &script, &["edit", "$B", "a"]);
    assert!(ran.code == 4 && ran.err.contains("your text is in"), "{ran:?}");
    assert_eq!(get(), json!({"mine": 2, "theirs": 2}));
    // A recreated bucket is a conflict, whatever its revisions.
    let script = format!(
        "{}\n{}\n{}\n{}\n{}\nsed -i 's/\"mine\": 2/\"mine\": 3/' \"$1\"",
        other(&format!("bucket rm {bucket} --yes")),
        other(&format!("bucket create {bucket}")),
        other(&format!("put {bucket} a '{{\"mine\":7}}'")),
        other(&format!("put {bucket} a '{{\"mine\":8}}'")),
        other(&format!("put {bucket} a '{{\"mine\":9}}'")),
    );
    let ran = edit(&world, &script, &["edit", "$B", "a"]);
    assert!(ran.code == 4 && ran.err.contains("recreated"), "{ran:?}");
    assert_eq!(get(), json!({"mine": 9}));
}

#[test]
fn failing_editor_writes_nothing_and_keeps_the_text() {
    let world = World::file();
    world.fill("", &[r#""key":"a","codec":"json","value":{"n":1}"#]);
    for (script, code) in [("exit 1", 10), ("kill -9 $$", 10)] {
        let ran = edit(&world, script, &["edit", "$B", "a", "-o", "json"]);
        let error = ran.error();
        assert_eq!(
            (ran.code, &error["outcome"], &error["exit"]),
            (code, &json!("not_applied"), &json!(code)),
            "{ran:?}"
        );
        assert!(error["message"].as_str().unwrap().contains("nothing was written"), "{error}");
        assert!(!ran.err.contains("your text is in"), "{ran:?}");
    }
    let ran = edit(&world, "echo '{}' > \"$1\"\nexit 1", &["edit", "$B", "a"]);
    assert!(ran.code == 10 && ran.err.contains("your text is in"), "{ran:?}");
    fs::remove_file(ran.err.split("your text is in `").nth(1).unwrap().split('`').next().unwrap()).unwrap();
    let folder = world.path("").display().to_string();
    for editor in ["/no/such/editor", &folder] {
        let mut command = world.command(&["edit", "$B", "a"]);
        command.env("EDITOR", editor);
        let ran = run(command, b"");
        assert!(ran.code == 2 && ran.err.contains("EDITOR") && ran.err.contains(editor), "{ran:?}");
    }
    assert_eq!(world.json(&["get", "$B", "a"])["value"], json!({"n": 1}));
}

#[test]
fn concurrent_patches_are_all_applied() {
    let world = World::server();
    world.fill("", &[r#""key":"a","codec":"json","value":{}"#]);
    let children: Vec<_> = (0..8)
        .map(|id| world.command(&["patch", "$B", "a", &format!(r#"{{"f{id}":{id}}}"#)]).spawn().unwrap())
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(world.json(&["get", "$B", "a"])["value"].as_object().unwrap().len(), 8);
}

#[test]
fn indexed_buckets_are_refused() {
    let world = World::server();
    world.fill("", &[r#""key":"7","codec":"json","value":{}"#]);
    let index =
        r#"{"email":{"state":"readable","unique":true,"definition":"{email:lower}","fingerprint":"d4edcddf4ab75335"}}"#;
    for (card, reason) in [
        (
            format!(r#"{{"key":"{{id}}","codec":"json","version":1,"writes":1,"oldest":1,"indexes":{index}}}"#),
            "indexes of user",
        ),
        ("of a later version".to_owned(), "cannot read the card of user"),
    ] {
        world.set_metadata(&[("kvtyped.model.user".to_owned(), card)]);
        for command in
            [&["put", "$B", "7", "{}"][..], &["patch", "$B", "7", "{}"], &["edit", "$B", "7"], &["rm", "$B", "7"]]
        {
            let refused = world.run(command);
            assert!(refused.code == 10 && refused.err.contains(reason), "{command:?}: {refused:?}");
        }
        world.ok(&["put", "$B", "7", "{}", "--allow-unindexed"]);
        world.ok(&["touch", "$B", "7"]);
    }
    let shown = world.json(&["bucket", "show", "$B"]);
    assert_eq!(shown["models"], json!([]));
}
