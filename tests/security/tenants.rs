//! Users who are restricted to a key prefix.

use async_nats::ConnectOptions;
use kvtyped::connect::NatsOptions;
use kvtyped::prelude::*;
use kvtyped::{Filter, Read, ReadBucket};

use super::PATIENT;
use super::roles::{Denied, TestAccounts, block};
use super::work::{self, Session, SessionKey};
use crate::needs::needs;
use crate::support::soon;

/// Returns a site with two tenants of one bucket. The second tenant has the permissions of the first with its own name.
async fn site() -> TestAccounts {
    let acme = block("Tenant");
    let beta = acme.replace("acme", "beta");
    TestAccounts::new(&[("acme".into(), acme), ("beta".into(), beta)]).await
}

async fn connect(site: &TestAccounts, tenant: &str) -> (Store, Bucket<Session>) {
    let url = format!("nats://{tenant}:secret@{}?inbox=_INBOX_{tenant}&restricted=true", site.server().addr());
    let store = Store::connect(url).timeout(PATIENT).await.expect("it is let in");
    let sessions = store.bucket().await.expect("it may be opened");
    (store, sessions)
}

/// P39.
#[tokio::test]
async fn tenant_works_within_its_prefix() {
    needs!(Locks);
    let site = site().await;
    let (_acme, sessions) = connect(&site, "acme").await;
    let (_other, others) = connect(&site, "acme").await;
    work::reading(&sessions, "acme").await.expect("it may be read");
    work::writing(&sessions, "acme", 1_000).await.expect("it may be written");
    work::contending(&[&sessions, &others], "acme", 5_000).await.expect("it may be changed");
    // Several filters are merged into one that is not wider than the tenant's prefix.
    let two = vec![work::of("acme").id(1), work::of("acme").id(2)];
    let listed: Vec<_> = sessions.list(two.clone()).await.unwrap().try_collect().await.unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(sessions.cache(two).await.expect("it may be watched").len(), 2);
    site.watch_goes_on(&sessions, "acme").await;
    assert_eq!(site.violations("acme"), [""; 0], "nothing was denied");
}

/// P38, P39.
#[tokio::test]
async fn tenant_cannot_access_other_tenants() {
    needs!(Locks);
    let site = site().await;
    let (store, sessions) = connect(&site, "acme").await;
    let before = everything(&site.sessions, "beta").await;
    let denied = Denied::default();
    let theirs = Session::new("beta", 1);
    let key = theirs.key();
    denied.is("put", sessions.put(&theirs)).await;
    denied.is("create", sessions.create(&Session::new("beta", 1_000))).await;
    denied.is("update", sessions.update(&theirs, Revision::new(1))).await;
    denied.is("delete", sessions.delete(&key)).await;
    denied.is("purge", sessions.purge(&key)).await;
    denied.is("put_many", sessions.put_many([&theirs, &Session::new("acme", 1)])).await;
    denied.is("get", sessions.get(&key)).await;
    denied.is("get of the leader", sessions.get(&key).read(Read::Leader)).await;
    denied.is("get of a revision", sessions.get(&key).at(Revision::new(100))).await;
    denied.is("get_many", sessions.get_many((1..=9).map(|id| SessionKey::new("beta", id)))).await;
    denied.is("history", sessions.history(&key)).await;
    denied.is("count", sessions.count(work::of("beta"))).await;
    denied.is("live", sessions.live(&key)).await;
    denied.is("cache", sessions.cache(work::of("beta"))).await;
    denied.is("cache of all", sessions.cache(..)).await;
    for (what, filter) in [("of another", Filter::from(work::of("beta"))), ("of all", Filter::from(..))] {
        let list = async { sessions.list(filter.clone()).await?.try_collect::<Vec<_>>().await };
        denied.is(&format!("list {what}"), list).await;
        let keys = async { sessions.keys(filter.clone()).await?.try_collect::<Vec<_>>().await };
        denied.is(&format!("keys {what}"), keys).await;
        let watch = async { soon(&mut sessions.watch(filter.clone()).await?).await };
        denied.is(&format!("watch {what}"), watch).await;
    }
    let both = vec![work::of("acme").id(1), work::of("beta").id(1)];
    denied.is("list of a key of each", async { sessions.list(both).await?.try_collect::<Vec<_>>().await }).await;
    denied.is("compact", sessions.compact(Duration::ZERO)).await;
    denied.is("another bucket", store.bucket::<Session>().name("closed")).await;
    denied.is("the names of buckets", store.buckets()).await;
    denied.tell("tenant");
    assert_eq!(everything(&site.sessions, "beta").await, before, "nothing was touched");
}

