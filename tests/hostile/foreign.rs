//! Foreign or invalid messages in a bucket on a real server: every verb reports them in the same way, and they do not
//! affect other records (P32, P35).

use harness::raw_client::Wire;
use kvtyped::codec::Codec;
use kvtyped::prelude::*;
use kvtyped::txn::TransactError;
use kvtyped::{Error, ErrorKind, Event, Filter, Read, Version};
use serde_json::Value;

use crate::support::{Document, DocumentKey, Observed, SOON, Session, SessionKey, World, listing, reported, soon};

const SECOND: Duration = Duration::from_secs(1);

/// A client that writes to a bucket without any validation.
pub(crate) struct Stranger {
    wire: Wire,
    bucket: String,
}

impl Stranger {
    pub(crate) async fn at<T: KvModel>(bucket: &Bucket<T>) -> Self {
        let wire = Wire::connect(harness::shared().await.addr()).await.expect("the server is there");
        Self { wire, bucket: bucket.name().to_owned() }
    }

    /// Writes a message with an unvalidated block of headers.
    pub(crate) async fn plant(&mut self, key: &str, headers: impl AsRef<[u8]>, value: &[u8]) -> Revision {
        let subject = format!("$KV.{}.{key}", self.bucket);
        let answer = self.wire.request_with(&subject, headers.as_ref(), value).await.expect("it is answered");
        let answer: Value = serde_json::from_slice(&answer).expect("JSON");
        Revision::new(answer["seq"].as_u64().unwrap_or_else(|| panic!("{answer}")))
    }
}

/// Builds a block of headers from lines.
fn headers(lines: &[&str]) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    format!("NATS/1.0\r\n{lines}\r\n")
}

fn value(session: &Session) -> Vec<u8> {
    MsgPack::encode(session).expect("it is written")
}

/// The state of a record, independent of the verb that reads it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum There {
    Value,
    Nothing,
    Bad,
}

impl There {
    fn of<T>(read: Result<Option<T>, Error>, revision: Revision) -> Self {
        match read {
            Ok(Some(_)) => Self::Value,
            Ok(None) => Self::Nothing,
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Decode { .. }), "{error}");
                assert_eq!((error.key(), error.revision()), (Some("acme.50"), Some(revision)), "{error}");
                Self::Bad
            }
        }
    }
}

/// Returns a bucket of a hundred sessions, and a raw client.
pub(crate) async fn hundred() -> (Bucket<Session>, Stranger) {
    let sessions: Bucket<Session> = World::nats().await.bucket().await;
    let all: Vec<_> = (0..100).map(|id| Session::new("acme", id)).collect();
    sessions.put_many(&all).await.expect("they are written");
    let stranger = Stranger::at(&sessions).await;
    (sessions, stranger)
}

/// Reads the record with id 50 with every verb, and checks that the other records are unaffected.
async fn is_seen_alike(sessions: &Bucket<Session>, there: There, revision: Revision) {
    let key = SessionKey::new("acme", 50_u64);
    let find =
        |read| async move { There::of(sessions.get(&SessionKey::new("acme", 50_u64)).read(read).await, revision) };
    for read in [Read::Any, Read::Leader, Read::AtLeast(revision)] {
        assert_eq!(find(read).await, there, "{read:?}");
    }
    assert_eq!(There::of(sessions.get(&key).at(revision).await, revision), there, "at its revision");

    let keys: Vec<_> = (0..100_u64).map(|id| SessionKey::new("acme", id)).collect();
    let each = sessions.get_many(&keys).results().await.expect("the others are read");
    for (id, one) in each.into_iter().enumerate() {
        let wanted = if id == 50 { there } else { There::Value };
        assert_eq!(There::of(one, revision), wanted, "record {id} of many");
    }

    let (good, bad): (Vec<_>, Vec<_>) =
        sessions.list(..).await.expect("it begins").collect::<Vec<_>>().await.into_iter().partition(Result::is_ok);
    assert_eq!((good.len(), bad.len()), (99 + usize::from(there == There::Value), usize::from(there == There::Bad)));
    for error in bad {
        assert_eq!(There::of(error.map(Some), revision), There::Bad);
    }
    let keys: Vec<_> = sessions.keys(..).await.expect("it begins").collect().await;
    assert_eq!(
        keys.iter().filter(|key| key.is_ok()).count() + usize::from(there == There::Nothing),
        100 - keys.iter().filter(|key| key.is_err()).count()
    );

    let past = sessions.history(&key).await.expect("the history is returned");
    let last = match past.last().expect("something is there") {
        Version::Put(_) => There::Value,
        Version::Removed { .. } => There::Nothing,
        Version::Undecodable { .. } => There::Bad,
        other => panic!("{other:?}"),
    };
    assert_eq!(last, there, "{past:?}");
    assert_eq!(sessions.history(&SessionKey::new("acme", 7_u64)).await.expect("the history is returned").len(), 1);

    let mut events = sessions.watch(..).await.expect("it begins");
    let seen = tokio::time::timeout(SOON, listing(&mut events)).await.expect("the listing ends");
    assert_eq!(seen.len(), 100, "each record is listed once");
    let reported_of = |reported: &Observed| match reported {
        Observed::Put(..) => There::Value,
        Observed::Removed(..) => There::Nothing,
        Observed::Undecodable(..) => There::Bad,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        seen.iter().filter(|reported| reported_of(reported) == There::Value).count(),
        99 + usize::from(there == There::Value)
    );
    assert_eq!(reported_of(seen.last().expect("a hundred")), there, "{:?}", seen.last());

    let cache = sessions.cache(..).await.expect("it is ready");
    assert_eq!(cache.len(), 99 + usize::from(there == There::Value));
    assert_eq!(cache.get(&key).is_some(), there == There::Value);
    assert_eq!(cache.last_error().is_some(), there == There::Bad);

    // The watch and the cache continue.
    let last = sessions.modify(&SessionKey::new("acme", 7_u64), |session| session.visits += 1).await.expect("another");
    cache.wait_for_revision(last.revision()).await.expect("the cache continues");
    assert_eq!(reported(&mut events).await, Observed::Put("acme.7".into(), last.revision()), "the watch continues");
    transacted(sessions, there, revision).await;
    changed(sessions, there, revision).await;
}

