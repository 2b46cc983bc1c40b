//! Errors display one line, with the model, the limit and the name that the user gave.

use std::collections::BTreeMap;
use std::error::Error as _;

use kvtyped::codec::Text;
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind};

use crate::needs::needs;
use crate::support::{ForeignRecord, RawSession, Session, SessionKey, on_both_backends, seen_as, unique};

/// The displayed line, with all causes.
fn report(error: &Error) -> String {
    let mut report = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        report += &format!(": {error}");
        cause = error.source();
    }
    report
}

/// JSON has no maps with keys of this type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "{id}")]
struct Grid {
    id: u64,
    cells: BTreeMap<(u8, u8), u8>,
}

#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(key = "{name}", codec = Text)]
struct Named {
    name: String,
    #[kv(value)]
    text: String,
}

on_both_backends! {
    async fn overlong_key_error_names_limit_and_length(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        let key = SessionKey::new("x".repeat(1_500), 7);
        let error = sessions.get(&key).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidKey), "{error}");
        let text = report(&error);
        assert_eq!(text.matches("1502 bytes").count(), 1, "{text}");
        assert!(text.contains("1024") && text.contains("`Session`"), "{text}");
    }

    async fn record_errors_name_model(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        let raw = seen_as::<RawSession>(&world, sessions.name()).await;
        raw.put(&RawSession::new("acme", "7", b"no record")).await.unwrap();
        let undecodable = sessions.get(&SessionKey::new("acme", 7)).await.unwrap_err();
        assert!(matches!(undecodable.kind(), ErrorKind::Decode { .. }), "{undecodable}");
        sessions.put(&Session::new("acme", 8)).await.unwrap();
        let changed = sessions.modify(&SessionKey::new("acme", 8), |session| session.id = 9).await.unwrap_err();
        assert!(matches!(changed.kind(), ErrorKind::KeyChanged), "{changed}");
        let differs = world.store.bucket::<Session>().name(sessions.name()).history(5).await.unwrap_err();
        assert!(matches!(differs.kind(), ErrorKind::Drift { .. }), "{differs}");
        for error in [undecodable, changed, differs] {
            assert_eq!(error.to_string().matches("`Session`").count(), 1, "{error}");
        }
    }

    async fn encode_error_keeps_serializer_message(world: World) {
        let grids: Bucket<Grid> = world.bucket().await;
        let grid = Grid { id: 7, cells: [((1, 2), 3)].into() };
        let error = grids.put(&grid).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Encode { .. }), "{error}");
        assert!(report(&error).contains("key must be a string") && report(&error).contains("`Grid`"), "{error:?}");
    }

    async fn recipe_errors_show_user_given_name(world: World) {
        if world.is_on_a_server() {
            needs!(Locks);
        }
        let name = unique("recipes");
        let locks = world.store.locks(&name).await.unwrap();
        let junk = seen_as::<ForeignRecord>(&world, &name).await;
        let own = ["invoice 42", "charge.42", "node-1", "home", "client 1"];
        let [lock, charge, node, counter, client] = own;
        for (recipe, of, part) in [
            ("lock", lock, "lease"),
            ("once", &name, charge),
            ("group", &name, node),
            ("counters", &name, counter),
            ("rate", &name, client),
            ("election", &name, "lease"),
            ("ids", &name, "next"),
        ] {
            junk.put(&ForeignRecord::new(recipe, of, part, "{]")).await.unwrap();
        }
        let store = &world.store;
        let limiter = store.rate_limiter(&name, kvtyped::recipes::Quota::per_minute(60)).await.unwrap();
        let once = store.once::<String>(&name);
        let group = store.group::<String>(&name);
        let election = store.election::<String>(&name);
        let run = once.run(charge, || async { String::new() }).await.unwrap_err();
        let run = run.kv().expect("it is the library's");
        let text = format!("{run} {run:?}");
        assert!(text.contains(&format!("`{charge}`")) && !text.contains("=kvtyped"), "{text}");
        let errors = [
            (lock, locks.holder(lock).await.err()),
            (charge, once.get(charge).await.err()),
            (node, group.get(node).await.err()),
            (client, limiter.check(client).await.err()),
            (name.as_str(), election.leader().await.err()),
        ];
        for (own, error) in errors {
            let error = error.unwrap_or_else(|| panic!("junk is no record: {own}"));
            let text = format!("{error} {error:?}");
            assert!(text.contains(&format!("`{own}`")) && !text.contains("=kvtyped"), "{own}: {text}");
        }
    }
}

#[tokio::test]
async fn error_text_escapes_control_characters() {
    let forged = "a\r\n2026-11-30 ERROR forged\u{1b}[2K\u{2028}\u{202e}";
    let store = Store::memory();
    let locks = store.locks("jobs").await.unwrap();
    let junk: Bucket<ForeignRecord> = store.bucket().name("jobs").on_drift(Drift::Adopt).await.unwrap();
    for (recipe, name, part) in [("lock", forged, "lease"), ("once", "jobs", forged)] {
        junk.put(&ForeignRecord::new(recipe, name, part, "{]")).await.unwrap();
    }
    let named: Bucket<Named> = store.bucket().await.unwrap();
    let key = Named { name: forged.into(), text: String::new() }.key();
    let errors = [
        store.bucket::<Session>().name(forged).await.unwrap_err(),
        store.delete_bucket(forged).await.unwrap_err(),
        store.locks(forged).await.unwrap_err(),
        store.locks("jobs").owner(forged).await.unwrap().holder(forged).await.unwrap_err(),
        locks.holder(forged).await.unwrap_err(),
        store.once::<String>("jobs").get(forged).await.unwrap_err(),
        store.election::<String>(forged).leader().await.unwrap_err(),
        named.modify(&key, |named| named.text.clear()).await.unwrap_err(),
        Store::connect(format!("nats://{forged}")).await.unwrap_err(),
        Store::connect(format!("nats://127.0.0.1:1?creds={}", "%2Fa%0Ab")).await.unwrap_err(),
        Error::new(ErrorKind::Backend { code: None, detail: forged.into() }),
    ];
    for error in errors {
        for text in [error.to_string(), format!("{error:?}"), error.kind().to_string(), report(&error)] {
            assert!(!text.contains(|c: char| c.is_control() || "\u{2028}\u{202e}".contains(c)), "{text:?}");
        }
    }
}
