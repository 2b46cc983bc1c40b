//! The documented permissions: they suffice, each is required, and everything else is denied.

use kvtyped::Error;
use std::future::IntoFuture;
use std::sync::Mutex;

use futures::future::join_all;
use harness::{Cluster, Server, wait};
use kvtyped::Event;
use kvtyped::backend::nats::{NatsBackend, NatsOptions};
use kvtyped::backend::{Backend, Deadline, KeySpace, ListKeysRequest, Read, ReadAt, Write};
use kvtyped::config::{BucketConfig, WriteEpochs};
use kvtyped::key::{ModelKey as _, Pattern};
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, ReadBucket};
use serde_json::Value;
use tokio::time::Instant;

use super::work::{self, RECORDS, Session, SessionKey, Work};
use super::{BUSY, PATIENT, SOON};
use crate::needs::{Feature, needs};
use crate::support::soon;

/// The page in the docs.
const PAGE: &str = include_str!("../../kvtyped/docs/permissions.md");

/// Returns the configuration block of a role on the page.
pub(super) fn block(role: &str) -> String {
    let (_, text) = PAGE.split_once(&format!("# {role}\n")).expect("the page has the role");
    let (_, text) = text.split_once("```text\n").expect("the role has a block");
    text.split_once("```").expect("the block ends").0.to_owned()
}

/// Returns the subjects that a block permits the user to publish to.
pub(super) fn subjects(block: &str) -> Vec<String> {
    let lines = block.lines().filter(|line| line.trim_start().starts_with('"'));
    lines.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
}

/// A server or a cluster with an administrator, the given users, and the buckets that they use.
pub(super) struct TestAccounts {
    servers: Servers,
    _admin: Store,
    pub(super) sessions: Bucket<Session>,
    client: async_nats::Client,
}

enum Servers {
    One(Box<Server>),
    Three(Cluster),
}

impl Servers {
    fn all(&self) -> &[Server] {
        match self {
            Self::One(server) => std::slice::from_ref(server),
            Self::Three(cluster) => cluster.nodes(),
        }
    }
}

impl TestAccounts {
    pub(super) async fn new(users: &[(String, String)]) -> Self {
        let server = Server::builder().config(&authorization(users)).auth().start().await;
        Self::on(Servers::One(Box::new(server)), 1).await
    }

    /// Like [`new`](Self::new), on three servers, with a replica of each bucket on each server.
    pub(super) async fn replicated(users: &[(String, String)]) -> Self {
        let config = format!("{}\nno_auth_user: admin", authorization(users));
        Self::on(Servers::Three(Cluster::start_with(3, &config).await), 3).await
    }

    async fn on(servers: Servers, replicas: u8) -> Self {
        let server = &servers.all()[0];
        let admin = Store::connect(url(server, "admin", "_INBOX")).timeout(PATIENT).await.expect("it is let in");
        let sessions: Bucket<Session> = admin.bucket().replicas(replicas).await.expect("the bucket opens");
        for tenant in ["acme", "beta"] {
            let records: Vec<_> = (1..=RECORDS).map(|id| Session::large(tenant, id)).collect();
            sessions.put_many(&records).await.expect("they are written");
        }
        admin.locks("locks").replicas(replicas).await.expect("the bucket opens");
        admin.counters("hits").await.expect("the bucket opens");
        admin.bucket::<Session>().name("closed").await.expect("the bucket opens");
        let options = async_nats::ConnectOptions::with_user_and_password("admin".into(), "secret".into());
        let client = options.connect(server.url()).await.expect("it is let in");
        Self { servers, _admin: admin, sessions, client }
    }

    /// Returns the server that all users connect to by default: the first one of a cluster.
    pub(super) fn server(&self) -> &Server {
        &self.servers.all()[0]
    }

    pub(super) async fn connect(&self, user: &str, inbox: &str) -> Store {
        self.connect_to(0, user, inbox).await
    }

