//! Temporary account errors: watches and the handles above them report the error once, retry, and catch up.
//!
//! Each fault is a reload of the configuration of a running server.

use std::mem::discriminant;
use std::sync::{Arc, Mutex};

use harness::{Server, wait};
use kvtyped::prelude::*;
use kvtyped::recipes::{GroupView, Member};
use kvtyped::{Error, ErrorKind, Event};

use crate::needs::needs;
use crate::support::{SOON, Session, SessionKey};

const SECOND: Duration = Duration::from_secs(1);

/// The timeout of the guest's operations. It is short, so that every fault outlasts it.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A fault: the text that the reload replaces in the configuration of the server, and whether the administrator can
/// still write.
struct Fault {
    sound: &'static str,
    faulty: &'static str,
    spares_admin: bool,
}

const REVOKED: Fault = Fault {
    sound: "{ user: guest, password: secret, permissions: { publish: \">\", subscribe: \">\" } }",
    faulty: "{ user: nobody, password: secret }",
    spares_admin: true,
};

const PASSWORD: Fault =
    Fault { sound: "{ user: guest, password: secret,", faulty: "{ user: guest, password: other,", spares_admin: true };

const DENIED: Fault =
    Fault { sound: "publish: \">\"", faulty: "publish: { deny: [\"$JS.API.>\", \"$KV.>\"] }", spares_admin: true };

/// Neither requests nor their replies pass.
const DEAF: Fault = Fault { sound: "subscribe: \">\"", faulty: "subscribe: { deny: \">\" }", spares_admin: true };

const DISABLED: Fault = Fault { sound: "jetstream: enabled", faulty: "jetstream: disabled", spares_admin: false };

const CONFIG: &str = r#"
    accounts { APP {
        jetstream: enabled
        users: [
            { user: admin, password: secret }
            { user: guest, password: secret, permissions: { publish: ">", subscribe: ">" } }
        ]
    } }
"#;

async fn connect(server: &Server, user: &str) -> Store {
    let store = Store::connect(format!("nats://{user}:secret@{}", server.addr())).timeout(SOON);
    store.await.expect("the user is let in").with_timeout(TIMEOUT)
}

async fn jetstream(server: &Server) -> async_nats::jetstream::Context {
    let client = async_nats::ConnectOptions::with_user_and_password("admin".into(), "secret".into());
    async_nats::jetstream::new(client.connect(server.url()).await.expect("the administrator is let in"))
}

/// Deletes the consumers of a bucket, so that its watches need new ones.
async fn end_sessions(server: &Server, bucket: &str) {
    let jetstream = jetstream(server).await;
    let stream = jetstream.get_stream(format!("KV_{bucket}")).await.expect("the bucket exists");
    let names: Vec<_> = stream.consumer_names().try_collect().await.expect("the consumers are listed");
    for name in &names {
        stream.delete_consumer(name).await.expect("the consumer is deleted");
    }
}

/// A bucket of the guest, with every kind of watch.
struct Guest {
    server: Server,
    admin: Store,
    sessions: Bucket<Session>,
    store: Store,
    cache: Cache<Session>,
    live: Live<Session>,
    view: GroupView<String>,
    watched: Arc<Mutex<Watched>>,
    _task: tokio::task::JoinHandle<()>,
    _member: Member<String>,
}

/// The events and errors of the guest's watch.
#[derive(Default)]
struct Watched {
    last: Option<Session>,
    errors: Vec<Error>,
    ended: bool,
}

