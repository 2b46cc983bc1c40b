//! Copies of buckets between stores.

use kvtyped::backend::RecordHeaders;
use kvtyped::bucket::{Copied, CopyProgress, Cursor, copy_bucket};
use kvtyped::{ErrorKind, Key, RawRecord};

use crate::support::*;

use kvtyped::prelude::*;

const MINUTE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "copied_users", key = "{id}", history = 1, version = 3)]
struct User {
    id: u64,
    name: String,
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a legal key")
}

fn record(text: &str, bytes: &str) -> RawRecord {
    RawRecord::new(key(text), bytes.as_bytes().to_vec())
}

async fn raw(store: &Store, name: &str) -> Bucket<RawRecord> {
    store.raw(name).await.expect("the bucket exists")
}

async fn contents(bucket: &Bucket<RawRecord>) -> Vec<(String, Vec<u8>, RecordHeaders)> {
    let entries: Vec<Entry<RawRecord>> = bucket.list(..).await.unwrap().try_collect().await.unwrap();
    entries.iter().map(|entry| (entry.key.to_string(), entry.bytes.to_vec(), entry.headers().clone())).collect()
}

/// Asserts that a copy to each kind of store, and back, has the same records in the same order.
async fn copies_are_equal(world: &World, from: &Bucket<RawRecord>) {
    let wanted = contents(from).await;
    let (memory, name) = (Store::memory(), unique("copy"));
    let there = copy_bucket(from, &memory).name(&*name).await.unwrap();
    assert_eq!((there.records, there.unreadable), (wanted.len() as u64, 0));
    assert_eq!(contents(&raw(&memory, &name).await).await, wanted);
    let back = raw(&memory, &name).await;
    copy_bucket(&back, &world.store).await.unwrap();
    assert_eq!(contents(&raw(&world.store, &name).await).await, wanted);
}

on_both_backends! {
    async fn copy_has_bytes_headers_and_order(world: World) {
        let users: Bucket<User> = world.fresh().description("of the team").await.unwrap();
        let view = raw(&world.store, users.name()).await;
        for id in [5, 1, 9, 3] {
            users.put(&User { id, name: format!("user {id}") }).await.unwrap();
        }
        let mut headers = RecordHeaders::of_version(Some(7));
        assert!(headers.set(RecordHeaders::ENCODING, "zstd") && headers.set(RecordHeaders::CAUSE, "rewrite"));
        view.put(&record("k=v.x", "\u{0}binary")).headers(headers).await.unwrap();
        view.put(&record("1", "changed")).await.unwrap();
        users.delete(&UserKey::new(9)).await.unwrap();
        copies_are_equal(&world, &view).await;

        let (memory, name) = (Store::memory(), users.name().to_owned());
        copy_bucket(&view, &memory).await.unwrap();
        let copy: Bucket<User> = memory.bucket().name(&*name).must_exist().await.unwrap();
        assert_eq!(copy.card().await.unwrap(), users.card().await.unwrap());
        assert_eq!(copy.config().description.as_deref(), Some("of the team"));
        assert_eq!(copy.get(&UserKey::new(5)).await.unwrap().unwrap().name, "user 5");
        assert!(copy.history(&UserKey::new(9)).await.unwrap().is_empty(), "no delete markers are copied");
    }

    async fn large_copy_keeps_the_order(world: World) {
        let from: Bucket<Session> = world.bucket().await;
        let view = raw(&world.store, from.name()).await;
        let rows: Vec<RawRecord> = (0..3_000).map(|id| record(&format!("s.{id}"), &format!("{id:0100}"))).collect();
        view.put_many(&rows).await.unwrap();
        let (mut steps, mut cursors) = (Vec::<CopyProgress>::new(), 0);
        let name = unique("large");
        let copied = copy_bucket(&view, &world.store).name(&*name).on_progress(|step| {
            cursors += 1;
            steps.push(step);
        }).await.unwrap();
        assert_eq!((copied.records, copied.removed, cursors), (3_000, 0, steps.len()));
        assert!(cursors > 2 && steps.is_sorted_by_key(|step| step.records));
        assert_eq!(steps.last().map(|step| (step.records, step.remaining, step.cursor)), Some((3_000, 0, copied.cursor)));
        assert_eq!(contents(&raw(&world.store, &name).await).await, contents(&view).await);
    }

    async fn resumed_copy_follows_changes_and_removals(world: World) {
        let from: Bucket<Session> = world.bucket().await;
        let view = raw(&world.store, from.name()).await;
        let (target, name) = (Store::memory(), unique("resumed"));
        let resume = async |cursor: Option<Cursor>| -> Copied {
            let copy = copy_bucket(&view, &target).name(&*name);
            match cursor {
                Some(cursor) => copy.resume(cursor).await.unwrap(),
                None => copy.await.unwrap(),
            }
        };
        for (name, bytes) in [("a", "1"), ("b", "1"), ("c", "1")] {
            view.put(&record(name, bytes)).await.unwrap();
        }
        let first = resume(None).await;
        assert_eq!(first.records, 3);
        view.put(&record("b", "2")).await.unwrap();
        view.delete(&key("a")).await.unwrap();
        view.put(&record("d", "1")).await.unwrap();
        view.delete(&key("d")).await.unwrap();
        let second = resume(Some(first.cursor)).await;
        assert_eq!((second.records, second.removed), (1, 1));
        assert_eq!(contents(&raw(&target, &name).await).await, contents(&view).await);
        let third = resume(Some(second.cursor)).await;
        assert_eq!((third.records, third.removed, third.cursor), (0, 0, second.cursor));

        let other: Bucket<Session> = world.bucket().await;
        other.put(&Session::new("acme", 1)).await.unwrap();
        let other = raw(&world.store, other.name()).await;
        let error = copy_bucket(&other, &target).resume(first.cursor).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::BucketReplaced), "{error}");
    }

    async fn copy_onto_itself_is_refused(world: World) {
        let from: Bucket<Session> = world.bucket().await;
        let view = raw(&world.store, from.name()).await;
        view.put(&record("a", "1")).await.unwrap();
        for store in [world.store.clone(), world.another().await] {
            let error = copy_bucket(&view, &store).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
        }
        let error = copy_bucket(&view, &world.store).name("not a name").await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
        assert_eq!(view.status().await.unwrap().last_revision.get(), 1);
    }

    async fn copy_expires_with_its_source(world: World) {
        crate::needs::needs!(RecordTtl);
        let from: Bucket<Session> = world.fresh().ttl(10 * MINUTE).await.unwrap();
        from.put(&Session::new("acme", 1)).ttl(MINUTE).await.unwrap();
        from.put(&Session::new("acme", 2)).await.unwrap();
        let view = raw(&world.store, from.name()).await;
        let due = async |bucket: &Bucket<RawRecord>, name: &str| {
            let entry = bucket.get(&key(name)).await.unwrap().unwrap();
            entry.remaining().unwrap()
        };
        let memory = Store::memory();
        copy_bucket(&view, &memory).await.unwrap();
        let copy = raw(&memory, from.name()).await;
        for name in ["acme.1", "acme.2"] {
            let (left, copied) = (due(&view, name).await, due(&copy, name).await);
            assert!(left.abs_diff(copied) < Duration::from_secs(2), "{name}: {left:?} and {copied:?}");
        }
        // The target keeps its settings.
        let short: Bucket<Session> = memory.bucket().name("short").ttl(MINUTE / 2).await.unwrap();
        copy_bucket(&view, &memory).name("short").await.unwrap();
        assert_eq!(short.get(&SessionKey::new("acme", 2)).await.unwrap().unwrap().ttl(), None);
        let deep: Bucket<Session> = memory.bucket().name("deep").history(3).await.unwrap();
        let error = copy_bucket(&view, &memory).name(deep.name()).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }) && error.key() == Some("acme.1"), "{error}");
    }

    async fn reserved_records_are_copied_on_request(world: World) {
        let name = unique("counted");
        let _: Bucket<Session> = world.store.bucket().name(&*name).await.unwrap();
        let ids = world.store.ids("orders").bucket(&*name);
        assert_eq!(ids.next().await.unwrap(), 1);
        let view = raw(&world.store, &name).await;
        let (without, with) = (Store::memory(), Store::memory());
        assert_eq!(copy_bucket(&view, &without).await.unwrap().records, 0);
        assert_eq!(copy_bucket(&view, &with).include_reserved().await.unwrap().records, 1);
        assert_eq!(with.ids("orders").bucket(&*name).next().await.unwrap(), 101);
    }
}