    pub(super) async fn connect_to(&self, node: usize, user: &str, inbox: &str) -> Store {
        Store::connect(url(&self.servers.all()[node], user, inbox)).timeout(PATIENT).await.expect("it is let in")
    }

    /// Returns the logged permission violations of a user, from all servers.
    pub(super) fn violations(&self, user: &str) -> Vec<String> {
        // The user format in the logs of servers up to 2.14, and of later servers.
        let names = [format!("User \"{user}\""), format!("/user:{user}\"")];
        let of_user = |line: &&str| names.iter().any(|name| line.contains(name));
        let of = |log: String| -> Vec<String> {
            log.lines().filter(|line| line.contains("Violation")).filter(of_user).map(str::to_owned).collect()
        };
        self.servers.all().iter().map(Server::log).flat_map(of).collect()
    }

    async fn ask(&self, subject: &str) -> Value {
        let answer = self.client.request(subject.to_owned(), "".into()).await.expect("the server answers");
        serde_json::from_slice(&answer.payload).expect("it is JSON")
    }

    /// Checks that a watch continues with a new consumer after its consumer was deleted.
    pub(super) async fn watch_goes_on(&self, sessions: &ReadBucket<Session>, tenant: &str) {
        let mut events = sessions.watch(work::of(tenant)).await.expect("it may be watched");
        while !matches!(soon(&mut events).await.expect("an event"), Event::Ready) {}
        let names = self.ask("$JS.API.CONSUMER.NAMES.KV_sessions").await;
        for name in names["consumers"].as_array().expect("there are some").iter().filter_map(Value::as_str) {
            self.ask(&format!("$JS.API.CONSUMER.DELETE.KV_sessions.{name}")).await;
        }
        let changed = Session { visits: 1, ..Session::new(tenant, 1) };
        let revision = self.sessions.put(&changed).await.expect("it may be written");
        loop {
            match soon(&mut events).await.expect("the watch continues") {
                Event::Put(entry) if entry.revision() == revision => return,
                _ => {}
            }
        }
    }
}

/// Returns the configuration of an administrator and these users with their permissions.
fn authorization(users: &[(String, String)]) -> String {
    let user = |(name, block): &(String, String)| format!("{{ user: {name:?}, password: secret, {block} }}\n");
    let users: String = users.iter().map(user).collect();
    format!("authorization {{ users: [ {{ user: admin, password: secret }}\n{users} ] }}")
}

/// The administrator creates the buckets and uses the default inbox.
fn url(server: &Server, user: &str, inbox: &str) -> String {
    let inbox = if inbox.is_empty() { String::new() } else { format!("?inbox={inbox}") };
    format!("nats://{user}:secret@{}{inbox}", server.addr())
}

/// The denied operations, and the time until each denial was reported.
#[derive(Default)]
pub(super) struct Denied(Mutex<Vec<(String, Duration)>>);

impl Denied {
    /// Runs a denied operation, and asserts that it fails in time with `PermissionDenied`. Returns the error.
    pub(super) async fn is<T>(&self, what: &str, operation: impl IntoFuture<Output = Result<T, Error>>) -> Error {
        let start = Instant::now();
        let result = operation.into_future().await;
        let took = start.elapsed();
        let error = result.err().unwrap_or_else(|| panic!("{what} is denied"));
        assert!(matches!(error.kind(), ErrorKind::PermissionDenied { .. }), "{what}: {error:?}");
        assert_eq!(error.outcome(), Outcome::NotApplied, "{what}: {error:?}");
        assert!(took <= BUSY, "{what} took {took:?}");
        self.0.lock().expect("no panic").push((what.to_owned(), took));
        error
    }

    /// Prints the times and asserts that they are within the limits.
    pub(super) fn tell(&self, role: &str) {
        let mut denied = self.0.lock().expect("no panic");
        denied.sort_by_key(|(_, took)| *took);
        let (_, median) = &denied[denied.len() / 2];
        let (what, most) = denied.last().expect("something was denied");
        println!("{role}: {} denials, the median after {median:?}, the last after {most:?} ({what})", denied.len());
        assert!(*median <= SOON, "{role}: the median denial took {median:?}");
    }
}

