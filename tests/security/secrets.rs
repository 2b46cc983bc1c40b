//! Secrets must not appear in logs, errors and `Debug` output.

use harness::{Mode, Proxy, Server};
use kvtyped::connect::NatsOptions;
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, Event};
use nkeys::KeyPair;

use super::Folder;
use super::authority::{Authority, Operator};
use crate::needs::needs;
use crate::support::sentinels::{Everything, PASSWORD, TOKEN, VALUE, found, is_read};
use crate::support::{Document, DocumentKey, RawSession, World, seen_as, soon, unique};

const SECOND: Duration = Duration::from_secs(1);

/// Keeps one revision, so that it can be locked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "secret.{name}", history = 1)]
struct Secret {
    name: String,
    text: String,
}

/// Exercises every family of operations with secret values. Values that contain the record itself (an entry, an event,
/// a live value, a `put` that is not awaited yet) are not shown here, because they use the program's own `Debug` of the
/// record.
async fn families(everything: &Everything, store: &Store) {
    let secrets: Bucket<Secret> = store.bucket().name(unique("secrets")).await.unwrap();
    let [one, other] = ["a", "b"].map(|name| Secret { name: name.into(), text: VALUE.into() });
    let (key, other_key) = (one.key(), other.key());
    // Shows each builder before it is awaited.
    macro_rules! shown {
        ($operation:expr) => {{
            let operation = $operation;
            everything.shown(&operation);
            operation.await
        }};
    }
    shown!(secrets.put_many([&one, &other])).unwrap();
    secrets.put(&one).ttl(60 * SECOND).await.unwrap();
    shown!(secrets.touch(&key)).unwrap();
    everything.error(&secrets.create(&one).await.unwrap_err());
    everything.error(&secrets.update(&one, Revision::new(1)).await.unwrap_err());
    shown!(secrets.modify(&key, |secret| secret.text += VALUE)).unwrap();
    assert!(shown!(secrets.get_many([&key, &other_key])).unwrap().iter().all(Option::is_some));
    shown!(secrets.history(&key)).unwrap();
    assert_eq!(shown!(secrets.count(..)).unwrap(), 2);
    let mut list = shown!(secrets.list(..)).unwrap();
    while list.try_next().await.unwrap().is_some() {}
    everything.shown(&list);
    let keys = shown!(secrets.keys(..)).unwrap();
    everything.shown(&keys);

    let mut events = shown!(secrets.watch(..)).unwrap();
    while !matches!(soon(&mut events).await.unwrap(), Event::Ready) {}
    everything.shown(&events);
    let cache = shown!(secrets.cache(..)).unwrap();
    let index = cache.index_by(|secret| secret.text.clone());
    assert!(!index.get(&VALUE.to_owned()).is_empty());
    everything.shown(&(&cache, cache.changes(), &index));
    let live = shown!(secrets.live(&key).validate(|secret| if secret.text.is_empty() { Err("empty") } else { Ok(()) }));
    let live = live.unwrap();
    let empty = Secret { text: String::new(), ..one.clone() };
    secrets.put(&empty).await.unwrap();
    while live.last_error().is_none() {
        tokio::task::yield_now().await;
    }
    everything.shown(&live.last_error());
    shown!(secrets.wait_for(&key, |secret| secret.name == "a")).unwrap();

    let transaction = secrets.transaction().put(&one).update(&other, Revision::new(1));
    everything.shown(&transaction);
    everything.error(&transaction.commit().await.unwrap_err());
    let reference = &key;
    let transact = secrets.transact(|tx| async move {
        let mut secret = tx.get(reference).await?.expect("there");
        secret.text = VALUE.into();
        tx.put(&secret)?;
        Ok(format!("{tx:?}"))
    });
    everything.shown(&transact);
    everything.shown(&transact.await.unwrap());

    let guard = shown!(secrets.lock(&key)).unwrap();
    everything.shown(&guard);
    secrets.put(&one).fenced_by(&guard).await.unwrap();
    everything.shown(&secrets.lock_holder(&key).await.unwrap());
    guard.release().await.unwrap();
    let name = unique("recipes");
    let once = store.once::<String>(&name);
    assert_eq!(once.run("job", || async { VALUE.to_owned() }).await.unwrap(), VALUE);
    everything.shown(&once);
    let election = store.election::<String>(&name);
    let leadership = shown!(election.campaign(&VALUE.to_owned())).unwrap();
    everything.shown(&(&election, &leadership));
    leadership.resign().await.unwrap();
    let group = store.group::<String>(&name);
    let member = shown!(group.join("node", &VALUE.to_owned())).unwrap();
    everything.shown(&(&group, &member));
    member.leave().await.unwrap();
    let counters = store.counters(unique("counters")).await.unwrap();
    counters.add("visits", 1).await.unwrap();
    everything.shown(&counters);
    shown!(secrets.delete_many([&key, &other_key])).unwrap();
    shown!(secrets.compact(Duration::ZERO)).unwrap();
}