impl Guest {
    async fn new() -> Self {
        let server = Server::builder().config(CONFIG).auth().start().await;
        let admin = connect(&server, "admin").await;
        let opened = wait::until("JetStream starts", SOON, async || admin.bucket::<Session>().await.ok()).await;
        opened.put(&Session::new("acme", 1)).await.expect("the administrator may write");
        let member = admin.group("nodes").join("one", &"one".to_owned()).await.expect("the administrator may join");
        let store = connect(&server, "guest").await;
        let guest: Bucket<Session> = store.bucket().await.expect("the guest may read");
        let cache = guest.cache(..).await.expect("the cache opens");
        let live = guest.live(&SessionKey::new("acme", 1)).await.expect("the value opens");
        let view = store.group("nodes").view().await.expect("the view opens");
        let mut events = guest.watch(..).await.expect("the watch begins");
        let watched = Arc::<Mutex<Watched>>::default();
        let sink = Arc::clone(&watched);
        let task = tokio::spawn(async move {
            while let Some(item) = events.next().await {
                let mut watched = sink.lock().expect("no panic");
                match item {
                    Ok(Event::Put(entry)) => watched.last = Some(entry.into_value()),
                    Ok(_) => {}
                    Err(error) => watched.errors.push(error),
                }
            }
            sink.lock().expect("no panic").ended = true;
        });
        let guest =
            Self { server, admin, sessions: opened, store, cache, live, view, watched, _task: task, _member: member };
        guest.catches_up(1).await;
        guest
    }

    /// Waits until every handle of the guest has this value.
    async fn catches_up(&self, visits: u32) {
        let key = SessionKey::new("acme", 1);
        let caught_up = wait::within(SOON, async || {
            let cached = self.cache.get(&key).is_some_and(|entry| entry.visits == visits);
            let watched = self.watched.lock().expect("no panic").last.as_ref().map(|last| last.visits);
            (cached && self.live.load().visits == visits && watched == Some(visits)).then_some(())
        });
        if visits == 1 {
            self.write(visits).await;
        }
        assert!(
            caught_up.await.is_some(),
            "cache: {:?} {:?}, live: {:?} {:?}, watch: {:?}",
            self.cache.get(&key),
            self.cache.last_error(),
            self.live,
            self.live.last_error(),
            self.watched.lock().expect("no panic").errors,
        );
    }

    async fn write(&self, visits: u32) {
        let session = Session::new("acme", 1).visited(visits);
        wait::until("the administrator writes", SOON, async || self.sessions.put(&session).await.ok()).await;
    }

    /// Runs one fault. Every handle must report the fault, and catch up after its end.
    async fn survives(mut self, fault: &Fault, is_expected: impl Fn(&ErrorKind) -> bool) {
        self.server.reload(fault.sound, fault.faulty).await;
        if fault.spares_admin {
            end_sessions(&self.server, self.sessions.name()).await;
            end_sessions(&self.server, "nodes").await;
        }
        let reported = wait::within(SOON, async || {
            let reported = !self.watched.lock().expect("no panic").errors.is_empty();
            (reported && self.cache.last_error().is_some() && self.live.last_error().is_some()).then_some(())
        });
        assert!(
            reported.await.is_some(),
            "the fault was not reported: {:?}, {:?}, {:?}",
            self.watched.lock().expect("no panic").errors,
            self.cache.last_error(),
            self.live.last_error(),
        );
        if fault.spares_admin {
            self.write(2).await;
        }
        // Long enough for several attempts.
        tokio::time::sleep(3 * TIMEOUT).await;
        assert_eq!(self.live.load().visits, 1, "the value during the fault is the last known one");
        self.server.reload(fault.faulty, fault.sound).await;
        let works = async || self.live.last_error().is_none().then_some(());
        wait::until("the live value works again", SOON, works).await;
        self.write(3).await;
        self.catches_up(3).await;
        assert!(self.live.last_error().is_none(), "{:?}", self.live.last_error());
        {
            let watched = self.watched.lock().expect("no panic");
            assert!(!watched.ended);
            assert!(watched.errors.iter().any(|error| is_expected(error.kind())), "{:?}", watched.errors);
            for (at, error) in watched.errors.iter().enumerate() {
                let again = |other: &Error| discriminant(other.kind()) == discriminant(error.kind());
                assert!(!watched.errors[at + 1..].iter().any(again), "reported twice: {:?}", watched.errors);
            }
        }
        let joined =
            self.admin.group("nodes").join("two", &"two".to_owned()).await.expect("the administrator may join");
        let members = tokio::time::timeout(SOON, self.view.wait_for(|members| members.len() == 2)).await;
        members.expect("the view catches up").expect("the view has not ended");
        drop(joined);
    }
}