#[tokio::test(start_paused = true)]
async fn record_with_less_than_a_second_left_is_not_copied() {
    let (from, to) = (Store::memory(), Store::memory());
    let sessions: Bucket<Session> = from.bucket().await.unwrap();
    sessions.put(&Session::new("acme", 1)).ttl(Duration::from_secs(10)).await.unwrap();
    sessions.put(&Session::new("acme", 2)).ttl(Duration::from_secs(20)).await.unwrap();
    tokio::time::advance(Duration::from_millis(9_500)).await;
    let view = raw(&from, sessions.name()).await;
    let copied = copy_bucket(&view, &to).await.unwrap();
    assert_eq!((copied.records, copied.expiring), (1, 1));
    let copy = raw(&to, sessions.name()).await.get(&key("acme.2")).await.unwrap().unwrap();
    assert_eq!(copy.ttl().map(|ttl| ttl.as_secs()), Some(10));
}

#[tokio::test]
async fn interrupted_copy_resumes_without_loss() {
    let (from, to) = (Store::memory(), Store::memory());
    let sessions: Bucket<Session> = from.bucket().await.unwrap();
    let view = raw(&from, sessions.name()).await;
    let rows: Vec<RawRecord> = (0..2_000).map(|id| record(&format!("s.{id}"), "x")).collect();
    view.put_many(&rows).await.unwrap();
    let cursor = std::sync::Mutex::new(None);
    let copy = copy_bucket(&view, &to).on_progress(|step| *cursor.lock().unwrap() = Some(step.cursor));
    let mut copy = std::pin::pin!(copy.into_future());
    while cursor.lock().unwrap().is_none() {
        assert!(futures::poll!(&mut copy).is_pending(), "the copy ended before its first progress");
        tokio::task::yield_now().await;
    }
    let first = cursor.lock().unwrap().expect("there was progress");
    let rest = copy_bucket(&view, &to).resume(first).await.unwrap();
    assert!(rest.records < 2_000);
    let (copied, wanted) = (contents(&raw(&to, sessions.name()).await).await, contents(&view).await);
    assert_eq!(copied.len(), 2_000);
    assert_eq!(copied, wanted);
}