/// Exercises the verbs and each of their failures, on a store with credentials.
async fn exercise(everything: &Everything, store: &Store, proxy: &Proxy) {
    let world = World::of(store.clone(), &proxy.url());
    let open = world.fresh::<Document>();
    everything.shown(&open);
    let documents = open.await.unwrap();
    everything.shown(store);
    everything.shown(&documents);
    let document = Document::new("a", VALUE);
    let key = document.key();
    let first = documents.put(&document).await.unwrap();
    documents.update(&document, first).await.unwrap();
    everything.error(&documents.update(&document, first).await.unwrap_err());
    everything.error(&documents.create(&document).await.unwrap_err());
    documents.modify(&key, |document| document.text += VALUE).await.unwrap();
    let lost = documents.modify(&key, |document| document.name += VALUE).await;
    let lost = lost.unwrap_err();
    assert!(matches!(lost.kind(), ErrorKind::KeyChanged));
    everything.error(&lost);
    everything.error(&documents.put(&Document::new("b", &VALUE.repeat(200_000))).await.unwrap_err());
    documents.get(&key).await.unwrap().expect("there");
    assert_eq!(documents.list(..).await.unwrap().count().await, 1);
    everything.shown(&documents.status().await.unwrap());

    // Values that are not records of the model.
    let raw = seen_as::<RawSession>(&world, documents.name()).await;
    let other =
        RawSession::new("doc", "c", format!("{{\"name\":\"c\",\"text\":7,\"{VALUE}\":\"{VALUE}\"}}").as_bytes());
    raw.put(&other).await.unwrap();
    let text = RawSession::new("doc", "d", VALUE.as_bytes());
    raw.put(&text).await.unwrap();
    for name in ["c", "d"] {
        let error = documents.get(&DocumentKey::new(name)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Decode { .. }), "{error}");
        everything.error(&error);
        everything.shown(&documents.history(&DocumentKey::new(name)).await.unwrap());
    }

    // First without replies, then without a connection.
    proxy.set(Mode::DropReplies);
    let time = SECOND / 2;
    everything.error(&documents.put(&document).timeout(time).await.unwrap_err());
    everything.error(&documents.get(&key).timeout(time).await.unwrap_err());
    proxy.set(Mode::Refuse);
    everything.error(&documents.update(&document, first).timeout(time).await.unwrap_err());
    proxy.set(Mode::Pass);
    documents.delete(&key).timeout(10 * SECOND).await.unwrap();
    documents.purge(&key).await.unwrap();
}

/// Exercises each kind of credentials in a file, valid and invalid. Returns the secrets in the files.
async fn keys_and_certificates(everything: &Everything) -> Vec<String> {
    let folder = Folder::new();
    let operator = Operator::new();
    let credentials = operator.credentials(3_600 * SECOND);
    let user = KeyPair::new_user();
    let seed = user.seed().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (issued, client) = (authority.issue(&["127.0.0.1"]), authority.issue(&["app"]));
    let ca = folder.file("ca.pem", &authority.pem);
    let [certificate, key] = [folder.file("cert.pem", &issued.certificate), folder.file("key.pem", &issued.key)];
    let [own, own_key] = [folder.file("own.pem", &client.certificate), folder.file("own-key.pem", &client.key)];
    let [creds, nkey] = [folder.file("a.creds", &credentials), folder.file("a.nk", &seed)];
    let tls = format!(
        "tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {ca:?}, verify: true }}\n\
         authorization {{ users: [ {{ nkey: {} }} ] }}",
        user.public_key()
    );
    let jwt = Server::builder().config(&operator.config()).auth().start().await;
    let tls = Server::builder().config(&tls).auth().start().await;
    let encrypted = format!("tls://{}?ca={ca}", tls.addr());
    let stores = [
        Store::connect(format!("{}?creds={creds}", jwt.url())),
        Store::connect(jwt.url()).options(NatsOptions::new().credentials(&*credentials)),
        Store::connect(format!("{encrypted}&cert={own}&key={own_key}&nkey={nkey}")),
        Store::connect(tls.url())
            .options(NatsOptions::new().root_certificates(&ca).client_certificate(&own, &own_key).nkey(&*seed)),
    ];
    for connect in stores {
        everything.shown(&connect);
        let store = connect.await.unwrap();
        everything.shown(&store);
        let secrets: Bucket<Secret> = store.bucket().name(unique("secrets")).await.unwrap();
        secrets.put(&Secret { name: "a".into(), text: VALUE.into() }).await.unwrap();
        store.close().await.unwrap();
    }
    let stranger = folder.file("stranger.pem", &stranger.pem);
    for url in [
        format!("{}?creds={nkey}", jwt.url()),
        format!("{}?nkey={nkey}", jwt.url()),
        format!("{}?nkey={seed}", jwt.url()),
        format!("{encrypted}&nkey={nkey}"),
        format!("{encrypted}&cert={own}&key={key}&nkey={nkey}"),
        format!("{encrypted}&cert={own_key}&key={own}&nkey={nkey}"),
        format!("tls://{}?ca={stranger}&nkey={nkey}", tls.addr()),
    ] {
        refused(everything, &url).await;
    }
    let options = kvtyped::connect::NatsOptions::new().credentials(&*credentials);
    everything.shown(&(options.nkey(&*seed), kvtyped::connect::NatsOptions::new().user_and_password("app", PASSWORD)));
    let in_a_file = credentials.lines().filter(|line| line.len() > 50 && !line.starts_with('-'));
    let in_a_key = [&issued.key, &client.key].map(|key| key.lines().nth(1).unwrap_or_default().to_owned());
    let secrets: Vec<_> = in_a_file.map(str::to_owned).chain(in_a_key).chain([seed]).collect();
    assert!(secrets.len() == 5 && secrets.iter().all(|secret| secret.len() > 20), "{secrets:?}");
    secrets
}