/// Asserts that all writes are denied.
pub(super) async fn cannot_write(denied: &Denied, sessions: &Bucket<Session>, tenant: &str) {
    let session = Session::new(tenant, 1);
    let key = session.key();
    let many: Vec<_> = (1..=5).map(|id| Session::new(tenant, id)).collect();
    denied.is("put", sessions.put(&session)).await;
    denied.is("put with a time to live", sessions.put(&session).ttl(PATIENT)).await;
    denied.is("create", sessions.create(&Session::new(tenant, 1_000))).await;
    denied.is("update", sessions.update(&session, Revision::new(1))).await;
    denied.is("delete", sessions.delete(&key)).await;
    denied.is("purge", sessions.purge(&key)).await;
    denied.is("put_many", sessions.put_many(&many)).await;
    denied.is("delete_many", sessions.delete_many(many.iter().map(Session::key))).await;
}

/// Asserts that all administrative operations are denied.
async fn cannot_administrate(denied: &Denied, store: &Store) {
    let open = |name: &str| store.bucket::<Session>().name(name);
    denied.is("making a bucket", open("new")).await;
    denied.is("another bucket", open("closed").must_exist()).await;
    denied.is("the names of buckets", store.buckets()).await;
    denied.is("deleting a bucket", store.delete_bucket("closed")).await;
}

/// Runs the work of a role with all documented permissions, and once without each single permission.
///
/// `rarely` lists permissions that are needed only in situations that the work does not cause reliably. Their absence
/// is not tested.
async fn each_is_needed(
    role: &str,
    rarely: &[&str],
    work: impl for<'a> Fn(&'a TestAccounts, &'a Store, usize) -> Work<'a>,
) -> TestAccounts {
    let name = role.to_lowercase();
    let whole = block(role);
    let inbox = format!("_INBOX_{name}");
    let subjects = subjects(&whole);
    assert!(subjects.len() > 4, "{subjects:?}");
    let mut users = vec![(name.clone(), whole.clone())];
    users.extend(subjects.iter().enumerate().map(|(at, subject)| {
        let lacking = whole.replacen(&format!("{subject:?}"), "", 1);
        assert_ne!(lacking, whole);
        (format!("{name}-{at}"), lacking)
    }));
    let site = TestAccounts::new(&users).await;

    let store = site.connect(&name, &inbox).await;
    work(&site, &store, 0).await.unwrap_or_else(|error| panic!("the set of the {role} suffices: {error:?}"));
    assert_eq!(site.violations(&name), [""; 0], "nothing is denied to the {role}");

    let lacking = users.iter().enumerate().skip(1).map(|(at, (user, _))| {
        let (site, inbox, subject, work) = (&site, &inbox, &subjects[at - 1], &work);
        async move {
            if rarely.iter().any(|rarely| subject.contains(rarely)) {
                return;
            }
            let store = site.connect(user, inbox).await;
            let work = async {
                // The work may fail or succeed by other means. Only the violation counts.
                let _ = work(site, &store, at).await;
                std::future::pending::<()>().await;
            };
            let what = format!("the {role} needs {subject}");
            let missed = async || (!site.violations(user).is_empty()).then_some(());
            tokio::select! {
                () = work => {}
                () = wait::until(&what, 3 * PATIENT, missed) => {}
            }
        }
    });
    join_all(lacking).await;
    site
}