#[tokio::test]
async fn watches_survive_a_revoked_user() {
    needs!(Groups);
    Guest::new().await.survives(&REVOKED, |kind| matches!(kind, ErrorKind::Unauthorized)).await;
}

#[tokio::test]
async fn watches_survive_a_changed_password() {
    needs!(Groups);
    Guest::new().await.survives(&PASSWORD, |kind| matches!(kind, ErrorKind::Unauthorized)).await;
}

#[tokio::test]
async fn watches_survive_denied_requests() {
    needs!(Groups);
    Guest::new().await.survives(&DENIED, |kind| matches!(kind, ErrorKind::PermissionDenied { .. })).await;
}

#[tokio::test]
async fn watches_survive_denied_subscriptions() {
    needs!(Groups);
    Guest::new().await.survives(&DEAF, |kind| matches!(kind, ErrorKind::PermissionDenied { .. })).await;
}

#[tokio::test]
async fn watches_survive_disabled_jetstream() {
    needs!(Groups);
    Guest::new().await.survives(&DISABLED, |_| true).await;
}

/// A waiter for a lock and a candidate outlast a fault that ends within their time limit.
async fn waiters_survive(fault: &Fault) {
    let guest = Guest::new().await;
    let (admin, store) = (&guest.admin, &guest.store);
    let (locks, others) = (admin.locks("jobs").await.unwrap(), store.locks("jobs").await.unwrap());
    let fair = store.locks("jobs").fair().await.unwrap();
    let guard = locks.lock("a").await.expect("the administrator may lock");
    let queue = locks.lock("queue").await.expect("the administrator may lock");
    let election = store.election::<String>("leaders");
    let leadership = admin.election("leaders").campaign(&"admin".to_owned()).await.expect("no other candidate leads");
    let lock = tokio::spawn(others.lock("a").wait(2 * SOON).into_future());
    let queued = tokio::spawn(fair.lock("queue").wait(2 * SOON).into_future());
    let campaign = tokio::spawn(election.campaign(&"guest".to_owned()).wait(2 * SOON).into_future());
    // The waiters watch before the fault begins: each watch is a consumer.
    for (bucket, count) in [("jobs", 2), ("leaders", 1)] {
        let jetstream = jetstream(&guest.server).await;
        wait::until("the waiters watch", SOON, async || {
            let mut stream = jetstream.get_stream(format!("KV_{bucket}")).await.ok()?;
            (stream.info().await.ok()?.state.consumer_count >= count).then_some(())
        })
        .await;
    }

    guest.server.reload(fault.sound, fault.faulty).await;
    for bucket in [guest.sessions.name(), "jobs", "leaders"] {
        end_sessions(&guest.server, bucket).await;
    }
    let reported = async || (!guest.watched.lock().expect("no panic").errors.is_empty()).then_some(());
    wait::until("the fault is reported", SOON, reported).await;
    // A waiter that starts during the fault.
    let late = tokio::spawn(others.lock("late").wait(2 * SOON).into_future());
    tokio::time::sleep(2 * SECOND).await;
    assert!(!lock.is_finished() && !queued.is_finished() && !campaign.is_finished(), "no waiter gives up");
    guest.server.reload(fault.faulty, fault.sound).await;
    for released in [guard.release().await, queue.release().await, leadership.resign().await] {
        released.expect("it was held all the time");
    }
    for lock in [lock, queued] {
        lock.await.expect("no panic").expect("it is free").release().await.expect("it is held");
    }
    campaign.await.expect("no panic").expect("no other candidate leads").resign().await.expect("the candidate leads");
    match late.await.expect("no panic") {
        Ok(guard) => guard.release().await.expect("it is held"),
        // A definite answer to the first attempt is reported at once.
        Err(error) => assert!(matches!(error.kind(), ErrorKind::PermissionDenied { .. }), "{error:?}"),
    }
}

#[tokio::test]
async fn waiters_survive_a_revoked_user() {
    needs!(Locks);
    waiters_survive(&REVOKED).await;
}

#[tokio::test]
async fn waiters_survive_denied_requests() {
    needs!(Locks);
    waiters_survive(&DENIED).await;
}