/// Without the restricted option, a restricted user gets the same results, after some denied requests.
#[tokio::test]
async fn tenant_works_without_restricted_option() {
    needs!(Locks);
    let site = site().await;
    let open = async || {
        let store = site.connect("acme", "_INBOX_acme").await;
        let sessions: Bucket<Session> = store.bucket().await.expect("it may be opened");
        (store, sessions)
    };
    let ((_one, sessions), (_two, others)) = tokio::join!(open(), open());
    work::reading(&sessions, "acme").await.expect("it may be read");
    work::writing(&sessions, "acme", 1_000).await.expect("it may be written");
    work::contending(&[&sessions, &others], "acme", 5_000).await.expect("it may be changed");
    site.watch_goes_on(&sessions, "acme").await;
    assert!(!site.violations("acme").is_empty(), "the control: it asked for more than it may");
}

/// Documented gaps of the permissions. If this test fails, servers have improved.
#[tokio::test]
async fn raw_requests_bypass_tenant_permissions() {
    needs!(Locks);
    let site = site().await;
    let options = ConnectOptions::with_user_and_password("acme".into(), "secret".into());
    let client = options.custom_inbox_prefix("_INBOX_acme").connect(site.server().url()).await.unwrap();
    let all = client.request("$JS.API.STREAM.INFO.KV_sessions", r#"{"subjects_filter":">"}"#.into()).await.unwrap();
    let all = String::from_utf8_lossy(&all.payload).into_owned();
    assert!(all.contains("$KV.sessions.beta.1"), "the reply names keys of another tenant");

    let before = everything(&site.sessions, "beta").await;
    client.publish_with_reply("$JS.API.STREAM.INFO.KV_sessions", "$KV.sessions.beta.1", "".into()).await.unwrap();
    client.flush().await.unwrap();
    let changed = harness::wait::until("the answer is stored", PATIENT, async || {
        (everything(&site.sessions, "beta").await != before).then_some(())
    });
    changed.await;
}

/// Returns the revisions of all keys of a tenant, independent of the values.
async fn everything(sessions: &ReadBucket<Session>, tenant: &str) -> Vec<Revision> {
    let keys = (1..=work::RECORDS).map(|id| SessionKey::new(tenant, id));
    let all = sessions.get_many(keys).read(Read::Leader).results().await.expect("they are read");
    all.iter()
        .map(|entry| entry.as_ref().ok().and_then(Option::as_ref).map_or(Revision::ZERO, Entry::revision))
        .collect()
}

/// The restricted option is also available for an application's own connection.
#[tokio::test]
async fn application_client_supports_restricted_option() {
    needs!(Locks);
    let site = site().await;
    let options = ConnectOptions::with_user_and_password("acme".into(), "secret".into());
    let client = options.custom_inbox_prefix("_INBOX_acme").connect(site.server().url()).await.unwrap();
    let store = Store::from_client_with(client, NatsOptions::new().restricted(true)).unwrap();
    let sessions: Bucket<Session> = store.bucket().await.expect("it may be opened");
    work::reading(&sessions, "acme").await.expect("it may be read");
    assert_eq!(site.violations("acme"), [""; 0], "nothing was denied");
}
