//! Harm that a tenant can do to the others of its bucket, as documented. A failure here means that servers improved.

use async_nats::{Client, ConnectOptions, HeaderMap};
use kvtyped::ErrorKind;
use kvtyped::prelude::*;
use serde_json::{Value, json};

use super::roles::{TestAccounts, block};
use super::work::Session;
use crate::needs::needs;

/// The number of batches of one bucket that a server keeps open.
const BATCHES: usize = 50;

async fn site() -> TestAccounts {
    let tenant = block("Tenant");
    let of_full = tenant.replace("sessions", "full").replace("_INBOX_acme", "_INBOX_full");
    TestAccounts::new(&[("acme".into(), tenant), ("full".into(), of_full)]).await
}

async fn client(site: &TestAccounts, user: &str) -> Client {
    let options = ConnectOptions::with_user_and_password(user.into(), "secret".into());
    let inbox = if user == "admin" { "_INBOX".to_owned() } else { format!("_INBOX_{user}") };
    options.custom_inbox_prefix(inbox).connect(site.server().url()).await.expect("it is let in")
}

async fn send(client: &Client, subject: &str, headers: &[(&'static str, &str)], body: &Value) -> Value {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = client.request_with_headers(subject.to_owned(), map, body.into()).await.expect("it is answered");
    serde_json::from_slice(&answer.payload).unwrap_or_default()
}

#[tokio::test]
async fn open_batches_block_batches_of_other_tenants() {
    needs!(Transactions);
    let site = site().await;
    let (acme, admin) = (client(&site, "acme").await, client(&site, "admin").await);
    let open = async |client: &Client, id: &str, key: &str| {
        let headers = [("Nats-Batch-Id", id), ("Nats-Batch-Sequence", "1")];
        send(client, &format!("$KV.sessions.{key}"), &headers, &Value::Null).await
    };
    assert!(open(&admin, "first", "beta.x").await["error"].is_null(), "the control: one is opened");
    for batch in 1..BATCHES {
        let opened = open(&acme, &format!("b{batch}"), "acme.x").await;
        assert!(opened["error"].is_null(), "{batch}: {opened}");
    }
    let refused = open(&admin, "last", "beta.x").await;
    assert!(!refused["error"].is_null(), "{refused}");
}

#[tokio::test]
async fn tenant_can_replace_consumers_of_other_tenants() {
    needs!(Locks);
    let site = site().await;
    let (acme, admin) = (client(&site, "acme").await, client(&site, "admin").await);
    let create = async |client: &Client, name: &str, filter: &str| {
        let subject = format!("$JS.API.CONSUMER.CREATE.KV_sessions.{name}.{filter}");
        let config = json!({ "name": name, "filter_subject": filter, "ack_policy": "none", "inactive_threshold": 60_000_000_000_u64 });
        send(client, &subject, &[], &json!({ "stream_name": "KV_sessions", "config": config })).await
    };
    for number in 0..200 {
        let created = create(&acme, &format!("many-{number}"), "$KV.sessions.acme.>").await;
        assert!(created["error"].is_null(), "{number}: {created}");
    }

    let theirs = create(&admin, "theirs", "$KV.sessions.beta.>").await;
    assert_eq!(theirs["config"]["filter_subject"], "$KV.sessions.beta.>", "{theirs}");
    let taken = create(&acme, "theirs", "$KV.sessions.acme.>").await;
    assert_eq!(taken["config"]["filter_subject"], "$KV.sessions.acme.>", "it is another now: {taken}");
    let deleted = send(&acme, "$JS.API.CONSUMER.DELETE.KV_sessions.theirs", &[], &Value::Null).await;
    assert_eq!(deleted["success"], true, "{deleted}");
}

#[tokio::test]
async fn tenant_can_fill_shared_bucket() {
    needs!(Locks);
    let site = site().await;
    let admin = site.connect("admin", "").await;
    let full: Bucket<Session> = admin.bucket().name("full").max_bytes(100_000).await.expect("it is made");
    full.put(&Session::new("beta", 1)).await.expect("the control: there is room");
    let tenant = client(&site, "full").await;
    let large = json!("x".repeat(60_000));
    let answers = [1, 2].map(async |key| send(&tenant, &format!("$KV.full.acme.{key}"), &[], &large).await);
    let [first, second] = answers;
    let (first, second) = (first.await, second.await);
    assert!(first["error"].is_null() && !second["error"].is_null(), "{first} {second}");
    let small = json!("x".repeat(39_000));
    assert!(send(&tenant, "$KV.full.acme.3", &[], &small).await["error"].is_null());
    let error = full.put(&Session { text: "x".repeat(1_000), ..Session::new("beta", 2) }).await.expect_err("no room");
    assert!(matches!(error.kind(), ErrorKind::BucketFull), "{error:?}");
}

#[tokio::test]
async fn preconditions_reveal_foreign_revisions() {
    needs!(Locks);
    let site = site().await;
    let theirs = Session::new("beta", 1);
    let revision = site.sessions.get(&theirs.key()).await.expect("it is read").expect("it is there").revision();
    let guard = [
        ("Nats-Expected-Last-Subject-Sequence", "0"),
        ("Nats-Expected-Last-Subject-Sequence-Subject", "$KV.sessions.beta.1"),
    ];
    let refused = send(&client(&site, "acme").await, "$KV.sessions.acme.x", &guard, &Value::Null).await;
    let reported = refused["error"]["description"].as_str().unwrap_or_default().to_owned();
    assert!(reported.ends_with(&format!(": {revision}")), "{refused}");
}