/// P38, P39.
#[tokio::test]
async fn reader_role_can_only_read() {
    needs!(Locks);
    let site = each_is_needed("Reader", &["CONSUMER.INFO"], |_, store, _| {
        Box::pin(async move {
            let sessions = store.bucket::<Session>().read_only().await?;
            work::reading(&sessions, "acme").await?;
            work::reading_all(&sessions).await
        })
    })
    .await;
    let store = site.connect("reader", "_INBOX_reader").await;
    let sessions: Bucket<Session> = store.bucket().await.expect("it may be opened");
    site.watch_goes_on(&sessions, "acme").await;
    assert_eq!(site.violations("reader"), [""; 0]);

    let denied = Denied::default();
    cannot_write(&denied, &sessions, "acme").await;
    let key = SessionKey::new("acme", 1);
    let modified = async { sessions.modify(&key, |session| session.visits += 1).await.map(drop) };
    denied.is("modify", modified).await;
    denied.is("touch", sessions.touch(&key)).await;
    if !Feature::Transactions.is_missing_and_reported().await {
        let both = sessions.transaction().delete(&key).delete(&SessionKey::new("acme", 2));
        denied.is("transaction", both.commit()).await;
    }
    denied.is("lock", sessions.lock(&key)).await;
    site.sessions.delete(&SessionKey::new("acme", 9)).await.expect("there is something to compact");
    denied.is("compact", sessions.compact(Duration::ZERO)).await;
    cannot_administrate(&denied, &store).await;
    denied.is("destroy", sessions.destroy()).await;
    denied.tell("reader");
    assert!(site.sessions.get(&key).await.unwrap().is_some(), "nothing was written");
}

/// P38, P39.
#[tokio::test]
async fn writer_role_can_only_write_its_bucket() {
    needs!(Locks);
    let transacts = !Feature::Transactions.is_missing_and_reported().await;
    let site = each_is_needed("Writer", &["CONSUMER.INFO"], |_, store, number| {
        Box::pin(async move {
            let sessions: Bucket<Session> = store.bucket().must_exist().await?;
            work::reading(&sessions, "acme").await?;
            work::reading_all(&sessions).await?;
            work::writing(&sessions, "acme", 1_000 + 100 * number as u64).await?;
            if number == 0 && transacts {
                work::transacting(&sessions).await?;
            }
            Ok(())
        })
    })
    .await;
    let [store, other] = [site.connect("writer", "_INBOX_writer").await, site.connect("writer", "_INBOX_writer").await];
    let sessions: Bucket<Session> = store.bucket().await.expect("it may be opened");
    let others: Bucket<Session> = other.bucket().await.expect("it may be opened");
    work::contending(&[&sessions, &others], "acme", 5_000).await.expect("it may be changed");
    site.watch_goes_on(&sessions, "acme").await;
    assert_eq!(site.violations("writer"), [""; 0]);

    let denied = Denied::default();
    sessions.delete(&SessionKey::new("acme", 9)).await.expect("it may be deleted");
    denied.is("compact", sessions.compact(Duration::ZERO)).await;
    cannot_administrate(&denied, &store).await;
    denied.is("locks elsewhere", store.locks("locks")).await;
    denied.is("destroy", sessions.destroy()).await;
    denied.tell("writer");
}

/// In a bucket with write epochs, a writer and a tenant need the subjects of the epochs, and no others.
#[tokio::test]
async fn writer_roles_need_subjects_of_write_epochs() {
    needs!(Locks);
    let in_epochs = |role: &str, plain: &str, epochs: &str| {
        let whole = block(role);
        assert!(whole.contains(plain) && PAGE.contains(&epochs.replace('"', "`")), "the page names {epochs}");
        whole.replace(plain, epochs)
    };
    let writer = in_epochs("Writer", "\"$KV.sessions.>\"", "\"$KV.=w.sessions.>\"");
    let tenant = in_epochs("Tenant", "\"$KV.sessions.acme.>\"", "\"$KV.=w.sessions.*.acme.>\"");
    let old = block("Writer").replace("_INBOX_writer", "_INBOX_old");
    let site = TestAccounts::new(&[("writer".into(), writer), ("acme".into(), tenant), ("old".into(), old)]).await;
    let admin = site.connect("admin", "").await;
    let bucket = admin.bucket::<Session>().write_epochs(WriteEpochs::Closed);
    bucket.on_drift(Drift::Update).await.expect("the bucket gets write epochs");

    let store = site.connect("writer", "_INBOX_writer").await;
    let sessions: Bucket<Session> = store.bucket().must_exist().await.expect("it may be opened");
    work::reading(&sessions, "acme").await.expect("it may be read");
    work::writing(&sessions, "acme", 1_000).await.expect("it may be written");
    if !Feature::Transactions.is_missing_and_reported().await {
        work::transacting(&sessions).await.expect("it may be written atomically");
    }
    assert_eq!(site.violations("writer"), [""; 0]);
    let restricted = format!("{}&restricted=true", url(site.server(), "acme", "_INBOX_acme"));
    let tenant = Store::connect(restricted).timeout(PATIENT).await.expect("it is let in");
    let sessions: Bucket<Session> = tenant.bucket().must_exist().await.expect("it may be opened");
    sessions.put(&Session::new("acme", 1)).await.expect("it may be written");
    let denied = Denied::default();
    denied.is("put of another tenant", sessions.put(&Session::new("beta", 1))).await;
    let old = site.connect("old", "_INBOX_old").await;
    let sessions: Bucket<Session> = old.bucket().must_exist().await.expect("it may be opened");
    denied.is("put", sessions.put(&Session::new("acme", 1))).await;
    denied.tell("write epochs");
}

