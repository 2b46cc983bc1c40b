//! A message that replaces all records of a bucket, and the setting against it.

use async_nats::{Client, ConnectOptions, HeaderMap};
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Read};

use super::roles::{TestAccounts, block};
use super::work::{Session, SessionKey};
use crate::needs::needs;

/// A site with a tenant of the bucket `sessions`, and one of the bucket `shared`.
async fn site() -> TestAccounts {
    let tenant = block("Tenant");
    let of_shared = tenant.replace("sessions", "shared").replace("_INBOX_acme", "_INBOX_shared");
    TestAccounts::new(&[("acme".into(), tenant), ("shared".into(), of_shared)]).await
}

async fn attacker(site: &TestAccounts, user: &str) -> Client {
    let options = ConnectOptions::with_user_and_password(user.into(), "secret".into());
    options.custom_inbox_prefix(format!("_INBOX_{user}")).connect(site.server().url()).await.expect("it is let in")
}

/// Publishes a rollup under the tenant's own key, alone and as a batch. Returns the replies.
async fn roll_up(client: &Client, bucket: &str, what: &str) -> [String; 2] {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Rollup", what);
    let subject = format!("$KV.{bucket}.acme.1");
    let alone = client.request_with_headers(subject.clone(), headers.clone(), "x".into()).await;
    headers.insert("Nats-Batch-Id", format!("rollup-{what}"));
    headers.insert("Nats-Batch-Sequence", "1");
    headers.insert("Nats-Batch-Commit", "1");
    let batch = client.request_with_headers(subject, headers, "x".into()).await;
    [alone, batch].map(|answer| String::from_utf8_lossy(&answer.expect("it is answered").payload).into_owned())
}

/// The control: in a bucket with default settings, a tenant removes the records of all others.
#[tokio::test]
async fn tenant_rollup_empties_bucket_with_rollups() {
    needs!(Locks);
    let site = site().await;
    let client = attacker(&site, "acme").await;
    assert!(site.sessions.status().await.expect("it has a status").values > 100);
    let [alone, _] = roll_up(&client, "sessions", "all").await;
    assert!(alone.contains("\"seq\""), "{alone}");
    assert_eq!(site.sessions.status().await.expect("it has a status").values, 1);
    assert!(site.sessions.get(&SessionKey::new("beta", 1)).read(Read::Leader).await.expect("it is read").is_none());
}

#[tokio::test]
async fn rollup_is_rejected_in_bucket_without_rollups() {
    needs!(Transactions);
    let site = site().await;
    let admin = site.connect("admin", "").await;
    let shared: Bucket<Session> =
        admin.bucket().name("shared").rollups(false).description("of several tenants").await.expect("it is made");
    for tenant in ["acme", "beta"] {
        shared.put_many((1..=5).map(|id| Session::new(tenant, id)).collect::<Vec<_>>().iter()).await.expect("written");
    }
    let client = attacker(&site, "shared").await;
    for what in ["all", "sub"] {
        for answer in roll_up(&client, "shared", what).await {
            assert!(answer.contains("rollup"), "{what}: {answer}");
        }
    }
    assert_eq!(shared.count(..).await.expect("they are counted"), 10, "nothing is lost");
    let beta = SessionKey::filter().tenant("beta");
    assert_eq!(shared.count(beta).await.expect("they are counted"), 5, "nothing of another tenant is lost");

    // A program without the setting reports drift. An update with `rollups(false)` keeps the setting, and disables the
    // markers of a bucket.
    let unset = admin.bucket::<Session>().name("shared").must_exist().await.expect_err("the setting differs");
    assert!(unset.to_string().contains("allow_rollup_hdrs"), "{unset}");
    let again = admin.bucket().name("shared").rollups(false).description("changed").on_drift(Drift::Update);
    let again: Bucket<Session> = again.await.expect("it is changed");
    assert_eq!(again.config().rollups, Some(false));
    let with_markers: Bucket<Session> = admin.bucket().name("sessions").must_exist().await.expect("it opens");
    assert!(with_markers.config().limit_markers.is_some());
    let without: Bucket<Session> =
        admin.bucket().name("sessions").rollups(false).on_drift(Drift::Update).await.expect("it is changed");
    assert_eq!((without.config().rollups, without.config().limit_markers), (Some(false), None));
    let [alone, _] = roll_up(&attacker(&site, "acme").await, "sessions", "all").await;
    assert!(alone.contains("rollup"), "{alone}");
}

/// The costs of the setting, and the verbs that still work.
async fn costs(store: Store) {
    let shared: Bucket<Session> = store.bucket().name("shared").rollups(false).await.expect("it is made");
    let one = Session::new("acme", 1);
    let key = one.key();
    let revision = shared.put(&one).await.expect("it is written");
    let (ttl, marked) = (Duration::from_secs(60), shared.transaction());
    let refused: [(&str, Error); 9] = [
        ("purge", shared.purge(&key).await.expect_err("refused")),
        ("purge if", shared.purge(&key).if_revision(revision).await.expect_err("refused")),
        ("transform", shared.transform(&key, |_| Change::Purge).await.expect_err("refused")),
        ("a TTL", shared.put(&one).ttl(ttl).await.expect_err("refused")),
        ("a new TTL", shared.touch(&key).ttl(ttl).await.expect_err("refused")),
        ("TTLs", shared.put_many([&one]).ttl(ttl).await.expect_err("refused")),
        ("a TTL in a batch", marked.put(&one).ttl(ttl).commit().await.map(drop).expect_err("refused")),
        ("lock", shared.lock(&key).await.map(drop).expect_err("refused")),
        ("locks", store.locks("shared").await.map(drop).expect_err("refused")),
    ];
    for (what, error) in refused {
        assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{what}: {error:?}");
        assert!(error.to_string().contains("rollups"), "{what}: {error}");
        assert_eq!(error.outcome(), Outcome::NotApplied, "{what}: {error}");
    }
    let both = store.bucket::<Session>().name("both").rollups(false).limit_markers(Duration::from_secs(60));
    let error = both.await.expect_err("refused");
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error:?}");

    assert_eq!(shared.modify(&key, |session| session.visits += 1).await.expect("it is changed").visits, 1);
    shared.transaction().put(&Session::new("acme", 2)).delete(&key).commit().await.expect("it is committed");
    assert!(shared.get(&key).await.expect("it is read").is_none());
    shared.compact(Duration::ZERO).await.expect("it is compacted");
}

#[tokio::test]
async fn rollups_off_rejects_purges_and_leases_in_memory() {
    costs(Store::memory()).await;
}

#[tokio::test]
async fn rollups_off_rejects_purges_and_leases_on_server() {
    needs!(Transactions);
    let server = harness::Server::builder().start().await;
    costs(Store::connect(server.url()).await.expect("it connects")).await;
}
