//! `doctor`: findings with a reason and a repair.

use serde_json::{Value, json};

use crate::recipes::fill;
use crate::world::{World, card, on_each_store, run, tool};

/// Returns the findings of a level.
fn of_level<'a>(findings: &'a Value, level: &str) -> Vec<&'a Value> {
    let findings = findings.as_array().expect("a list").iter();
    let findings = findings.inspect(|finding| {
        let is_complete = finding["reason"].is_string() && finding["check"].is_string() && finding["v"] == 1;
        assert!(is_complete && finding["type"] == "finding", "{finding}");
    });
    findings.filter(|finding| finding["level"] == level).collect()
}

/// Runs `doctor` on the bucket, and returns the exit code and the findings.
fn examine(world: &World) -> (i32, Value) {
    let ran = world.run(&["doctor", "$B", "-o", "json"]);
    (ran.code, serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}")))
}

on_each_store! {
    fn healthy_bucket_has_no_errors(world: &World) {
        fill(world);
        let (code, findings) = examine(world);
        assert_eq!((code, of_level(&findings, "error"), of_level(&findings, "warning")), (0, vec![], vec![]));
        let checks: Vec<_> = of_level(&findings, "ok").iter().filter_map(|finding| finding["check"].as_str()).collect();
        for check in ["connection", "backend", "feature", "recipes"] {
            assert!(checks.contains(&check), "{check}: {findings}");
        }
        let text = world.run(&["doctor", "$B"]);
        assert!(text.code == 0 && text.err.contains("0 errors"), "{text:?}");
    }

    fn records_that_do_not_fit_are_errors(world: &World) {
        world.fill(&card("session", "{tenant}.{id}", "json", 2), &[
            r#""key":"acme.1","codec":"json","value":{"user":"ada"}"#,
            r#""key":"acme.2","value_b64":"/w==","headers":{"Kvtyped-Version":"2"}"#,
            r#""key":"acme.3","codec":"json","headers":{"Kvtyped-Version":"7"},"value":{}"#,
        ]);
        let (code, findings) = examine(world);
        let errors = of_level(&findings, "error");
        assert_eq!((code, errors.len(), &errors[0]["check"]), (1, 1, &json!("records")), "{findings}");
        assert_eq!(errors[0]["keys"], json!(["acme.2", "acme.3"]));
        let repair = errors[0]["repair"].as_str().unwrap();
        assert!(repair.contains(&format!("kvtyped schema check {}", world.bucket)), "{repair}");
        assert_eq!(world.run(&["doctor", "$B", "--sample", "1"]).code, 0);
    }

    fn recipes_in_an_unfit_bucket_are_errors(world: &World) {
        let lock = r#""key":"=kvtyped.lock.a.lease","codec":"json","value":{"v":1,"id":"b","owner":"w","since":1}"#;
        world.fill(r#""history":5"#, &[lock]);
        let (code, findings) = examine(world);
        let errors = of_level(&findings, "error");
        assert_eq!(code, 1);
        let repairs: Vec<_> = errors.iter().filter_map(|error| error["repair"].as_str()).collect();
        assert!(repairs.iter().any(|repair| repair.contains("--history 1")), "{repairs:?}");
        assert!(repairs.iter().any(|repair| repair.contains("--limit-markers")), "{repairs:?}");
    }

    fn unreadable_card_is_an_error(world: &World) {
        world.fill(r#""history":1,"metadata":{"kvtyped.model.session":"{}"}"#, &[]);
        let (code, findings) = examine(world);
        assert_eq!((code, &of_level(&findings, "error")[0]["check"]), (1, &json!("card")), "{findings}");
    }
}

/// Returns the level and the repair of each finding of a check.
fn of_check(findings: &Value, check: &str) -> Vec<(String, String)> {
    let findings = findings.as_array().unwrap().iter().filter(|finding| finding["check"] == check);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    findings.map(|finding| (text(&finding["level"]), text(&finding["repair"]))).collect()
}

#[test]
fn states_of_indexes_and_schemas_are_findings() {
    let world = World::server();
    let index = |state: &str| json!({ "state": state, "definition": "{email}", "fingerprint": "0", "unique": true });
    let states = ["readable", "writing", "pending", "dropping", "later"];
    let indexes: serde_json::Map<_, _> = states.iter().map(|state| ((*state).to_owned(), index(state))).collect();
    let card = json!({
        "key": "{id}", "codec": "json", "version": 2, "writes": 2, "oldest": 1, "schema": "00000000000000ff",
        "indexes": indexes,
    });
    let schema = kvtyped::schema::Schema::probe::<String>().to_json();
    world.fill(r#""history":1"#, &[]);
    let metadata = [("kvtyped.model.user", card.to_string()), ("kvtyped.schema.user.2", schema)];
    world.set_metadata(&metadata.map(|(key, text)| (key.to_owned(), text)));
    let (code, findings) = examine(&world);
    let found = of_check(&findings, "indexes");
    let levels: Vec<_> = found.iter().map(|(level, _)| level.as_str()).collect();
    // In the order of their names.
    assert_eq!(levels, ["warning", "warning", "error", "note", "warning"], "{findings}");
    for (finding, verb) in
        found.iter().zip(["drop the index", "build the index", "verify the index", "verify", "build the index"])
    {
        assert!(finding.1.contains(verb), "{finding:?}");
    }
    assert_eq!(code, 1, "a value of a unique index is not unique");
    assert_eq!(of_check(&findings, "schema")[0].0, "warning", "{findings}");
    assert_eq!(of_check(&findings, "versions")[0].0, "note", "{findings}");
}

#[test]
fn features_that_the_bucket_does_not_enable_are_notes() {
    let world = World::server();
    world.ok(&["bucket", "create", "$B", "--limit-markers", "off", "--atomic", "false"]);
    let (code, findings) = examine(&world);
    assert_eq!(code, 0);
    // Each repair works.
    for check in ["ttl", "atomic"] {
        let found = of_check(&findings, check);
        assert_eq!(found[0].0, "note", "{check}: {findings}");
        let repair = found[0].1.strip_prefix("run `kvtyped ").and_then(|text| text.strip_suffix('`')).unwrap();
        world.ok(&repair.split(' ').collect::<Vec<_>>());
    }
    let (_, findings) = examine(&world);
    assert_eq!((of_check(&findings, "ttl"), of_check(&findings, "atomic")), (vec![], vec![]), "{findings}");
}

#[test]
fn limits_of_server_and_account_are_compared() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limits =
        "accounts { A { jetstream { max_file: 1000000, max_streams: 8 }, users: [ { user: a, password: a } ] } }";
    let server = runtime.block_on(harness::Server::builder().config(limits).auth().start());
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = tool(folder.path());
        command.env("KVTYPED_URL", format!("nats://127.0.0.1:{}", server.port()));
        command.env("KVTYPED_USER", "a").env("KVTYPED_PASSWORD", "a").args(arguments);
        run(command, b"")
    };
    let examine = || {
        let ran = run(&["doctor", "-o", "json"]);
        (ran.code, serde_json::from_str::<Value>(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}")))
    };
    let create = |name: &str, more: &[&str]| {
        let ran = run(&[&["bucket", "create", name][..], more].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
    };
    create("half", &["--max-bytes", "500000"]);
    let (code, findings) = examine();
    assert_eq!((code, of_check(&findings, "account")[0].0.as_str()), (0, "ok"), "{findings}");
    create("most", &["--max-bytes", "400000", "--max-value-size", "2000000"]);
    let (code, findings) = examine();
    let account = of_check(&findings, "account");
    assert_eq!((code, account[0].0.as_str(), account.len()), (0, "warning", 1), "{findings}");
    let value_size = of_check(&findings, "max_value_size");
    assert!(value_size[0].0 == "warning" && value_size[0].1.contains("--max-value-size 1048576"), "{findings}");
    create("rest", &["--max-bytes", "90000"]);
    let (code, findings) = examine();
    assert_eq!((code, of_check(&findings, "account")[0].0.as_str()), (1, "error"), "{findings}");
    runtime.block_on(server.terminate());
}

#[test]
fn many_delete_markers_are_a_warning() {
    // The store in memory keeps no markers between two runs.
    for world in [World::file(), World::server()] {
        let entries: Vec<_> = (0..150).map(|id| format!(r#""key":"a.{id}","codec":"json","value":{id}"#)).collect();
        world.fill(r#""history":1"#, &entries.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(world.run(&["rm", "$B", "a.*", "--yes"]).code, 0);
        let (code, findings) = examine(&world);
        let warnings = of_level(&findings, "warning");
        let repair = format!("run `kvtyped bucket compact {}`", world.bucket);
        let found = (code, &warnings[0]["check"], &warnings[0]["repair"]);
        assert_eq!(found, (0, &json!("markers"), &json!(repair)), "{findings}");
        // The repair works.
        world.ok(&["bucket", "compact", "$B", "--older-than", "0s"]);
        assert_eq!(of_level(&examine(&world).1, "warning"), Vec::<&Value>::new());
    }
}

#[test]
fn full_bucket_is_an_error() {
    let world = World::server();
    let value = "x".repeat(2_000);
    world.fill(r#""history":1,"max_bytes":20000"#, &[]);
    for key in 0..9 {
        world.ok(&["put", "$B", &format!("a.{key}"), &format!("\"{value}\"")]);
    }
    let (code, findings) = examine(&world);
    let found: Vec<_> = findings.as_array().unwrap().iter().filter(|finding| finding["check"] == "max_bytes").collect();
    assert!(
        found.len() == 1 && found[0]["repair"].as_str().unwrap().contains("--max-bytes 40000"),
        "{code} {findings}"
    );
}

#[test]
fn unreachable_store_is_an_error_with_a_repair() {
    let world = World::file();
    let url = format!("nats://127.0.0.1:{}", harness::free_port());
    let mut command = tool(world.folder.path());
    command.args(["--url", &url, "--timeout", "500ms", "doctor", "-o", "json"]);
    let ran = run(command, b"");
    let findings: Value = serde_json::from_str(&ran.out).unwrap();
    let errors = of_level(&findings, "error");
    assert_eq!((ran.code, errors.len(), &errors[0]["check"]), (1, 1, &json!("connection")), "{ran:?}");
    assert!(errors[0]["repair"].as_str().unwrap().contains("the URL"), "{findings}");
}

/// Users with the permissions of the documentation's page.
fn authorization() -> String {
    let page = include_str!("../../../docs/permissions.md");
    let role = |name: &str| {
        let (_, text) = page.split_once(&format!("# {name}\n")).expect("the page has the role");
        let (_, text) = text.split_once("```text\n").expect("the role has a block");
        text.split_once("```").expect("the block ends").0.to_owned()
    };
    let user = |name: &str, block: &str| format!("{{ user: {name}, password: \"secret-{name}\", {block} }}\n");
    let users = [
        user("reader", &role("Reader")),
        user("writer", &role("Writer")),
        user(
            "nobody",
            "permissions: { publish: { allow: [ \"$JS.API.STREAM.INFO.KV_sessions\" ] }, subscribe: { allow: [ \"_INBOX_nobody.>\" ] } }",
        ),
        user("admin", ""),
    ];
    format!("authorization {{ users: [ {} ] }}", users.join(""))
}

#[test]
fn permissions_are_tried_without_side_effects() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(harness::Server::builder().config(&authorization()).auth().start());
    let folder = tempfile::tempdir().unwrap();
    let run = |user: &str, arguments: &[&str]| {
        let mut command = tool(folder.path());
        let inbox = if user == "admin" { String::new() } else { format!("?inbox=_INBOX_{user}") };
        let password = format!("secret-{user}");
        command.env("KVTYPED_URL", format!("{}{inbox}", server.url()));
        command.env("KVTYPED_USER", user).env("KVTYPED_PASSWORD", &password).args(arguments);
        let ran = run(command, b"");
        assert!(!ran.out.contains(&password) && !ran.err.contains(&password), "{ran:?}");
        ran
    };
    assert_eq!(run("admin", &["bucket", "create", "sessions", "--history", "1"]).code, 0);
    assert_eq!(run("admin", &["put", "sessions", "a", "1"]).code, 0);
    let state = || {
        let ran = run("admin", &["bucket", "show", "sessions", "-o", "json"]);
        let bucket: Value = serde_json::from_str(&ran.out).unwrap();
        [bucket["last_revision"].clone(), bucket["entries"].clone()]
    };
    let before = state();
    let examine = |user: &str, more: &[&str]| {
        let ran = run(user, &[&["doctor", "sessions", "--timeout", "3s", "-o", "json"], more].concat());
        let findings: Value = serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        (ran.code, findings)
    };
    let level = |findings: &Value, check: &str| {
        let findings = findings.as_array().unwrap().iter();
        let mut found = findings.filter(|finding| finding["check"] == check);
        found.next().map(|finding| (finding["level"].clone(), finding["reason"].as_str().unwrap().to_owned()))
    };
    let (code, admin) = examine("admin", &[]);
    assert_eq!(code, 0, "{admin}");
    assert_eq!(level(&admin, "writer").unwrap().0, "ok");
    let (code, unwritten) = examine("admin", &["--read-only"]);
    assert_eq!((code, level(&unwritten, "writer").unwrap().0), (0, json!("note")));
    // These users may not ask for the capabilities of the server.
    for (user, may_write) in [("reader", false), ("writer", true)] {
        let (_, findings) = examine(user, &[]);
        assert_eq!(level(&findings, "reader").unwrap_or_else(|| panic!("{findings}")).0, "ok", "{findings}");
        let (writes, reason) = level(&findings, "writer").unwrap();
        assert_eq!(writes, if may_write { "ok" } else { "note" }, "{reason}");
        assert!(may_write || reason.contains("$KV.sessions"), "{reason}");
    }
    let (code, nobody) = examine("nobody", &[]);
    let (found, reason) = level(&nobody, "reader").unwrap();
    assert!(code == 1 && found == "error" && reason.contains("DIRECT.GET"), "{nobody}");
    assert_eq!(state(), before, "nothing was written");
    runtime.block_on(server.terminate());
}
