//! Operations that a server denies to a user.

use harness::Server;
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, KvModel, Read};
use tokio::sync::OnceCell;

use super::{PATIENT, SOON};
use crate::needs::needs;
use crate::support::{LATE, Session, in_time};

/// Returns a server with five buckets, an administrator, and a restricted user `guest`. The guest cannot write
/// `secret`, read `hidden`, open `closed`, or watch `unwatched`.
async fn guarded() -> &'static Server {
    static GUARDED: OnceCell<Server> = OnceCell::const_new();
    let start = async || {
        let config = r#"
            authorization { users: [
                { user: admin, password: admin }
                { user: guest, password: guest, permissions: { publish: { deny: [
                    "$KV.secret.>",
                    "$JS.API.DIRECT.GET.KV_hidden", "$JS.API.DIRECT.GET.KV_hidden.>", "$JS.API.STREAM.MSG.GET.KV_hidden",
                    "$JS.API.CONSUMER.CREATE.KV_hidden.>",
                    "$JS.API.STREAM.INFO.KV_closed",
                    "$JS.API.CONSUMER.CREATE.KV_unwatched.>",
                ] } } }
            ] }
        "#;
        let server = Server::builder().config(config).auth().start().await;
        let store = connect(&server, "admin").await;
        for bucket in ["secret", "hidden", "closed", "open", "unwatched"] {
            let sessions: Bucket<Session> = store.bucket().name(bucket).await.expect("the bucket opens");
            sessions.put(&Session::new("acme", 7)).await.expect("the admin may write");
        }
        server
    };
    GUARDED.get_or_init(start).await
}

fn url(server: &Server, user: &str, password: &str) -> String {
    format!("nats://{user}:{password}@{}", server.addr())
}

async fn connect(server: &Server, user: &str) -> Store {
    // JetStream may still be starting.
    Store::connect(url(server, user, user)).timeout(PATIENT).await.expect("the user is let in")
}

async fn adopt<T: KvModel>(store: &Store, bucket: &str) -> Result<Bucket<T>, Error> {
    store.bucket().name(bucket).must_exist().on_drift(Drift::Adopt).await
}

fn assert_denied(what: &str, error: Option<Error>, subject: &str) {
    let error = error.unwrap_or_else(|| panic!("{what} is denied"));
    let ErrorKind::PermissionDenied { subject: denied } = error.kind() else { panic!("{what}: {error}") };
    assert_eq!(denied, subject, "{what}");
    assert_eq!(error.outcome(), Outcome::NotApplied, "{what}: {error}");
}

/// P38, P4.
#[tokio::test]
async fn a_denied_write_is_told_at_once_and_others_go_on() {
    let server = guarded().await;
    let store = connect(server, "guest").await;
    let (secret, open) = tokio::join!(adopt::<Session>(&store, "secret"), adopt::<Session>(&store, "open"));
    let (secret, open) = (secret.expect("it may be looked at"), open.expect("it may be looked at"));
    let session = Session::new("acme", 7).visited(1);
    let key = session.key();
    let revision = secret.get(&key).await.unwrap().expect("it may be read").revision();
    let modify = secret.modify(&key, |session| session.visits += 1);
    let (put, create, update, delete, modify, allowed) = tokio::join!(
        in_time("put", SOON, secret.put(&session)),
        in_time("create", SOON, secret.create(&session)),
        in_time("update", SOON, secret.update(&session, revision)),
        in_time("delete", SOON, secret.delete(&key)),
        in_time("modify", SOON, modify),
        in_time("another put", SOON, open.put(&session)),
    );
    for (what, error) in [
        ("put", put.err()),
        ("create", create.err()),
        ("update", update.err()),
        ("delete", delete.err()),
        ("modify", modify.err()),
    ] {
        assert_denied(what, error, "$KV.secret.acme.7");
    }
    allowed.expect("this one is not denied");
    let stored = secret.get(&key).read(Read::Leader).await.unwrap().expect("there");
    assert_eq!((stored.revision(), stored.visits), (revision, 0), "nothing was written");
}

/// P38.
#[tokio::test]
async fn a_denied_read_is_told_at_once() {
    let server = guarded().await;
    let store = connect(server, "guest").await;
    let hidden = adopt::<Session>(&store, "hidden").await.expect("it may be looked at");
    let key = Session::new("acme", 7).key();
    let list = async { hidden.list(..).await?.try_collect::<Vec<_>>().await };
    let (any, leader, list, closed) = tokio::join!(
        in_time("get", SOON, hidden.get(&key)),
        in_time("get", SOON, hidden.get(&key).read(Read::Leader)),
        in_time("list", SOON, list),
        in_time("bucket", SOON, adopt::<Session>(&store, "closed")),
    );
    assert_denied("get", any.err(), "$JS.API.DIRECT.GET.KV_hidden.$KV.hidden.acme.7");
    assert_denied("get of the leader", leader.err(), "$JS.API.STREAM.MSG.GET.KV_hidden");
    let list = list.expect_err("it is denied");
    assert!(matches!(list.kind(), ErrorKind::PermissionDenied { .. }), "{list}");
    assert_denied("bucket", closed.err(), "$JS.API.STREAM.INFO.KV_closed");
}

/// P38.
#[tokio::test]
async fn wrong_credentials_are_told_at_once() {
    let server = guarded().await;
    for url in [url(server, "guest", "wrong"), server.url(), format!("nats://token@{}", server.addr())] {
        let start = tokio::time::Instant::now();
        let error = Store::connect(url).timeout(PATIENT).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unauthorized), "{error}");
        assert!(start.elapsed() < SOON + LATE, "it took {:?}", start.elapsed());
    }
}

/// P38, the control: the plain client gets no reply to a denied write.
#[tokio::test]
async fn naive_put_without_permission_times_out() {
    let server = guarded().await;
    let options = async_nats::ConnectOptions::with_user_and_password("guest".into(), "guest".into());
    let client = options.connect(server.url()).await.unwrap();
    let jetstream = async_nats::jetstream::ContextBuilder::new().timeout(2 * SOON).build(client);
    let secret = jetstream.get_key_value("secret").await.unwrap();
    let start = tokio::time::Instant::now();
    secret.put("acme.8", "x".into()).await.unwrap_err();
    assert!(start.elapsed() >= 2 * SOON, "the error took {:?}", start.elapsed());
}

/// A user without permission to watch gets an error instead of waiting for a lock, and does not block other waiters.
#[tokio::test]
async fn one_who_may_not_watch_does_not_wait_for_a_lock() {
    needs!(Locks);
    let server = guarded().await;
    let (admin, guest) = tokio::join!(connect(server, "admin"), connect(server, "guest"));
    let (admin, guest) = tokio::join!(adopt::<Session>(&admin, "unwatched"), adopt::<Session>(&guest, "unwatched"));
    let (admin, guest) = (admin.expect("it may be looked at"), guest.expect("it may be looked at"));
    let key = Session::new("acme", 7).key();
    // The lock is free, so no watch is necessary.
    guest.lock(&key).await.unwrap().release().await.unwrap();
    // A fair lock, so that the holder knows its waiters.
    let guard = admin.lock(&key).fair().await.unwrap();
    for _ in 0..2 {
        let error = in_time("lock", PATIENT, guest.lock(&key)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::PermissionDenied { .. }), "{error}");
    }
    guard.release().await.unwrap();
    in_time("lock", PATIENT, admin.lock(&key)).await.unwrap().release().await.unwrap();
}
