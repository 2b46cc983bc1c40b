//! The commands of recipes, on records as programs store them.

use serde_json::{Value, json};

use crate::terminal::{Terminal, strip};
use crate::world::{World, on_each_store};

/// Leases as programs store them: one of each recipe, with ten minutes left.
pub(crate) fn entries() -> Vec<String> {
    let lease = r#""id":"aa","owner":"worker-7","since":1764000000000"#;
    let record = |key: &str, ttl: bool, value: &str| {
        let ttl = if ttl { r#""ttl_ms":600000,"expires_in_ms":600000,"# } else { "" };
        format!(r#""key":"=kvtyped.{key}","codec":"json",{ttl}"value":{{"v":1,{value}}}"#)
    };
    vec![
        record("lock.nightly.lease", true, &format!(r#"{lease},"note":"monthly run""#)),
        record("election.scheduler.lease", true, &format!(r#"{lease},"value":{{"address":"10.0.0.7"}}"#)),
        record("group.workers.node-1", true, &format!(r#"{lease},"value":"10.0.0.1""#)),
        record("group.workers.node-2", true, &format!(r#"{lease},"value":"10.0.0.2""#)),
        record("semaphore.gpu.1", true, lease),
        record("once.charges.charge-42", true, &format!(r#"{lease},"value":{{"result":{{"paid":5}}}}"#)),
        record("once.charges.charge-43", true, lease),
        record("ids.orders.next", false, r#""next":101"#),
        record("rate.api.client=2E1", true, &rate()),
    ]
}

/// The record of a key that has used three of five events, for a rate of one in 1,000 seconds.
fn rate() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let whole_at = now + 2_500_000_000_000;
    format!(r#""whole_at":{whole_at},"since":{now},"interval":1000000000000,"burst":5"#)
}

pub(crate) const SETTINGS: &str = r#""history":1,"limit_markers_ms":300000"#;

/// Fills the bucket with the records of recipes.
pub(crate) fn fill(world: &World) {
    let entries = entries();
    world.fill(SETTINGS, &entries.iter().map(String::as_str).collect::<Vec<_>>());
}

fn only(value: Value) -> Value {
    let items = value.as_array().unwrap_or_else(|| panic!("{value}")).clone();
    assert_eq!(items.len(), 1, "{items:?}");
    items[0].clone()
}

/// Whether the remaining time is that of a record with a TTL of ten minutes.
fn is_fresh(item: &Value) -> bool {
    item["expires_in_ms"].as_u64().is_some_and(|left| (300_000..=600_000).contains(&left))
}

/// Lists the locks of all buckets. Those of other tests on the server may be unreadable.
pub(crate) fn every_lock(world: &World) -> String {
    let ran = world.run(&["lock", "ls"]);
    assert!([0, 9].contains(&ran.code), "{ran:?}");
    ran.out
}

on_each_store! {
    fn lock_shows_holder_and_breaks_the_term_that_was_seen(world: &World) {
        fill(world);
        let lock = only(world.json(&["lock", "ls", "$B"]));
        assert_eq!((&lock["name"], &lock["owner"], &lock["note"], &lock["state"]),
            (&json!("nightly"), &json!("worker-7"), &json!("monthly run"), &json!("held")));
        assert!(is_fresh(&lock) && lock["recipe"] == world.bucket.as_str(), "{lock}");
        assert!(lock["since"].as_str().unwrap().starts_with("2025-11-24T"), "{lock}");
        let row = world.ok(&["lock", "ls", "$B"]);
        assert_eq!(row.split('\t').nth(1), Some("nightly"), "{row}");
        assert!(every_lock(world).lines().any(|line| line.starts_with(&format!("{}\tnightly\t", world.bucket))));
        let fence = lock["fence"].as_u64().unwrap().to_string();
        assert_eq!(world.json(&["lock", "show", "$B", "nightly"])["fence"].to_string(), fence);

        let wrong = world.run(&["lock", "break", "$B", "nightly", "--fence", "999", "--yes", "-o", "json"]);
        assert!(wrong.code == 4 && wrong.error()["message"].as_str().unwrap().contains(&fence), "{wrong:?}");
        let term = ["lock", "break", "$B", "nightly", "--fence", fence.as_str()];
        assert_eq!(world.run(&term).code, 10, "without a terminal, it needs --yes");
        assert_eq!(world.run(&[&["--read-only"], &term[..], &["--yes"]].concat()).code, 10);
        let dry = world.json(&[&term[..], &["--dry-run"]].concat());
        assert_eq!((&dry["dry_run"], &dry["owner"]), (&json!(true), &json!("worker-7")));
        assert_eq!(world.json(&["lock", "show", "$B", "nightly"])["state"], "held");
        let broken = world.json(&[&term[..], &["--yes", "--reason", "stuck"]].concat());
        assert_eq!((&broken["type"], &broken["reason"]), (&json!("lock_broken"), &json!("stuck")), "{broken}");
        let free = world.json(&["lock", "show", "$B", "nightly"]);
        assert_eq!((&free["state"], &free["waiters"]), (&json!("free"), &json!([])));
        // Who ended the term, and why, is visible to everyone.
        let end = &free["last_end"];
        assert_eq!((&end["by"], &end["reason"], &end["owner"]), (&json!("tester"), &json!("stuck"), &json!("worker-7")));
        assert_eq!((end["fence"].to_string(), &end["how"]), (fence.clone(), &json!("broken")));
        let piped = world.ok(&["lock", "show", "$B", "nightly"]);
        let cells: Vec<_> = piped.trim_end().split('\t').collect();
        assert_eq!((cells.len(), cells[2]), (10, "free"), "{piped}");
        assert!(cells[9].starts_with(&format!("term {fence} of worker-7 was broken by tester ")), "{piped}");
        assert!(cells[9].ends_with(": stuck"), "{piped}");
        let (_, shown) = Terminal::spawn(world.command(&["lock", "show", "$B", "nightly"]), 120).end();
        assert!(strip(&shown).contains("was broken by tester") && shown.contains("stuck"), "{shown}");
        assert!(world.ok(&["ls", "$B", "--reserved"]).contains("=kvtyped.ended.lock.nightly"));
        let again = world.run(&[&term[..], &["--yes"]].concat());
        assert!(again.code == 0 && again.err.contains("free already"), "{again:?}");
        assert_eq!(world.json(&["lock", "ls", "$B"]), json!([]));
    }

    fn lock_of_a_dead_holder_is_waited_for(world: &World) {
        let entry = r#""key":"=kvtyped.lock.a.lease","codec":"json","ttl_ms":5000,"expires_in_ms":5000,"value":{"v":1,"id":"b","owner":"w","since":1}"#;
        world.fill(SETTINGS, &[entry]);
        let lock = only(world.json(&["lock", "ls", "$B"]));
        let fence = lock["fence"].to_string();
        let waited = world.run(&["lock", "break", "$B", "a", "--fence", &fence, "--wait"]);
        assert!(waited.code == 0 && waited.err.contains("has ended"), "{waited:?}");
        assert_eq!(world.json(&["lock", "show", "$B", "a"])["state"], "free");
    }

    fn watches_begin_with_what_exists(world: &World) {
        fill(world);
        let held = world.ok(&["lock", "watch", "$B", "nightly", "--until", "1"]);
        assert!(held.starts_with("held\tnightly\tworker-7\t"), "{held}");
        let leader = world.ok(&["election", "watch", "scheduler", "--bucket", "$B", "--until", "1", "-o", "ndjson"]);
        assert_eq!(serde_json::from_str::<Value>(&leader).unwrap()["value"], json!({ "address": "10.0.0.7" }));
        let members = world.ok(&["group", "watch", "workers", "--bucket", "$B", "--until", "2"]);
        let ids: Vec<_> = members.lines().filter_map(|line| line.split('\t').nth(1)).collect();
        assert_eq!(ids, ["node-1", "node-2"]);
    }

    fn election_shows_leader_and_ends_the_term_that_was_seen(world: &World) {
        fill(world);
        let leader = only(world.json(&["election", "ls", "$B"]));
        assert_eq!((&leader["election"], &leader["owner"]), (&json!("scheduler"), &json!("worker-7")));
        assert!(is_fresh(&leader), "{leader}");
        let shown = world.json(&["election", "show", "scheduler", "--bucket", "$B"]);
        assert_eq!(shown["value"], json!({ "address": "10.0.0.7" }));
        assert_eq!(world.run(&["election", "show", "none", "--bucket", "$B"]).code, 3);
        let fence = shown["fence"].to_string();
        let resign = ["election", "resign", "scheduler", "--bucket", "$B", "--fence"];
        assert_eq!(world.run(&[&resign[..], &["999", "--yes"]].concat()).code, 4);
        assert_eq!(world.run(&[&resign[..], &[&fence]].concat()).code, 10);
        assert_eq!(world.run(&[&resign[..], &[&fence, "--dry-run"]].concat()).code, 0);
        assert_eq!(world.json(&["election", "show", "scheduler", "--bucket", "$B"])["fence"].to_string(), fence);
        let deposed = world.json(&[&resign[..], &[&fence, "--yes"]].concat());
        assert_eq!((&deposed["type"], &deposed["how"]), (&json!("leader_deposed"), &json!("deposed")));
        let none = world.run(&["election", "show", "scheduler", "--bucket", "$B"]);
        assert!(none.code == 3 && none.err.contains("was deposed by tester"), "{none:?}");
    }

    fn groups_semaphores_and_ids_are_shown(world: &World) {
        fill(world);
        let group = only(world.json(&["group", "ls", "$B"]));
        assert_eq!((&group["group"], &group["members"]), (&json!("workers"), &json!(2)));
        let members = world.json(&["group", "members", "workers", "--bucket", "$B"]);
        assert_eq!((&members[0]["member"], &members[1]["value"]), (&json!("node-1"), &json!("10.0.0.2")));
        assert!(is_fresh(&members[1]));
        let semaphore = only(world.json(&["semaphore", "ls", "$B"]));
        assert_eq!((&semaphore["semaphore"], &semaphore["taken"]), (&json!("gpu"), &json!(1)));
        let permit = only(world.json(&["semaphore", "show", "gpu", "--bucket", "$B"]));
        assert!(permit["slot"] == 1 && permit["owner"] == "worker-7" && is_fresh(&permit), "{permit}");
        assert_eq!(world.ok(&["id", "peek", "orders", "--bucket", "$B"]), "101\n");
        assert_eq!(world.json(&["id", "peek", "orders", "--bucket", "$B"])["next"], 101);
    }

    fn once_shows_runs_and_forgets_results(world: &World) {
        fill(world);
        let keys = world.json(&["once", "ls", "charges", "--bucket", "$B"]);
        assert_eq!((&keys[0]["key"], &keys[0]["state"]), (&json!("charge-42"), &json!("done")));
        assert!(keys[1]["state"] == "running" && keys[1]["owner"] == "worker-7" && is_fresh(&keys[1]), "{keys}");
        let show = |key: &str| world.json(&["once", "show", "charges", key, "--bucket", "$B"]);
        assert_eq!((&show("charge-42")["result"], &show("charge-43")["state"]), (&json!({ "paid": 5 }), &json!("running")));
        assert_eq!(world.ok(&["once", "show", "charges", "charge-42", "--bucket", "$B", "-o", "value"]), "{\"paid\":5}\n");
        let forget = |key: &str, flag: &str| world.run(&["once", "forget", "charges", key, "--bucket", "$B", flag]).code;
        assert_eq!((forget("charge-44", "--yes"), forget("charge-43", "--yes")), (3, 4));
        assert_eq!((forget("charge-42", "-q"), forget("charge-42", "--dry-run")), (10, 0));
        assert_eq!(show("charge-42")["state"], "done");
        assert_eq!((forget("charge-42", "--yes"), forget("charge-42", "--yes")), (0, 3));
    }

    fn rate_shows_usage_without_the_quota_and_resets(world: &World) {
        fill(world);
        let usage = only(world.json(&["rate", "show", "api", "--bucket", "$B"]));
        assert_eq!((&usage["key"], &usage["burst"], &usage["available"]), (&json!("client.1"), &json!(5), &json!(2)));
        assert_eq!(usage["interval_ms"], 1_000_000.0);
        assert_eq!(world.json(&["rate", "show", "api", "client.1", "--bucket", "$B"])[0]["available"], 2);
        let none = world.run(&["rate", "show", "api", "client.2", "--bucket", "$B"]);
        assert!(none.code == 0 && none.out.is_empty() && none.err.contains("whole quota"), "{none:?}");
        let reset = |key: &str, flag: &str| world.run(&["rate", "reset", "api", key, "--bucket", "$B", flag]).code;
        assert_eq!((reset("client.2", "--yes"), reset("client.1", "-q"), reset("client.1", "--dry-run")), (3, 10, 0));
        assert_eq!(reset("client.1", "--yes"), 0);
        assert_eq!(world.json(&["rate", "show", "api", "--bucket", "$B"]), json!([]));
    }

    fn counters_of_records_are_added_and_removed(world: &World) {
        world.fill(SETTINGS, &[r#""key":"=kvtyped.counters.hits.home","codec":"json","value":{"v":1,"val":"42"}"#]);
        let counter = |arguments: &[&str]| world.run(&[&["counter"], arguments, &["--bucket", "$B"]].concat());
        assert_eq!(counter(&["ls", "hits"]).out, "home\t42\n");
        assert_eq!(counter(&["get", "hits", "none", "-o", "value"]).out, "0\n");
        assert_eq!(counter(&["add", "hits", "home", "8", "-o", "value"]).out, "50\n");
        assert_eq!(counter(&["add", "hits", "home", "-1", "-o", "value"]).out, "49\n");
        assert_eq!(counter(&["add", "hits", "home", "1", "--dry-run", "-o", "value"]).out, "50\n");
        assert_eq!((counter(&["rm", "hits", "home"]).code, counter(&["rm", "hits", "home", "--dry-run"]).code), (10, 0));
        assert_eq!(counter(&["get", "hits", "home", "-o", "value"]).out, "49\n");
        assert_eq!(counter(&["rm", "hits", "home", "--yes"]).code, 0);
        assert_eq!(counter(&["ls", "hits"]).out, "");
    }

    fn missing_bucket_is_not_created(world: &World) {
        world.fill(SETTINGS, &[]);
        for arguments in [
            &["lock", "ls", "none"][..],
            &["lock", "show", "none", "a"],
            &["lock", "watch", "none"],
            &["lock", "break", "none", "a", "--fence", "1", "--yes"],
            &["election", "ls", "none"],
            &["election", "show", "none"],
            &["election", "watch", "none"],
            &["election", "resign", "none", "--fence", "1", "--yes"],
            &["group", "ls", "none"],
            &["group", "members", "none"],
            &["group", "watch", "none"],
            &["semaphore", "ls", "none"],
            &["semaphore", "show", "none"],
            &["counter", "ls", "none"],
            &["counter", "get", "none", "a"],
            &["counter", "add", "none", "a", "1"],
            &["counter", "rm", "none", "a", "--yes"],
            &["once", "ls", "none"],
            &["once", "show", "none", "a"],
            &["once", "forget", "none", "a", "--yes"],
            &["rate", "show", "none"],
            &["rate", "reset", "none", "a", "--yes"],
            &["id", "peek", "none"],
            &["schema", "show", "none"],
            &["schema", "check", "none"],
            &["doctor", "none"],
        ] {
            let ran = world.run(arguments);
            assert_eq!(ran.code, 3, "{arguments:?}: {ran:?}");
        }
        assert!(world.ok(&["buckets", "-o", "name"]).lines().all(|name| name != "none"));
    }

    fn top_prints_rates(world: &World) {
        fill(world);
        let rates = world.ok(&["top", "$B", "--interval", "50ms", "--until", "2", "-o", "ndjson"]);
        let rates: Vec<Value> = rates.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rates.len(), 2);
        assert_eq!((&rates[1]["recipe_records"], &rates[1]["writes_per_second"]), (&json!(9), &json!(0.0)), "{rates:?}");
    }
}

#[test]
fn last_end_of_a_term_is_the_same_in_every_output() {
    // The store in memory keeps no markers between two runs.
    for world in [World::file(), World::server()] {
        fill(&world);
        let end = |name: &str| {
            let json = world.json(&["lock", "show", "$B", name])["last_end"].clone();
            let piped = world.ok(&["lock", "show", "$B", name]);
            (json, piped.trim_end_matches('\n').rsplit('\t').next().unwrap().to_owned())
        };
        assert_eq!(end("none"), (Value::Null, String::new()));
        assert_eq!(world.run(&["lock", "run", "$B", "nightly-2", "--", "true"]).code, 0);
        let (json, piped) = end("nightly-2");
        assert!(
            json["how"] == "released" && json["at"].is_string() && piped.starts_with("released "),
            "{json} {piped}"
        );
        // A release after a break is the last end.
        assert_eq!(world.run(&["lock", "break", "$B", "nightly", "--fence", "1", "--yes"]).code, 0);
        assert_eq!(end("nightly").0["how"], "broken");
        assert_eq!(world.run(&["lock", "run", "$B", "nightly", "--", "true"]).code, 0);
        assert_eq!(end("nightly").0["how"], "released");
        let lease = r#""key":"=kvtyped.lock.a.lease","codec":"json","ttl_ms":1000,"expires_in_ms":1000,"value":{"v":1,"id":"b","owner":"w","since":1}"#;
        world.feed(&["import", "$B", "--ttl-as-exported"], world.export(SETTINGS, &[lease]).as_bytes());
        let deadline = std::time::Instant::now() + crate::world::SOON;
        while world.json(&["lock", "show", "$B", "a"])["state"] != "free" {
            assert!(std::time::Instant::now() < deadline, "the lease expires");
        }
        let (json, piped) = end("a");
        assert!(json["how"] == "expired" && piped.contains("did not renew"), "{json} {piped}");
    }
}

#[test]
fn counters_of_a_server_are_shown_and_changed() {
    let world = World::server();
    let name = format!("hits_{}", world.bucket);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = kvtyped::Store::connect(world.url()).await.unwrap();
        let counters = store.counters(&*name);
        assert!(counters.is_server_side().await.unwrap());
        counters.add("home", 42).await.unwrap();
        store.close().await.unwrap();
    });
    assert_eq!(world.ok(&["counter", "ls", &name]), "home\t42\n");
    assert_eq!(world.ok(&["counter", "add", &name, "home", "-2", "-o", "value"]), "40\n");
    assert_eq!(world.ok(&["--read-only", "counter", "get", &name, "home", "-o", "value"]), "40\n");
    assert_eq!(world.json(&["counter", "rm", &name, "home", "--yes"])["removed"], true);
    assert_eq!(world.ok(&["counter", "ls", &name]), "");
    // It is no bucket of records, and no other command trips over it.
    every_lock(&world);
    world.ok(&["top", "--interval", "10ms", "--until", "1"]);
}

#[test]
fn hostile_names_are_shown_escaped() {
    let world = World::server();
    let hostile = r#"\u001b]0;x\u0007\u202e"#;
    let lease = format!(r#""v":1,"id":"a","owner":"{hostile}","since":1,"note":"{hostile}""#);
    let record = |key: &str, value: &str| {
        format!(
            r#""key":"=kvtyped.{key}","codec":"json","ttl_ms":600000,"expires_in_ms":600000,"value":{{{lease}{value}}}"#
        )
    };
    let value = format!(r#","value":{{"{hostile}":"{hostile}"}}"#);
    let entries = [
        record("lock.a.lease", ""),
        record("lock.a=1B.lease", ""),
        record("election.e.lease", &value),
        record("group.g.m=1B", &value),
        record("semaphore.s.0", ""),
        record("once.o.k=1B", ""),
        record("once.o.done", &format!(r#","value":{{"result":"{hostile}"}}"#)),
    ];
    world.fill(SETTINGS, &entries.each_ref().map(String::as_str));
    for arguments in [
        &["lock", "ls", "$B"][..],
        &["lock", "show", "$B", "a"],
        &["lock", "watch", "$B", "--until", "2"],
        &["lock", "ls", "$B", "-o", "json"],
        &["lock", "break", "$B", "a", "--fence", "1", "--dry-run"],
        &["election", "show", "e", "--bucket", "$B"],
        &["group", "members", "g", "--bucket", "$B"],
        &["group", "watch", "g", "--bucket", "$B", "--until", "1"],
        &["semaphore", "show", "s", "--bucket", "$B"],
        &["once", "ls", "o", "--bucket", "$B"],
        &["once", "show", "o", "done", "--bucket", "$B"],
        &["once", "show", "o", "done", "--bucket", "$B", "-o", "value"],
    ] {
        let (code, shown) = Terminal::spawn(world.command(arguments), 200).end();
        let shown = strip(&shown);
        assert_eq!(code, Some(0), "{arguments:?}: {shown}");
        assert!(!shown.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{arguments:?}: {shown:?}");
        let lower = shown.to_lowercase();
        assert!(lower.contains("001b") || lower.contains("u{1b}"), "{arguments:?}: {shown:?}");
    }
}

#[test]
fn locks_are_a_table_on_a_terminal() {
    let world = World::file();
    fill(&world);
    let (_, shown) = Terminal::spawn(world.command(&["lock", "ls", "$B"]), 120).end();
    let shown = strip(&shown);
    assert!(shown.starts_with("RECIPE") && shown.contains("NOTE") && shown.contains("monthly run"), "{shown}");
    let (_, shown) = Terminal::spawn(world.command(&["top", "$B", "--interval", "10ms", "--until", "2"]), 120).end();
    assert!(shown.matches("\u{1b}[H\u{1b}[2J").count() == 2 && shown.contains("WRITES/S"), "{shown:?}");
}

#[test]
fn typed_name_confirms_a_break() {
    let world = World::file();
    fill(&world);
    let command = || world.command(&["lock", "break", "$B", "nightly", "--fence", "1"]);
    let mut terminal = Terminal::spawn(command(), 120);
    terminal.expect("next renewal");
    terminal.expect("Type `nightly` to continue:");
    terminal.send("yes\n");
    terminal.expect("not confirmed");
    assert_eq!(terminal.end().0, Some(10));
    let mut terminal = Terminal::spawn(command(), 120);
    terminal.expect("to continue:");
    terminal.send("nightly\n");
    assert_eq!(terminal.end().0, Some(0));
    assert_eq!(world.json(&["lock", "ls", "$B"]), json!([]));
}