/// In a bucket with index entries, a writer needs their subject, and to erase them the purge of the stream.
#[tokio::test]
async fn writer_role_needs_subjects_of_indexes() {
    needs!(Locks);
    let (entries, purge) = ("\"$KV.=i.sessions.>\"", "\"$JS.API.STREAM.PURGE.KV_sessions\"");
    let with = |name: &str, lines: &[&str]| {
        assert!(lines.iter().all(|line| PAGE.contains(&line.replace('"', "`"))), "the page names {lines:?}");
        let plain = "\"$KV.sessions.>\"";
        let whole = block("Writer").replace("_INBOX_writer", &format!("_INBOX_{name}"));
        (name.to_owned(), whole.replace(plain, &format!("{plain}\n{}", lines.join("\n"))))
    };
    let reader = ("reader".to_owned(), block("Reader"));
    let users = [with("full", &[entries, purge]), with("writer", &[entries]), with("old", &[]), reader];
    let site = TestAccounts::new(&users).await;
    let backend = async |user: &str| {
        let url = url(site.server(), user, &if user == "admin" { String::new() } else { format!("_INBOX_{user}") });
        NatsBackend::connect(&url, NatsOptions::new()).await.expect("it is let in")
    };
    let deadline = || Deadline::after(PATIENT);
    let mut update = BucketConfig::new("sessions");
    update.index_entries = Some(true);
    backend("admin").await.update(update, deadline()).await.expect("the subject is added");

    let denied = Denied::default();
    let key = |text: &str| kvtyped::Key::new(text).expect("a legal key");
    for user in ["full", "writer", "old", "reader"] {
        let bucket =
            backend(user).await.open("sessions", deadline()).await.expect("it may be opened").expect("it exists");
        let on = key(&format!("session.tenant.{user}"));
        let write = bucket.write(Write::index_entry(on.clone(), "claim".into()), deadline());
        if user == "old" || user == "reader" {
            denied.is(&format!("an entry of the {user}"), write).await;
        } else {
            let revision = write.await.expect("it may be written");
            let at = ReadAt::Newest(Read::Leader);
            let read = bucket.read(KeySpace::Index, &on, at, deadline()).await.expect("it may be read");
            assert_eq!(read.map(|entry| entry.revision), Some(revision));
        }
        // Everybody may look up.
        let first = key("session.tenant.full");
        let read = bucket.read(KeySpace::Index, &first, ReadAt::Newest(Read::Any), deadline()).await;
        assert!(read.expect("it may be read").is_some(), "{user}");
        let list = ListKeysRequest { space: KeySpace::Index, pattern: Pattern::all(), idle_timeout: PATIENT };
        let listed: Vec<_> = bucket.list_keys(list).try_concat().await.expect("it may be listed");
        assert!(listed.contains(&first), "{user}");
        assert_eq!(bucket.status(deadline()).await.expect("it may be read").values, 2 * RECORDS);
    }
    for user in ["writer", "full"] {
        let bucket =
            backend(user).await.open("sessions", deadline()).await.expect("it may be opened").expect("it exists");
        let on = key("session.tenant.writer");
        let erase = bucket.purge_through(KeySpace::Index, &on, Revision::new(u64::MAX), deadline());
        match user {
            "full" => assert_eq!(erase.await.expect("it may be erased"), 1),
            _ => drop(denied.is("erase", erase).await),
        }
    }
    assert_eq!(site.violations("full"), [""; 0]);
    denied.tell("indexes");
}

