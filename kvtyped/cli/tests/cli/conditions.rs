//! Conditions: `--where` and `--if-revision`.

use serde_json::{Value, json};

use crate::terminal::Terminal;
use crate::world::{World, card, on_each_store};

/// Four sessions, and one record that does not decode.
fn fill(world: &World) {
    world.fill(&card("session", "{tenant}.{id}", "msgpack", 1), &[
        r#""key":"acme.1","codec":"msgpack","value":{"user":"ada","visits":3,"roles":[{"id":7}],"seen":"2026-11-30"}"#,
        r#""key":"acme.2","codec":"msgpack","value":{"user":"bob","visits":12,"roles":[]}"#,
        r#""key":"beta.1","codec":"msgpack","value":{"user":"ada","visits":30}"#,
        r#""key":"beta.2","codec":"msgpack","value":{"user":"eve"}"#,
        r#""key":"bad.1","value_b64":"wQ==""#,
    ]);
}

on_each_store! {
    fn records_are_selected_by_their_fields(world: &World) {
        fill(world);
        for (filter, conditions, keys) in [
            ("*.*", &["user=ada"][..], &["acme.1", "beta.1"][..]),
            ("acme.*", &["user=ada"], &["acme.1"]),
            ("*.*", &["user!=ada"], &["acme.2", "beta.2"]),
            ("*.*", &["visits>3"], &["acme.2", "beta.1"]),
            ("*.*", &["visits>=3", "visits<30"], &["acme.1", "acme.2"]),
            ("*.*", &["visits=null"], &["beta.2"]),
            ("*.*", &["roles[0].id=7"], &["acme.1"]),
            ("*.*", &["seen>2026-11"], &["acme.1"]),
            ("*.*", &["user=nobody"], &[]),
        ] {
            let conditions: Vec<_> = conditions.iter().flat_map(|condition| ["--where", *condition]).collect();
            for command in [["ls", "$B"], ["get", "$B"]] {
                let ran = world.run(&[&command[..], &[filter], &conditions, &["-o", "name"]].concat());
                let told = filter == "*.*";
                assert_eq!(ran.out.lines().collect::<Vec<_>>(), keys, "{conditions:?}: {ran:?}");
                assert_eq!((ran.code, ran.err.contains("`bad.1` is not selected")), if told { (9, true) } else { (0, false) }, "{ran:?}");
            }
        }
        assert_eq!(world.ok(&["ls", "$B", "acme.*", "--where", "visits<10", "--count"]), "1\n");
        assert_eq!(world.json(&["ls", "$B", "acme.*", "-l", "--where", "visits<10"])[0]["size"], 46);
        assert_eq!(world.ok(&["get", "$B", "acme.*", "--where", "visits<10", "-o", "value"]).lines().count(), 1);
        for (wrong, reason) in [("user", "no operator"), ("user==ada", "use `=`")] {
            let ran = world.run(&["ls", "$B", "--where", wrong]);
            assert!(ran.code == 2 && ran.err.contains(reason), "{ran:?}");
        }
        assert_eq!(world.run(&["get", "$B", "acme.1", "--where", "user=ada"]).code, 2);
        // The limit counts selected records.
        let page = world.run(&["ls", "$B", "*.*", "--where", "user=ada", "--limit", "1", "-o", "json"]);
        let cursor = page.error()["cursor"].as_str().unwrap().to_owned();
        assert!(page.out.contains("acme.1") && !page.out.contains("beta.1"), "{page:?}");
        if world.path("fixture.ndjson").exists() {
            // A fixture is another bucket in each process.
            return;
        }
        let next = world.run(&["ls", "$B", "*.*", "--where", "user=ada", "--limit", "1", "--after", &cursor]);
        assert_eq!(next.out, "beta.1\n", "{next:?}");
    }

    fn selected_records_are_exported_and_removed(world: &World) {
        fill(world);
        let export = world.ok(&["export", "$B", "acme.*", "--where", "visits>3"]);
        let lines: Vec<Value> = export.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((lines.len(), &lines[1]["key"], &lines[2]["records"]), (3, &json!("acme.2"), &json!(1)));
        let told = world.run(&["export", "$B", "--where", "visits>3"]);
        assert!(told.code == 9 && told.err.contains("`bad.1`") && told.out.contains(r#""unreadable":1"#), "{told:?}");
        assert_eq!(world.feed(&["import", "copy_$B"], export.as_bytes()).code, 0);
        assert_eq!(world.ok(&["ls", "copy_$B"]), "acme.2\n");

        let dry = world.run(&["rm", "$B", "acme.*", "--where", "user!=ada", "--dry-run"]);
        assert!(dry.code == 0 && dry.err.contains("removes 1 records") && dry.err.contains("acme.2"), "{dry:?}");
        assert_eq!(world.run(&["rm", "$B", "acme.*", "--where", "user!=ada"]).code, 10, "it needs a confirmation");
        let removed = world.run(&["rm", "$B", ">", "--where", "user!=ada", "--yes", "-o", "json"]);
        assert_eq!((removed.code, &serde_json::from_str::<Value>(&removed.out).unwrap()["records"]), (9, &json!(2)), "{removed:?}");
        assert_eq!(world.ok(&["ls", "$B"]), "acme.1\nbeta.1\nbad.1\n", "an unreadable record is not removed");
        assert_eq!(world.run(&["rm", "$B", "acme.*", "--where", "user=nobody", "--yes"]).code, 3);
        assert_eq!(world.json(&["rm", "$B", "acme.1", "--purge", "--where", "user=ada", "--yes"])["records"], 1);
    }

    fn changes_are_selected_by_their_fields(world: &World) {
        fill(world);
        let watched = world.run(&["watch", "$B", "--where", "user=ada", "--until", "2", "-o", "ndjson"]);
        let keys: Vec<Value> =
            watched.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["key"].clone()).collect();
        assert_eq!((watched.code, keys), (0, vec![json!("acme.1"), json!("beta.1")]), "{watched:?}");
    }

    fn revisions_are_expected_by_every_change(world: &World) {
        world.fill("", &[r#""key":"a","codec":"json","value":{"n":1}"#]);
        let revision = || world.json(&["get", "$B", "a"])["revision"].as_u64().unwrap();
        let first = revision();
        let wrong = (first + 7).to_string();
        for command in [&["put", "$B", "a", "{}"][..], &["patch", "$B", "a", r#"{"n":2}"#], &["edit", "$B", "a"], &["rm", "$B", "a"]] {
            for dry in [&[][..], &["--dry-run"]] {
                let ran = world.run(&[command, &["--if-revision", &wrong, "-o", "json"], dry].concat());
                assert_eq!((ran.code, &ran.error()["kind"]), (4, &json!("conflict")), "{command:?}: {ran:?}");
            }
        }
        assert_eq!(revision(), first);
        world.ok(&["patch", "$B", "a", r#"{"n":2}"#, "--if-revision", &first.to_string()]);
        if world.path("fixture.ndjson").exists() {
            // A fixture has new revisions in each process.
            return;
        }
        let stale = world.run(&["patch", "$B", "a", r#"{"n":3}"#, "--if-revision", &first.to_string()]);
        assert_eq!((stale.code, &world.json(&["get", "$B", "a"])["value"]["n"]), (4, &json!(2)), "{stale:?}");
        let newest = revision().to_string();
        let mut edit = world.command(&["edit", "$B", "a", "--if-revision", &newest]);
        edit.env("EDITOR", "sed -i s/2/4/");
        assert_eq!(crate::world::run(edit, b"").code, 0);
        assert_eq!(world.json(&["get", "$B", "a"])["value"]["n"], 4);
        assert_eq!(world.run(&["patch", "$B", "none", "{}", "--if-revision", "1"]).code, 3);
    }
}

#[test]
fn restore_expects_a_revision() {
    let world = World::server();
    world.ok(&["bucket", "create", "$B", "--history", "5"]);
    for value in ["1", "2", "3"] {
        world.ok(&["put", "$B", "a", value]);
    }
    let stale = world.run(&["restore", "$B", "a", "1", "--if-revision", "2"]);
    assert!(stale.code == 4 && stale.err.contains("revision 3, not 2"), "{stale:?}");
    world.ok(&["restore", "$B", "a", "1", "--if-revision", "3"]);
    assert_eq!(world.json(&["get", "$B", "a"])["value"], 1);
}

#[test]
fn record_that_changes_before_the_confirmation_is_not_removed() {
    let world = World::server();
    let entries = ["a", "b"].map(|key| format!(r#""key":"{key}","codec":"json","value":{{"state":"failed"}}"#));
    world.fill("", &entries.each_ref().map(String::as_str));
    let mut terminal = Terminal::spawn(world.command(&["rm", "$B", ">", "--where", "state=failed"]), 100);
    terminal.expect("Type `2` to continue");
    world.ok(&["patch", "$B", "a", r#"{"state":"running"}"#]);
    terminal.send("2\n");
    let (code, shown) = terminal.end();
    assert!(code == Some(4) && shown.contains("`a` is not removed"), "{code:?} {shown}");
    assert_eq!(world.ok(&["ls", "$B"]), "a\n");
}

#[test]
fn values_of_an_unknown_codec_are_told() {
    let world = World::file();
    world.fill("", &[r#""key":"bytes","value_b64":"AP8B""#, r#""key":"text","codec":"text","value":"plain""#]);
    let ran = world.run(&["rm", "$B", ">", "--where", "state!=done", "--dry-run", "-o", "json"]);
    // A text has no fields, and its fields are not `done`.
    assert!(
        ran.code == 9 && ran.err.contains("`bytes` is not selected") && ran.out.contains(r#""records":1"#),
        "{ran:?}"
    );
    assert_eq!(world.run(&["ls", "$B", "--where", "$=plain"]).out, "text\n");
}