async fn transacted(sessions: &Bucket<Session>, there: There, revision: Revision) {
    let key = &SessionKey::new("acme", 50_u64);
    let read = sessions.transact(|tx| async move { Ok(tx.get(key).await?.map(|session| session.visits)) }).await;
    let read = match read {
        Ok(read) => Ok(read),
        Err(TransactError::Kv(error)) => Err(error),
        Err(other) => panic!("{other}"),
    };
    assert_eq!(There::of(read, revision), there, "in a transaction");
}

/// Runs last, because it changes a valid record. An undecodable record stays unchanged until it is overwritten
/// explicitly.
async fn changed(sessions: &Bucket<Session>, there: There, revision: Revision) {
    let (key, session) = (SessionKey::new("acme", 50_u64), Session::new("acme", 50));
    if there != There::Nothing {
        let error = sessions.create(&session).await.expect_err("something is there");
        assert!(matches!(error.kind(), ErrorKind::AlreadyExists), "{error}");
        let error = sessions.transaction().create(&session).commit().await.expect_err("something is there");
        assert!(matches!(error.kind(), ErrorKind::AlreadyExists), "{error}");
        let created = sessions.transact(|tx| async move { Ok(tx.create(&Session::new("acme", 50)).await?) }).await;
        let Err(TransactError::Kv(error)) = created else { panic!("{created:?}") };
        assert!(matches!(error.kind(), ErrorKind::AlreadyExists), "{error}");
        assert_eq!(There::of(sessions.get(&key).await, revision), there, "nothing was written");
    }
    let changed = sessions.modify(&key, |session| session.visits += 1).await;
    match there {
        There::Value => assert_eq!(changed.expect("it is changed").visits, 1),
        There::Nothing => assert!(matches!(changed.expect_err("nothing is there").kind(), ErrorKind::NotFound)),
        There::Bad => {
            assert_eq!(There::of(changed.map(Some), revision), There::Bad);
            assert_eq!(
                There::of(sessions.get(&key).await, revision),
                There::Bad,
                "an undecodable record is overwritten"
            );
            let mended = sessions.update(&Session::new("acme", 50), revision).await.expect("the revision matches");
            assert_eq!(sessions.get(&key).await.expect("mended").expect("mended").revision(), mended);
        }
    }
}