/// Exercises a connection attempt that fails.
async fn refused(everything: &Everything, url: &str) {
    let connect = Store::connect(url).timeout(2 * SECOND);
    everything.shown(&connect);
    everything.error(&connect.await.unwrap_err());
}

/// P40.
#[tokio::test]
async fn no_secret_is_shown_in_logs_errors_and_debug() {
    needs!(Locks);
    let everything = Everything::default();
    // With a second dispatcher, `tracing` asks this subscriber about every event. With one dispatcher, it asks only
    // about the events that this thread registers first.
    let _other = tracing::Dispatch::new(Everything::default());
    let _guard = tracing::subscriber::set_default(everything.clone());
    let users = format!(
        "authorization {{ users: [ {{ user: app, password: \"{PASSWORD}\" }}, {{ user: guest, password: \"{PASSWORD}\", \
         permissions: {{ publish: {{ deny: \"$KV.>\" }} }} }} ] }}"
    );
    let users = Server::builder().config(&users).auth().start().await;
    let token = Server::builder().config(&format!("authorization {{ token: \"{TOKEN}\" }}")).auth().start().await;

    for (server, credentials) in [(&users, format!("app:{PASSWORD}")), (&token, TOKEN.to_owned())] {
        let proxy = Proxy::start(server.addr()).await;
        let store = Store::connect(format!("nats://{credentials}@{}", proxy.addr())).await.unwrap();
        exercise(&everything, &store, &proxy).await;
        store.close().await.unwrap();
        proxy.set(Mode::Refuse);
        refused(&everything, &format!("nats://{credentials}@{}", proxy.addr())).await;
        refused(&everything, &format!("nats://{credentials}@{}?unknown={TOKEN}", proxy.addr())).await;
        refused(&everything, &format!("http://{credentials}@{}", proxy.addr())).await;
        refused(&everything, &format!("nats://{credentials}@not a host")).await;
    }
    let app = Store::connect(users.url()).options(NatsOptions::new().user_and_password("app", PASSWORD)).await.unwrap();
    families(&everything, &app).await;
    let secrets = keys_and_certificates(&everything).await;

    let wrong = format!("nats://app:{PASSWORD}-wrong@{},nats://app:{PASSWORD}-wrong@localhost:1", users.addr());
    refused(&everything, &wrong).await;
    let guest = Store::connect(format!("nats://guest:{PASSWORD}@{}", users.addr())).await.unwrap();
    let documents: Bucket<Document> = guest.bucket().await.unwrap();
    let denied = documents.put(&Document::new("a", VALUE)).await.unwrap_err();
    assert!(matches!(denied.kind(), ErrorKind::PermissionDenied { .. }), "{denied}");
    everything.error(&denied);

    let lines = everything.lines();
    let of_kvtyped = lines.iter().filter(|line| line.starts_with("kvtyped")).count();
    assert!(of_kvtyped > 5, "the logs of kvtyped were not seen: {of_kvtyped} lines");
    assert!(lines.iter().any(|line| is_read(line) && line.contains(VALUE)), "a value that is shown is seen here");
    let secrets: Vec<_> = secrets.iter().map(String::as_str).collect();
    let shown: Vec<_> = lines.iter().filter(|line| found(line, &secrets).is_some()).collect();
    assert!(shown.is_empty(), "secrets are shown: {shown:#?}");
    println!("no secret in {} lines, {of_kvtyped} of them traces of kvtyped", lines.len());
}