/// A record whose index a follower keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "sessions", name = "job", key = "job.{id}")]
struct Job {
    id: u64,
    #[kv(index)]
    team: String,
}

/// A follower of the indexes has the permissions of a writer that erases.
#[tokio::test]
async fn follower_role_keeps_indexes() {
    needs!(Locks);
    let (entries, purge) = ("\"$KV.=i.sessions.>\"", "\"$JS.API.STREAM.PURGE.KV_sessions\"");
    let with = |name: &str, lines: &[&str]| {
        let plain = "\"$KV.sessions.>\"";
        let whole = block("Writer").replace("_INBOX_writer", &format!("_INBOX_{name}"));
        (name.to_owned(), whole.replace(plain, &format!("{plain}\n{}", lines.join("\n"))))
    };
    let users = [with("follower", &[entries, purge]), with("clerk", &[entries]), with("writer", &[])];
    let site = TestAccounts::new(&users).await;
    let admin = site.connect("admin", "").await;
    let jobs: Bucket<Job> = admin.bucket().on_drift(Drift::Update).await.expect("the index is added");
    jobs.build_index("team").all_writers_know().await.expect("it is built");
    let raw = admin.raw("sessions").await.expect("it exists");
    let key = |id: u64| JobKey::new(id).encode().expect("a legal key");
    let put = async |id: u64| {
        let bytes = serde_json::to_vec(&Job { id, team: "core".into() }).expect("it is JSON");
        raw.put(&kvtyped::RawRecord::new(key(id), bytes)).await.expect("it may be written")
    };
    put(1).await;
    let denied = Denied::default();
    let follower = async |name: &str| {
        let store = site.connect(name, &format!("_INBOX_{name}")).await;
        store.bucket::<Job>().must_exist().await.expect("it may be opened")
    };
    denied.is("entries of the writer", follower("writer").await.maintain_indexes().into_future()).await;
    let follows = follower("follower").await;
    let task = tokio::spawn(async move { follows.maintain_indexes().await });
    let count = async |at: Revision| {
        jobs.count_by(Job::by_team("core")).at_least(at).timeout(PATIENT).await.expect("it is followed")
    };
    assert_eq!(count(put(2).await).await, 2);
    assert_eq!(count(raw.delete(&key(2)).await.expect("it may be removed")).await, 1);
    assert_eq!(site.violations("follower"), [""; 0]);
    task.abort();
    let _ = task.await;
    raw.delete(&key(1)).await.expect("it may be removed");
    denied.is("erase of the clerk", follower("clerk").await.maintain_indexes().into_future()).await;
    denied.tell("follower");
}

/// P38, P39.
#[tokio::test]
async fn locker_role_can_only_lock() {
    needs!(Locks);
    let site = each_is_needed("Locker", &["$JS.FC"], |_, store, number| {
        Box::pin(async move { work::locking(store, &format!("job-{number}")).await })
    })
    .await;
    let store = site.connect("locker", "_INBOX_locker").await;
    let denied = Denied::default();
    denied.is("a bucket of records", store.bucket::<Session>()).await;
    denied.is("locks elsewhere", store.locks("sessions")).await;
    cannot_administrate(&denied, &store).await;
    denied.tell("locker");
}