macro_rules! planted {
    ($($(#[$attribute:meta])* $name:ident: $headers:expr, $value:expr => $there:ident;)*) => {$(
        $(#[$attribute])*
        #[tokio::test]
        async fn $name() {
            let (sessions, mut stranger) = hundred().await;
            let good = value(&Session::new("acme", 50));
            let value: &[u8] = $value.unwrap_or(&good);
            let revision = stranger.plant("acme.50", $headers, value).await;
            is_seen_alike(&sessions, There::$there, revision).await;
        }
    )*};
}

/// Stands for the valid value of the record.
const GOOD: Option<&[u8]> = None;

planted! {
    invalid_value_is_undecodable: "", Some(&b"\xc1 s3cret"[..]) => Bad;
    empty_value_is_undecodable: "", Some(&b""[..]) => Bad;
    value_with_trailing_bytes_is_undecodable: "", Some(&b"\x93\xa4acme\x32\x00\x00"[..]) => Bad;
    value_of_another_key_is_undecodable: "", Some(&b"\x93\xa4acme\x33\x00"[..]) => Bad;
    unknown_operation_is_undecodable: headers(&["KV-Operation: MERGE"]), GOOD => Bad;
    lower_case_operation_is_undecodable: headers(&["KV-Operation: del"]), GOOD => Bad;
    unnamed_operation_is_undecodable: headers(&["KV-Operation:"]), GOOD => Bad;
    marker_of_unknown_reason_is_undecodable: headers(&["Nats-Marker-Reason: Whim"]), Some(&b""[..]) => Bad;
    delete_marker_with_value_is_a_marker: headers(&["KV-Operation: DEL"]), GOOD => Nothing;
    purge_marker_with_value_is_a_marker: headers(&["KV-Operation: PURGE"]), GOOD => Nothing;
    forged_expiry_with_value_is_a_value: headers(&["Nats-Marker-Reason: MaxAge"]), GOOD => Value;
    forged_removal_with_value_is_a_value: headers(&["Nats-Marker-Reason: Remove", "KV-Operation: PUT"]), GOOD => Value;
    forged_expiry_without_value_is_an_expiry: headers(&["Nats-Marker-Reason: MaxAge"]), Some(&b""[..]) => Nothing;
    last_of_two_operations_counts: headers(&["KV-Operation: PUT", "KV-Operation: DEL"]), GOOD => Nothing;
    forged_server_headers_have_no_effect:
        headers(&["Nats-Subject: $KV.b.acme.1", "Nats-Sequence: 1", "Nats-Time-Stamp: never", "Nats-Num-Pending: 7",
            "Nats-Last-Consumer: 9", "Nats-Consumer-Stalled: x", "Nats-UpTo-Sequence: 9", "Status: 404"]), GOOD => Value;
    longest_header_is_read:
        headers(&[&format!("X-Long: {}", "x".repeat(60_000))]), GOOD => Value;
    many_headers_are_read: headers(&["X: y"; 5_000]), GOOD => Value;
    folded_header_is_read: headers(&["X: y", " z"]), GOOD => Value;
    stored_status_404_is_a_value: "NATS/1.0 404 Message Not Found\r\n\r\n", GOOD => Value;
    stored_status_408_is_a_value: "NATS/1.0 408 Bad Request\r\nX: y\r\n\r\n", GOOD => Value;
    stored_status_204_is_a_value: "NATS/1.0 204 EOB\r\nNats-Num-Pending: 0\r\n\r\n", GOOD => Value;
    stored_heartbeat_is_a_value: "NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 1\r\n\r\n", GOOD => Value;
    stored_end_of_consumer_is_a_value: "NATS/1.0 409 Consumer Deleted\r\n\r\n", GOOD => Value;
    stored_status_503_is_a_value: "NATS/1.0 503\r\n\r\n", GOOD => Value;
}

#[tokio::test]
async fn unknown_operation_is_a_short_error() {
    let (sessions, mut stranger) = hundred().await;
    let name = format!("KV-Operation: {}", "MERGE".repeat(2_000));
    let revision = stranger.plant("acme.50", headers(&[&name]), &value(&Session::new("acme", 50))).await;
    let error = sessions.touch(&SessionKey::new("acme", 50)).await.expect_err("the operation is unknown");
    assert_eq!(There::of::<()>(Err(error), revision), There::Bad);
    let error = sessions.get(&SessionKey::new("acme", 50)).await.expect_err("the operation is unknown");
    assert!(error.to_string().len() < 300, "{error}");
}

/// Keys that NATS accepts and the model does not: some are not valid keys, others are not keys of this model.
#[tokio::test]
async fn foreign_keys_are_reported_or_skipped() {
    let (sessions, mut stranger) = hundred().await;
    let value = value(&Session::new("acme", 50));
    let mut reported_keys = Vec::new();
    for key in [
        "acme.fifty",
        "acme.+50",
        "acme.=2e",
        "acme.a:b",
        "acme.\u{df}",
        "$x.50",
        "ac me.50".replace(' ', "#").as_str(),
    ] {
        reported_keys.push((key.to_owned(), stranger.plant(key, "", &value).await));
    }
    // Keys of another shape: under another prefix, and internal records of the recipes.
    for key in ["acme", "acme.50.more", "other.bucket.in.this", "=kvtyped.lock", "=kvtyped.lock.x.lease"] {
        stranger.plant(key, "", &value).await;
    }
    let errors_of = |errors: Vec<Error>| -> Vec<_> {
        errors
            .iter()
            .map(|error| (error.key().expect("a key").to_owned(), error.revision().expect("a revision")))
            .collect()
    };
    let listed: Vec<_> = sessions.list(..).await.unwrap().collect().await;
    let (good, bad): (Vec<_>, Vec<_>) = listed.into_iter().partition(Result::is_ok);
    assert_eq!(good.len(), 100);
    assert_eq!(errors_of(bad.into_iter().filter_map(Result::err).collect()), reported_keys);
    let keys: Vec<_> = sessions.keys(..).await.unwrap().collect().await;
    let (good, bad): (Vec<_>, Vec<_>) = keys.into_iter().partition(Result::is_ok);
    assert_eq!(good.len(), 100);
    assert_eq!(errors_of(bad.into_iter().filter_map(Result::err).collect()), reported_keys);
    assert_eq!(sessions.count(..).await.unwrap(), 100);

    let mut events = sessions.watch(..).await.unwrap();
    let (mut good, mut bad) = (0, Vec::new());
    loop {
        match soon(&mut events).await {
            Ok(Event::Put(_)) => good += 1,
            Ok(Event::Ready) => break,
            Ok(Event::Undecodable { key, revision, .. }) => bad.push((key, revision)),
            Err(error) => bad.push((error.key().expect("a key").to_owned(), error.revision().expect("a revision"))),
            Ok(other) => panic!("{other:?}"),
        }
    }
    assert_eq!((good, bad), (100, reported_keys));
    let cache = sessions.cache(..).await.unwrap();
    assert_eq!(cache.len(), 100);
    let last = sessions.put(&Session::new("acme", 50).visited(3)).await.unwrap();
    assert_eq!(reported(&mut events).await, Observed::Put("acme.50".into(), last));
    cache.wait_for_revision(last).await.expect("the cache continues");
    assert_eq!(sessions.list(SessionKey::filter().tenant("other")).await.unwrap().count().await, 0);
}

#[tokio::test]
async fn live_value_keeps_last_valid_record() {
    let (sessions, mut stranger) = hundred().await;
    let live = sessions.live(&SessionKey::new("acme", 50)).await.unwrap();
    for (headers, value) in
        [(String::new(), &b"\xc1"[..]), (String::new(), b""), (headers(&["KV-Operation: MERGE"]), b"x")]
    {
        let revision = stranger.plant("acme.50", headers, value).await;
        let reported = async || live.last_error().filter(|error| error.revision() == Some(revision));
        let error = harness::wait::until("the error is reported", SOON, reported).await;
        assert!(matches!(error.kind(), ErrorKind::Decode { .. }), "{error}");
        assert_eq!(live.load().visits, 0);
    }
    let mended = sessions.put(&Session::new("acme", 50).visited(7)).await.unwrap();
    harness::wait::until("it is mended", SOON, async || (live.revision() == mended).then_some(())).await;
    assert_eq!((live.load().visits, live.last_error().is_none()), (7, true));
}

#[tokio::test]
async fn duplicate_json_field_is_a_decode_error() {
    let documents: Bucket<Document> = World::nats().await.bucket().await;
    documents.put(&Document::new("a", "one")).await.unwrap();
    let mut stranger = Stranger::at(&documents).await;
    let value = br#"{"name":"b","text":"one","text":"two"}"#;
    let revision = stranger.plant("doc.b", "", value).await;
    let listed: Vec<_> = documents.list(..).await.unwrap().collect().await;
    let [Ok(good), Err(error)] = listed.as_slice() else { panic!("{listed:?}") };
    assert_eq!((&*good.text, error.key(), error.revision()), ("one", Some("doc.b"), Some(revision)));
    assert!(matches!(error.kind(), ErrorKind::Decode { codec: "json", .. }), "{error}");
    let error = documents.get(&DocumentKey::new("b")).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Decode { .. }), "{error}");
}

