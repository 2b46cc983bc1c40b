//! Operation ids cannot be predicted, and a foreign id never counts as an acknowledgement.

use async_nats::{Client, ConnectOptions, HeaderMap};
use harness::Proxy;
use kvtyped::backend::nats::NatsBackend;
use kvtyped::backend::{Backend, Batch, Deadline, Write, WriteKind};
use kvtyped::config::BucketConfig;
use kvtyped::connect::NatsOptions;
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Key};

use super::PATIENT;
use super::roles::{TestAccounts, block};
use super::work::Session;
use crate::needs::needs;
use crate::support::unique;

/// The header of an operation id.
const MESSAGE_ID: &str = "Nats-Msg-Id";

/// The number of following ids that the attacker occupies.
const GUESSES: u128 = 500;

/// A client with the permissions of the tenant `acme`.
async fn attacker(site: &TestAccounts) -> Client {
    let options = ConnectOptions::with_user_and_password("acme".into(), "secret".into());
    options.custom_inbox_prefix("_INBOX_acme").connect(site.server().url()).await.expect("it is let in")
}

/// Stores a message under this id, so that the server treats the next message with this id as a duplicate.
async fn occupy(client: &Client, subject: &str, id: &str, increment: bool) {
    let mut headers = HeaderMap::new();
    headers.insert(MESSAGE_ID, id);
    if increment {
        headers.insert("Nats-Incr", "0");
    }
    let answer = client.request_with_headers(subject.to_owned(), headers, "".into()).await;
    let answer = answer.expect("it is answered");
    let text = String::from_utf8_lossy(&answer.payload).into_owned();
    assert!(!text.contains("error"), "{text}");
}

/// The ids that follow a counter-based id.
fn following(id: &str) -> Vec<String> {
    // The counter is in the last digits, wherever it starts.
    let (process, counter) = id.split_at(id.len().min(24));
    let next = |from: &str, by: u128| {
        let number = u128::from_str_radix(from, 16).unwrap_or_default().wrapping_add(by);
        format!("{number:x}")
    };
    let apart = (1..=GUESSES).map(|by| format!("{process}{}", next(counter, by)));
    let whole = (1..=GUESSES).map(|by| format!("{:0>32}", next(id, by)));
    apart.chain(whole).collect()
}

/// The id in the newest message of a subject.
async fn stored_id(client: &Client, stream: &str, subject: &str) -> String {
    let answer = client.request(format!("$JS.API.DIRECT.GET.{stream}.{subject}"), "".into()).await;
    let headers = answer.expect("it is answered").headers.expect("it has headers");
    headers.get(MESSAGE_ID).expect("it has an id").to_string()
}

/// A reader of one record cannot make the writes of others fail.
#[tokio::test]
async fn future_operation_ids_cannot_be_occupied() {
    needs!(Transactions);
    let site = TestAccounts::new(&[("acme".into(), block("Tenant"))]).await;
    let client = attacker(&site).await;
    let mine = site.sessions.create(&Session::new("acme", 1_000)).await.expect("it is written");
    site.sessions.update(&Session::new("acme", 1_000), mine).await.expect("it is written");
    let id = stored_id(&client, "KV_sessions", "$KV.sessions.acme.1000").await;
    for id in following(&id) {
        occupy(&client, "$KV.sessions.acme.x", &id, false).await;
    }

    let theirs = Session::new("beta", 2_000);
    let first = site.sessions.create(&theirs).await.expect("a create is written");
    let second = site.sessions.update(&theirs, first).await.expect("an update is written");
    site.sessions.modify(&theirs.key(), |session| session.visits += 1).await.expect("a change is written");
    site.sessions
        .transaction()
        .create(&Session::new("beta", 2_001))
        .create(&Session::new("beta", 2_002))
        .commit()
        .await
        .expect("a transaction is written");
    site.sessions.lock(&theirs.key()).await.expect("a lock is taken").release().await.expect("it is given back");
    assert!(second > first);
}

/// Two ids share no prefix, so one does not predict the other.
#[test]
fn operation_ids_share_no_long_prefix() {
    let ids: Vec<_> = (0..64).map(|_| kvtyped::backend::OperationId::generate().as_str().to_owned()).collect();
    let shared = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())), "{ids:?}");
    for (at, id) in ids.iter().enumerate() {
        assert!(ids[..at].iter().all(|other| shared(id, other) < 16), "{ids:?}");
    }
}

/// A server, and a store that reaches it through an attacker who chooses the ids.
async fn between() -> (Proxy, Client, Store, NatsBackend) {
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let store = Store::connect(proxy.url()).timeout(PATIENT).await.expect("it connects");
    let backend = NatsBackend::connect(&proxy.url(), NatsOptions::new()).await.expect("it connects");
    (proxy, async_nats::connect(server.url()).await.expect("it connects"), store, backend)
}

/// An id of the usual length.
fn used_id() -> String {
    kvtyped::backend::OperationId::generate().as_str().to_owned()
}

/// Asserts that the error reports an unknown outcome.
fn is_unknown<T>(what: &str, result: Result<T, Error>) {
    let Err(error) = result else { panic!("{what} is not acknowledged") };
    assert_eq!(error.outcome(), Outcome::Unknown, "{what}: {error:?}");
    assert!(matches!(error.kind(), ErrorKind::Backend { .. }), "{what}: {error:?}");
}

#[tokio::test]
async fn increment_under_foreign_id_has_unknown_outcome() {
    needs!(Counters);
    let (proxy, client, store, _) = between().await;
    let name = unique("hits");
    let counters = store.counters(name.as_str()).await.expect("they open");
    assert_eq!(counters.add("home", 1).await.expect("it is counted"), 1);
    let id = used_id();
    occupy(&client, &format!("$KV.{name}.other"), &id, true).await;
    proxy.set_message_id(Some(&id));
    for _ in 0..5 {
        is_unknown("an addition", counters.add("home", 1).await);
    }
    proxy.set_message_id(None);
    assert_eq!(counters.add("home", 1).await.expect("it is counted"), 2, "none of the five was counted");
}

#[tokio::test]
async fn write_under_foreign_id_has_unknown_outcome() {
    needs!(Transactions);
    let (proxy, client, _, backend) = between().await;
    let deadline = || Deadline::after(PATIENT);
    let name = unique("ids");
    let bucket = backend.create(BucketConfig::new(&name), deadline()).await.expect("it is made");
    let id = used_id();
    occupy(&client, &format!("$KV.{name}.other"), &id, false).await;
    let put = |key: &str| Write::new(Key::new(key).expect("it is a key"), WriteKind::Put("value".into()));
    proxy.set_message_id(Some(&id));
    is_unknown("a write", bucket.write(put("a").if_revision(Revision::ZERO), deadline()).await);
    let writes = vec![put("b").if_revision(Revision::ZERO), put("c").if_revision(Revision::ZERO)];
    let batch = Batch { writes, ..Batch::default() };
    is_unknown("a batch", bucket.commit(batch, deadline()).await);
}