/// P38, P39.
#[tokio::test]
async fn counter_role_can_only_count() {
    needs!(Counters);
    let site = each_is_needed("Counter", &["CONSUMER.INFO", "$JS.ACK", "$JS.FC"], |_, store, number| {
        Box::pin(async move { work::counting(store, &format!("page-{number}")).await })
    })
    .await;
    let store = site.connect("counter", "_INBOX_counter").await;
    let denied = Denied::default();
    denied.is("a bucket of records", store.bucket::<Session>()).await;
    denied.is("counters elsewhere", store.counters("sessions")).await;
    denied.is("remove", async { store.counters("hits").await?.remove("page-0").await }).await;
    cannot_administrate(&denied, &store).await;
    denied.tell("counter");
}

/// C4: a user without permission to receive replies gets `PermissionDenied` instead of a timeout.
#[tokio::test]
async fn wrong_inbox_is_permission_denied() {
    needs!(Locks);
    // This user may receive replies to requests, but not the deliveries of a consumer.
    let half = block("Reader").replace("_INBOX_reader.>", "_INBOX_half.*.*");
    let site = TestAccounts::new(&[("reader".into(), block("Reader")), ("half".into(), half)]).await;
    let denied = Denied::default();
    let wrong = site.connect("reader", "").await;
    for _ in 0..3 {
        let error = denied.is("opening", wrong.bucket::<Session>()).await;
        let ErrorKind::PermissionDenied { subject } = error.kind() else { panic!("{error:?}") };
        assert!(subject.starts_with("_INBOX."), "{subject}");
    }
    let half = site.connect("half", "_INBOX_half").await;
    let sessions: Bucket<Session> = half.bucket().await.expect("it may be opened");
    assert!(sessions.get(&SessionKey::new("acme", 1)).await.expect("it may be read").is_some());
    // A list of a few records is such a request.
    let found = sessions.list(..).await.expect("it begins").try_collect::<Vec<_>>().await;
    assert!(!found.expect("it is read").is_empty());
    let keys = async { sessions.keys(..).await?.try_collect::<Vec<_>>().await };
    denied.is("keys", keys).await;
    denied.is("watch", async { soon(&mut sessions.watch(..).await?).await }).await;
    denied.is("cache", sessions.cache(..)).await;
    denied.tell("wrong inbox");
}

/// A watch that may not reply to flow control stalls. It reports the denied subject.
#[tokio::test]
async fn watch_without_flow_control_permission_fails() {
    needs!(Locks);
    let lacking = block("Reader").replace(r#""$JS.FC.KV_sessions.>""#, "");
    let site = TestAccounts::new(&[("reader".into(), lacking)]).await;
    let store = site.connect("reader", "_INBOX_reader").await;
    let sessions: Bucket<Session> = store.bucket().await.expect("it may be opened");
    let mut events = sessions.watch(..).await.expect("it begins");
    let error = loop {
        match soon(&mut events).await {
            Ok(event) => assert!(!matches!(event, Event::Ready), "it is asked to slow down before"),
            Err(error) => break error,
        }
    };
    let ErrorKind::PermissionDenied { subject } = error.kind() else { panic!("{error:?}") };
    assert!(subject.starts_with("$JS.FC."), "{subject}");
}

/// A denial on an application's connection is reported as a timeout, and is not mistaken for another error.
#[tokio::test]
async fn application_client_denial_has_unknown_outcome() {
    needs!(Locks);
    let site = TestAccounts::new(&[("reader".into(), block("Reader"))]).await;
    let options = async_nats::ConnectOptions::with_user_and_password("reader".into(), "secret".into());
    let client = options.custom_inbox_prefix("_INBOX_reader").connect(site.server().url()).await.unwrap();
    let store = Store::from_client(client).with_timeout(SOON);
    let sessions: Bucket<Session> = store.bucket().await.expect("it may be opened");
    let error = super::in_time("put", SOON, sessions.put(&Session::new("acme", 1))).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    wait::until("the server has denied it", PATIENT, async || (!site.violations("reader").is_empty()).then_some(()))
        .await;
}