/// P32 for filters: a server closes the shared connection if a request contains a filter that is too long.
#[tokio::test]
async fn overlong_filter_matches_no_record() {
    let (sessions, _) = hundred().await;
    let mut events = sessions.watch(..).await.unwrap();
    listing(&mut events).await;
    let cache = sessions.cache(..).await.unwrap();
    for long in ["x".repeat(5_000), "*".repeat(1_700), "x".repeat(100_000)] {
        let filter = || SessionKey::filter().tenant(long.as_str());
        assert_eq!(sessions.list(filter()).await.unwrap().count().await, 0);
        assert_eq!(sessions.keys(filter()).await.unwrap().count().await, 0);
        assert_eq!(sessions.count(filter()).await.unwrap(), 0);
        let watch = sessions.watch(filter()).await.expect_err("it would wait forever");
        let cache = sessions.cache(filter()).await.expect_err("it would stay empty");
        for error in [watch, cache] {
            assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
        }
        let both: Filter<Session> = vec![filter(), SessionKey::filter().tenant("acme")].into();
        assert_eq!(sessions.list(both).await.unwrap().count().await, 100);
    }
    let last = sessions.put(&Session::new("acme", 1)).await.unwrap();
    assert_eq!(reported(&mut events).await, Observed::Put("acme.1".into(), last), "the watch continues");
    cache.wait_for_revision(last).await.expect("the cache continues");
}

