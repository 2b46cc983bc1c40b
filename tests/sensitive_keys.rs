//! Keys that are secrets appear in no message, event or span.

use kvtyped::ErrorKind;
use kvtyped::prelude::*;

use crate::support::sentinels::Everything;
use crate::support::{RawSession, on_both_backends, seen_as, unique};

const SECRET: &str = "s3cret-key-sentinel";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "{tenant}.{id}", history = 1, sensitive_key)]
struct Login {
    tenant: String,
    id: String,
    visits: u32,
}

impl Login {
    fn new(visits: u32) -> Self {
        Self { tenant: "acme".into(), id: SECRET.into(), visits }
    }
}

/// Returns all representations of an error, after a check that the error still has its key.
fn shown(error: &kvtyped::Error) -> String {
    assert_eq!(error.key(), Some(format!("acme.{SECRET}").as_str()), "{:?}", error.kind());
    let everything = Everything::default();
    everything.error(error);
    everything.lines().join("\n")
}

on_both_backends! {
    needs Locks;

    async fn errors_hide_sensitive_keys(world: World) {
        let everything = Everything::default();
        let store = world.store.clone().with_traced_keys(true);
        let subscriber = tracing::subscriber::set_default(everything.clone());
        let logins: Bucket<Login> = store.bucket().name(unique("login")).await.unwrap();
        let key = Login::new(0).key();
        let first = logins.create(&Login::new(0)).await.unwrap();
        let second = logins.update(&Login::new(1), first).await.unwrap();

        let mut errors = vec![
            logins.create(&Login::new(0)).await.unwrap_err(),
            logins.update(&Login::new(2), first).await.unwrap_err(),
            logins.modify(&key, |login| login.tenant = "other".into()).await.unwrap_err(),
            logins.delete(&key).if_revision(first).await.unwrap_err(),
            logins.transaction().create(&Login::new(3)).commit().await.unwrap_err(),
            logins.wait_for(&key, |_| false).timeout(Duration::from_millis(10)).await.unwrap_err(),
        ];
        let guard = logins.lock(&key).await.unwrap();
        let locked = logins.lock(&key).wait(Duration::from_millis(10)).await.unwrap_err();
        everything.shown(&guard);
        everything.shown(&locked);
        guard.release().await.unwrap();

        let raw: Bucket<RawSession> = seen_as(&world, logins.name()).await;
        raw.put(&RawSession::new("acme", SECRET, b"no record")).await.unwrap();
        errors.push(logins.get(&key).await.unwrap_err());
        let listed: Vec<_> = logins.list(..).await.unwrap().collect().await;
        errors.extend(listed.into_iter().filter_map(Result::err));
        errors.push(logins.get_many([&key]).await.unwrap_err());
        drop(subscriber);

        assert!(errors.len() >= 9, "{}", errors.len());
        let hashes: Vec<_> = errors.iter().map(shown).collect();
        for text in &hashes {
            assert!(!text.contains(SECRET), "{text}");
            assert!(text.contains(" of #"), "{text}");
        }
        // One key has one hash, so that messages can be related.
        let hash = |text: &str| text.split(" of #").nth(1).map(|rest| rest[..8].to_owned());
        assert!(hashes.windows(2).all(|two| hash(&two[0]) == hash(&two[1])), "{hashes:?}");
        assert!(second > first);
        let lines = everything.lines();
        // The raw bucket of this test has a model without the attribute, and the client traces what it receives.
        let ours = lines.iter().filter(|line| line.starts_with("kvtyped") || line.starts_with("shown"));
        assert!(ours.clone().count() > 5);
        for line in ours {
            assert!(!line.contains(SECRET), "{line}");
        }
    }
}

/// The control: without the attribute, messages show the key.
#[tokio::test]
async fn errors_show_other_keys() {
    let store = Store::memory();
    let sessions: Bucket<RawSession> = store.bucket().await.unwrap();
    let session = RawSession::new("acme", SECRET, b"x");
    sessions.create(&session).await.unwrap();
    let error = sessions.create(&session).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::AlreadyExists));
    assert!(shown(&error).contains(SECRET));
}
