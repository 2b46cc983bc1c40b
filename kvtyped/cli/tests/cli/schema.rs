//! `schema` and `file salvage`.

use std::fs;

use kvtyped::schema::Schema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::world::{World, on_each_store};

#[derive(Deserialize)]
#[expect(dead_code, reason = "only its shape is used")]
struct Session {
    user: String,
    visits: u8,
}

/// Settings with a card and the published schema of its version.
fn settings() -> String {
    let card =
        r#"{"key":"{tenant}.{id}","codec":"json","version":2,"writes":2,"oldest":1,"schema":"00000000000000ff"}"#;
    let metadata = json!({
        "kvtyped.model.session": card,
        "kvtyped.schema.session.2": Schema::probe::<Session>().to_json(),
    });
    format!(r#""history":1,"metadata":{metadata}"#)
}

const VERSION: &str = r#""codec":"json","headers":{"Kvtyped-Version":"2"}"#;

on_each_store! {
    fn schemas_are_shown_and_records_are_checked(world: &World) {
        world.fill(&settings(), &[
            &format!(r#""key":"acme.1",{VERSION},"value":{{"user":"ada","visits":1}}"#),
            &format!(r#""key":"acme.2",{VERSION},"value":{{"user":"bob"}}"#),
            &format!(r#""key":"acme.3",{VERSION},"value":{{"user":"eve","visits":256}}"#),
            r#""key":"acme.4","codec":"json","value":"an earlier version""#,
            r#""key":"other","codec":"json","value":1"#,
        ]);
        let model = world.json(&["schema", "show", "$B"])[0].clone();
        assert_eq!((&model["model"], &model["key"], &model["version"]), (&json!("session"), &json!("{tenant}.{id}"), &json!(2)));
        assert_eq!(model["schemas"]["2"]["shape"]["struct"]["visits"], json!({ "type": "u8" }), "{model}");
        assert_eq!(world.ok(&["schema", "show", "$B", "-o", "name"]), "session\n");

        let ran = world.run(&["schema", "check", "$B", "-o", "json"]);
        let findings: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(ran.code, 1, "{ran:?}");
        let found: Vec<_> = findings.as_array().unwrap().iter().map(|finding| (finding["key"].as_str().unwrap(), finding["reason"].as_str().unwrap())).collect();
        assert_eq!(found, [
            ("acme.2", "the field `visits` is missing"),
            ("acme.3", "`visits`: expected u8, found a number that does not fit"),
        ]);
        let summary = ran.error();
        assert_eq!((&summary["records"], &summary["fitting"], &summary["decoding"], &summary["without_model"]),
            (&json!(5), &json!(1), &json!(1), &json!(1)), "{summary}");
        assert_eq!(world.run(&["schema", "check", "$B", "other"]).code, 0);
        assert_eq!(world.run(&["schema", "check", "$B", "--limit", "1"]).code, 0);
        world.ok(&["patch", "$B", "acme.3", r#"{"visits":255}"#]);
        world.ok(&["patch", "$B", "acme.2", r#"{"visits":0}"#]);
        assert_eq!(world.run(&["schema", "check", "$B"]).code, 0);
    }

    fn bucket_without_models_has_nothing_to_show(world: &World) {
        world.fill("", &[r#""key":"a","codec":"json","value":1"#]);
        let shown = world.run(&["schema", "show", "$B"]);
        assert!(shown.code == 0 && shown.out.is_empty() && shown.err.contains("no model cards"), "{shown:?}");
        assert_eq!(world.run(&["schema", "check", "$B"]).code, 0);
    }
}

#[test]
fn intact_file_is_salvaged_completely() {
    let world = World::file();
    world.fill("", &[r#""key":"a","codec":"json","value":1"#]);
    let (from, to) = (world.path("store.kv"), world.path("copy.kv"));
    let salvage = |more: &[&str]| {
        let paths = [from.to_str().unwrap(), to.to_str().unwrap()];
        world.run(&[more, &["file", "salvage"], &paths, &["-o", "json"]].concat())
    };
    assert_eq!(salvage(&["--read-only"]).code, 10);
    let ran = salvage(&[]);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &report["entries"], &report["problems"]), (0, &json!(1), &json!([])), "{ran:?}");
    assert_eq!(salvage(&[]).code, 2, "the copy exists already");
    let url = format!("file:{}", to.display());
    let copied = format!("{url}/{}", world.bucket);
    assert_eq!(world.run(&["diff", "$B", &copied]).code, 0);
    assert_eq!(world.run(&["file", "salvage", "/no/such/file", "x"]).code, 3);
    let url = world.run(&["file", "salvage", "file:/no/such/file", "x"]);
    assert!(url.code == 2 && url.err.contains("without `file:`"), "{url:?}");
}

#[test]
fn damaged_file_is_salvaged_and_the_rest_is_listed() {
    let world = World::file();
    let entries: Vec<_> = (0..500)
        .map(|id| format!(r#""key":"a.{id}","codec":"json","value":"marker {id} {}""#, "x".repeat(100)))
        .collect();
    world.fill("", &entries.iter().map(String::as_str).collect::<Vec<_>>());
    let (from, to) = (world.path("store.kv"), world.path("copy.kv"));
    let mut bytes = fs::read(&from).unwrap();
    let needle = b"marker 250 ";
    let places: Vec<_> =
        bytes.windows(needle.len()).enumerate().filter(|(_, part)| part == needle).map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at] ^= 0xff;
    }
    fs::write(&from, bytes).unwrap();
    let opened = world.run(&["ls", "$B"]);
    let ran = world.run(&["file", "salvage", from.to_str().unwrap(), to.to_str().unwrap()]);
    assert!(ran.code == 1 && ran.err.contains("warning: table"), "{opened:?} {ran:?}");
    let url = format!("file:{}", to.display());
    let mut command = crate::world::tool(world.folder.path());
    command.args(["--url", &url, "ls", &world.bucket, "--count"]);
    assert_eq!(crate::world::run(command, b"").out, "499\n");
}