/// P32: a key that exceeds the limit fails only the operation that uses it, and does not affect others.
#[tokio::test]
async fn every_verb_rejects_overlong_key() {
    let (sessions, _) = hundred().await;
    let mut events = sessions.watch(..).await.unwrap();
    listing(&mut events).await;
    let long = Session::new(&"x".repeat(5_000), 1);
    let key = &long.key();
    let mut errors = vec![
        sessions.get(key).await.expect_err("too long"),
        sessions.put(&long).await.expect_err("too long"),
        sessions.create(&long).await.expect_err("too long"),
        sessions.update(&long, Revision::new(1)).await.expect_err("too long"),
        sessions.delete(key).await.expect_err("too long"),
        sessions.purge(key).await.expect_err("too long"),
        sessions.touch(key).await.expect_err("too long"),
        sessions.modify(key, |session| session.visits += 1).await.expect_err("too long"),
        sessions.transaction().put(&long).commit().await.expect_err("too long"),
        sessions.live(key).await.expect_err("too long"),
    ];
    errors.extend(sessions.history(key).await.err());
    for error in &errors {
        assert!(matches!(error.kind(), ErrorKind::InvalidKey), "{error}");
        assert!(error.to_string().len() < 500, "{error}");
    }
    // In a bulk operation, the whole call fails before anything is sent.
    let keys = [SessionKey::new("acme", 1), key.clone(), SessionKey::new("acme", 2)];
    let error = sessions.get_many(&keys).await.expect_err("too long");
    assert!(matches!(error.kind(), ErrorKind::InvalidKey), "{error}");
    let records = [Session::new("acme", 1), long.clone(), Session::new("acme", 2)];
    let results = sessions.put_many(&records).await.map(|written| format!("{written:?}"));
    assert!(matches!(results.as_ref().map_err(Error::kind), Err(ErrorKind::InvalidKey)), "{results:?}");
    let last = sessions.put(&Session::new("acme", 3)).await.unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&Observed::Put("acme.3".into(), last)) {
        seen.push(reported(&mut events).await);
    }
    assert!(!seen.contains(&Observed::Resync), "the watch resynced: {seen:?}");
}

/// Headers that the client cannot parse end the connection that receives them, and the client reconnects. The library
/// cannot repair this: a read of the record gets no answer. Overwriting the record helps.
#[tokio::test]
async fn record_with_malformed_headers_can_be_overwritten() {
    let (sessions, mut stranger) = hundred().await;
    let key = SessionKey::new("acme", 50);
    let planted = stranger.plant("acme.50", "NATS/1.0\r\nno colon\r\n\r\n", b"x").await;
    let error = sessions.get(&key).timeout(SECOND).await.expect_err("the headers are malformed");
    assert!(matches!(error.kind(), ErrorKind::Timeout { .. } | ErrorKind::Unavailable { .. }), "{error}");
    // The leader's reply is JSON without such headers, so the read returns an error.
    let error = sessions.get(&key).read(Read::Leader).await.expect_err("the headers are malformed");
    assert!(matches!(error.kind(), ErrorKind::Backend { .. }), "{error}");
    assert!(sessions.get(&SessionKey::new("acme", 7)).await.expect("another").is_some());
    let listed: Vec<_> = sessions.list(..).timeout(SECOND).await.unwrap().collect().await;
    assert!(matches!(listed.as_slice(), [rest @ .., Err(_)] if rest.iter().all(Result::is_ok)), "it ends, and says so");

    let mut events = sessions.watch(..).await.unwrap();
    let mended = sessions.put(&Session::new("acme", 50)).await.expect("it can be written over");
    assert!(mended > planted);
    assert_eq!(sessions.list(..).await.unwrap().try_collect::<Vec<_>>().await.unwrap().len(), 100);
    while reported(&mut events).await != Observed::Put("acme.50".into(), mended) {}
}
