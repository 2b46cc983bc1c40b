//! Every async verb has one span and one report, under the name that its errors have.

use std::collections::BTreeSet;
use std::fs;
use std::future::IntoFuture;
use std::sync::{Arc, Mutex, PoisonError};

use kvtyped::bucket::copy_bucket;
use kvtyped::prelude::*;
use kvtyped::recipes::Quota;
use kvtyped::{Change, Error, ErrorKind};

use super::recorder::{Kept, Recorder, Spans};
use super::table;
use crate::index_probe::{User, user};
use crate::support::sentinels::VALUE;
use crate::support::{Document, DocumentKey, Session, on_both_backends, unique};

/// Calls verbs, and checks that each call has one span and one report.
struct Calls {
    spans: Spans,
    recorder: Arc<Recorder>,
    called: Mutex<BTreeSet<&'static str>>,
}

impl Calls {
    /// Awaits a verb of a table.
    async fn call<W: IntoFuture>(&self, verb: &'static str, work: W) -> W::Output {
        let operation = table::operation_of(verb);
        let (reports, spans) = (self.recorder.reports().len(), self.spans.operations().len());
        let output = work.await;
        let reports = self.recorder.reports().split_off(reports);
        let names: Vec<_> = reports.iter().map(|report| report.operation).collect();
        assert_eq!(names, [operation], "`{verb}` has one report");
        assert!(reports[0].named.is_none_or(|named| named == operation), "the error of `{verb}`: {:?}", reports[0]);
        let spans = self.spans.operations().split_off(spans);
        let names: Vec<_> = spans.iter().map(|span| span.fields["db.operation.name"].clone()).collect();
        assert_eq!(names, [operation], "`{verb}` has one span");
        self.called.lock().unwrap_or_else(PoisonError::into_inner).insert(verb);
        output
    }
}

async fn buckets(calls: &Calls, store: &Store) {
    let open = store.bucket().name(unique("session"));
    let sessions: Bucket<Session> = calls.call("OpenBucket", open).await.unwrap();
    let open = store.bucket().name(sessions.name()).read_only();
    let read: ReadBucket<Session> = calls.call("OpenReadBucket", open).await.unwrap();
    let raw = calls.call("OpenRawBucket", store.raw(sessions.name())).await.unwrap();
    let like = store.raw(sessions.name()).create_like(sessions.config());
    calls.call("CreateRawBucket", like).await.unwrap();
    let all: Vec<_> = (0..3).map(|id| Session::new("acme", id)).collect();
    let keys: Vec<_> = all.iter().map(Session::key).collect();
    let key = &keys[0];

    let first = calls.call("Put", sessions.put(&all[0])).await.unwrap();
    calls.call("Update", sessions.update(&all[0], first)).await.unwrap();
    calls.call("Create", sessions.create(&all[1])).await.unwrap();
    calls.call("Get", sessions.get(key)).await.unwrap();
    calls.call("GetMany", read.get_many(&keys)).await.unwrap();
    calls.call("GetManyResults", read.get_many(&keys).results()).await.unwrap();
    calls.call("Resolve", read.resolve(keys.iter().cloned().map(kvtyped::model::Ref::new))).await.unwrap();
    calls.call("Touch", sessions.touch(key).ttl(Duration::from_secs(60))).await.unwrap();
    calls.call("Modify", sessions.modify(key, |session| session.visits += 1)).await.unwrap();
    calls.call("TryModify", sessions.try_modify(key, |_| Err::<(), _>("no"))).await.unwrap_err();
    calls.call("Transform", sessions.transform(key, |_| Change::Keep)).await.unwrap();
    let both = sessions.transaction().put(&all[0]).put(&all[1]);
    calls.call("Transaction::commit", both.commit()).await.map(drop).or_else(unsupported).unwrap();
    let read_one = sessions.transact(|tx| async move { tx.get(key).await.map(drop).map_err(Into::into) });
    calls.call("Transact", read_one).await.unwrap();
    let list: Vec<_> = calls.call("List", sessions.list(..)).await.unwrap().try_collect().await.unwrap();
    assert_eq!(list.len(), 2);
    let _keys: Vec<_> = calls.call("Keys", sessions.keys(..)).await.unwrap().try_collect().await.unwrap();
    calls.call("Count", sessions.count(..)).await.unwrap();
    calls.call("ReadBucket::status", sessions.status()).await.unwrap();
    calls.call("ReadBucket::health", sessions.health()).await.unwrap();
    calls.call("ReadBucket::card", sessions.card()).await.unwrap();
    calls.call("WaitFor", sessions.wait_for(key, |_| true)).await.unwrap();
    drop(calls.call("Watch", sessions.watch(..)).await.unwrap());
    drop(calls.call("OpenCache", sessions.cache(..)).await.unwrap());
    drop(calls.call("OpenLive", sessions.live(key)).await.unwrap());
    let visits = |session: &Session| Ok::<_, std::fmt::Error>(session.visits);
    drop(calls.call("OpenDerived", sessions.live(key).derive(visits)).await.unwrap());
    calls.call("CheckSchema", sessions.check_schema()).await.unwrap();
    calls.call("CountVersions", sessions.schema_versions()).await.unwrap();
    // A model without versions refuses some of these.
    let _ = calls.call("SwitchVersion", sessions.switch_version(1)).await;
    let _ = calls.call("Migrate", sessions.migrate()).await;
    calls.call("DropIndex", sessions.drop_index("none")).await.unwrap();
    let _ = calls.call("DryRun", sessions.migrate().dry_run()).await;
    let _ = calls.call("Rewrite", sessions.rewrite(.., |_| Change::Keep)).await;
    let referenced = keys.iter().cloned().map(kvtyped::model::Ref::new);
    assert_eq!(calls.call("Resolve", read.resolve(referenced)).await.unwrap().len(), 2);
    let users: Bucket<User> = store.bucket().name(unique("users")).await.unwrap();
    users.put(&user(1, "ada")).await.unwrap();
    assert!(calls.call("GetBy", users.get_by(User::by_email("ada"))).await.unwrap().is_some());
    drop(calls.call("ListBy", users.list_by(User::by_team("core"))).await.unwrap());
    assert_eq!(calls.call("CountBy", users.count_by(User::by_team("core"))).await.unwrap(), 1);
    calls.call("VerifyIndexes", users.verify_indexes()).await.unwrap();
    calls.call("BuildIndex", users.build_index("team")).await.unwrap();
    calls.call("MaintainIndexesUntil", users.maintain_indexes().until(async {})).await.unwrap();
    calls.call("ReadBucket::synced_revision", users.synced_revision("team")).await.unwrap();
    // It ends because the bucket is gone.
    let gone: Bucket<User> = store.bucket().name(unique("users")).await.unwrap();
    gone.clone().close();
    calls.call("MaintainIndexes", gone.maintain_indexes()).await.unwrap_err();
    calls.call("CopyBucket", copy_bucket(&raw, store).name(unique("copy"))).await.unwrap();
    calls.call("PutMany", sessions.put_many(&all)).await.unwrap();
    calls.call("WriteManyResults", sessions.put_many(&all).results()).await.unwrap();
    calls.call("DeleteMany", sessions.delete_many(&keys)).await.unwrap();
    calls.call("Bucket::destroy", sessions.destroy()).await.unwrap();

    let documents: Bucket<Document> = store.bucket().name(unique("document")).await.unwrap();
    let key = DocumentKey::new("a");
    documents.put(&Document::new("a", VALUE)).await.unwrap();
    calls.call("History", documents.history(&key)).await.unwrap();
    calls.call("Delete", documents.delete(&key)).await.unwrap();
    calls.call("Purge", documents.purge(&key)).await.unwrap();
    calls.call("Compact", documents.compact(Duration::ZERO)).await.unwrap();
    calls.call("Store::delete_bucket", store.delete_bucket(documents.name())).await.unwrap();
}

async fn leases(calls: &Calls, store: &Store) {
    let name = unique("locks");
    let locks = calls.call("Locks", store.locks(&*name)).await.unwrap();
    let guard = calls.call("Lock", locks.lock("nightly")).await.unwrap();
    assert!(calls.call("TryLock", locks.try_lock("nightly")).await.unwrap().is_none());
    calls.call("Lease::ensure_remaining", guard.ensure_remaining(Duration::from_secs(1))).await.unwrap();
    let held: Vec<_> = calls.call("Locks::all", locks.all()).await.unwrap().try_collect().await.unwrap();
    assert_eq!(held.len(), 1);
    calls.call("Locks::waiters", locks.waiters("nightly")).await.unwrap();
    drop(calls.call("Locks::watch", locks.watch()).await.unwrap());
    calls.call("Store::recipes", store.recipes(&name)).await.unwrap();
    calls.call("LockGuard::release", guard.release()).await.unwrap();
    let guard = locks.lock("stuck").await.unwrap();
    let holder = calls.call("Locks::holder", locks.holder("stuck")).await.unwrap().expect("it is held");
    calls.call("Locks::break_lock", locks.break_lock("stuck", holder.fence)).await.unwrap();
    drop(guard);
    let sessions: Bucket<Session> = store.bucket().name(unique("session")).await.unwrap();
    let key = Session::new("acme", 1).key();
    let guard = calls.call("Lock", sessions.lock(&key)).await.unwrap();
    assert!(calls.call("Bucket::lock_holder", sessions.lock_holder(&key)).await.unwrap().is_some());
    calls.call("LockGuard::release", guard.release()).await.unwrap();

    let election = calls.call("Election", store.election::<String>(unique("election"))).await.unwrap();
    let me = "me".to_owned();
    let leadership = calls.call("Campaign", election.campaign(&me)).await.unwrap();
    calls.call("Election::leader", election.leader()).await.unwrap();
    drop(calls.call("Election::all", election.all()).await.unwrap());
    drop(calls.call("Election::observe", election.observe()).await.unwrap());
    calls.call("Election::depose", election.depose(leadership.fence())).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), leadership.lost()).await.expect("the leader learns of it");
    let leadership = election.campaign(&me).await.unwrap();
    calls.call("Leadership::proclaim", leadership.proclaim(&me)).await.unwrap();
    calls.call("Leadership::resign", leadership.resign()).await.unwrap();
    let leadership = election.campaign(&me).await.unwrap();
    calls.call("Leadership::release", leadership.release()).await.unwrap();
    let semaphore = calls.call("Semaphore", store.semaphore(unique("semaphore"), 1)).await.unwrap();
    let permit = calls.call("Acquire", semaphore.acquire()).await.unwrap();
    calls.call("TryAcquire", semaphore.try_acquire()).await.unwrap();
    calls.call("Semaphore::available", semaphore.available()).await.unwrap();
    calls.call("Semaphore::holders", semaphore.holders()).await.unwrap();
    calls.call("Permit::release", permit.release()).await.unwrap();
    let group = calls.call("Group", store.group::<String>(unique("group"))).await.unwrap();
    let member = calls.call("Join", group.join("me", &me)).await.unwrap();
    calls.call("Member::update", member.update(&me)).await.unwrap();
    calls.call("Group::get", group.get("me")).await.unwrap();
    calls.call("Group::members", group.members()).await.unwrap();
    drop(calls.call("Group::watch", group.watch()).await.unwrap());
    drop(calls.call("Group::view", group.view()).await.unwrap());
    calls.call("Member::leave", member.leave()).await.unwrap();
}

async fn other_recipes(calls: &Calls, store: &Store) {
    let once = calls.call("Once", store.once::<u32>(unique("once"))).await.unwrap();
    calls.call("OnceRun", once.run("charge", || async { Ok::<_, Error>(1) })).await.unwrap();
    let again = once.run("charge", || async { Ok::<_, Error>(1) });
    calls.call("OnceRunStatus", again.with_status()).await.unwrap();
    calls.call("Once::get", once.get("charge")).await.unwrap();
    drop(calls.call("Once::all", once.all()).await.unwrap());
    calls.call("Once::forget", once.forget("charge")).await.unwrap();
    let limiter = store.rate_limiter(unique("rate"), Quota::per_minute(1));
    let limiter = calls.call("RateLimiter", limiter).await.unwrap();
    let _ = calls.call("RateLimiter::peek", limiter.peek("client")).await.unwrap();
    calls.call("UntilReady", limiter.until_ready("client")).await.unwrap();
    assert!(!calls.call("RateLimiter::check", limiter.check("client")).await.unwrap().is_allowed());
    assert!(!calls.call("RateLimiter::check_n", limiter.check_n("client", 1)).await.unwrap().is_allowed());
    calls.call("RateLimiter::reset", limiter.reset("client")).await.unwrap();
    let counters = calls.call("Counters", store.counters(unique("hits"))).await.unwrap();
    calls.call("Counters::is_server_side", counters.is_server_side()).await.unwrap();
    calls.call("Counters::add", counters.add("home", 1)).await.unwrap();
    calls.call("Counters::get", counters.get("home")).await.unwrap();
    calls.call("Counters::all", counters.all()).await.unwrap();
    calls.call("Counters::remove", counters.remove("home")).await.unwrap();
    let ids = calls.call("Ids", store.ids(unique("ids"))).await.unwrap();
    calls.call("Ids::next", ids.next()).await.unwrap();
    calls.call("Ids::peek", ids.peek()).await.unwrap();
}

async fn stores(calls: &Calls, store: &Store) {
    calls.call("Store::buckets", store.buckets()).await.unwrap();
    calls.call("Store::ping", store.ping()).await.unwrap();
    calls.call("Store::info", store.info()).await.unwrap();
    calls.call("Store::account", store.account()).await.unwrap();
    calls.call("Store::health", store.health()).await.unwrap();
    let connect = Store::connect("memory:").observer(Arc::clone(&calls.recorder) as _);
    let memory = calls.call("Connect", connect).await.unwrap();
    // Only a store in a file has a backup.
    calls.call("Store::backup", memory.backup("unused.kv")).await.unwrap_err();
    calls.call("Store::shutdown", memory.shutdown(Duration::from_secs(1))).await.unwrap();
    calls.call("Store::close", memory.close()).await.unwrap();
}

/// A server without batches refuses a transaction of two writes.
fn unsupported(error: Error) -> Result<(), Error> {
    if matches!(error.kind(), ErrorKind::Unsupported { .. }) { Ok(()) } else { Err(error) }
}

on_both_backends! {
    needs Locks;

    async fn every_verb_has_one_span_and_one_report(world: World) {
        let (spans, recorder) = (Spans::default(), Arc::new(Recorder::default()));
        let store = world.store.clone().with_observer(recorder.clone());
        let calls = Calls { spans: spans.clone(), recorder: recorder.clone(), called: Mutex::default() };
        let subscriber = tracing::subscriber::set_default(spans.clone());
        buckets(&calls, &store).await;
        leases(&calls, &store).await;
        other_recipes(&calls, &store).await;
        stores(&calls, &store).await;
        drop(subscriber);

        // A file has no observer before it is open.
        let called = calls.called.into_inner().unwrap_or_else(PoisonError::into_inner);
        let expected: BTreeSet<_> = table::all().into_iter().filter(|verb| *verb != "OpenFile").collect();
        assert_eq!(called, expected);
        let attributes = fs::read_to_string("golden/span_attributes.txt").expect("the file is there");
        for span in spans.all() {
            for field in span.fields.keys() {
                assert!(attributes.lines().any(|line| line.split(' ').next() == Some(field)), "{field}");
            }
            assert!(span.is_closed(), "{span:?}");
        }
        for span in spans.operations() {
            for required in attributes.lines().filter_map(|line| line.strip_suffix(" stable, required")) {
                assert!(span.fields.contains_key(required), "{required}: {span:?}");
            }
            let operation = &span.fields["db.operation.name"];
            let system = &*span.fields["db.system.name"];
            let kind = if world.is_on_a_server() && system != "memory" { ("nats", "client") } else { (system, "internal") };
            assert_eq!((system, &*span.fields["otel.kind"]), kind, "{operation}");
            let server = (system == "nats").then_some("127.0.0.1");
            for field in ["server.address", "network.peer.address"] {
                assert_eq!(span.fields.get(field).map(|host| &**host), server, "{field} of {operation}");
            }
        }

        let put = &recorder.of("put")[0];
        assert_eq!((put.attempts, put.retries, put.records), (1, 0, 1), "{put:?}");
        assert!(put.bytes > 0 && put.error.is_none(), "{put:?}");
        assert_eq!(spans.of("put")[0].fields["otel.name"], format!("put {}", put.bucket));
        let modify = &recorder.of("modify")[0];
        assert_eq!((modify.attempts, modify.records), (1, 1), "{modify:?}");
        let many = &recorder.of("put_many")[0];
        assert_eq!((many.attempts, many.records), (3, 3), "{many:?}");
        let span = &spans.of("put_many")[0].fields;
        assert_eq!(span["otel.name"], format!("BATCH put {}", many.bucket));
        assert_eq!(span["db.operation.batch.size"], "3");
        let get_many = &spans.of("get_many")[0].fields;
        assert!(!get_many.contains_key("db.operation.batch.size"), "several keys of a read are no batch");
        assert_eq!(recorder.of("get_many")[0].records, 2);
        assert_eq!(recorder.of("try_modify")[0].error.as_deref(), Some("aborted"));
        assert!(recorder.of("lock")[0].attempts >= 1, "the attempt ran in another task");
        assert!(recorder.of("add")[0].attempts >= 1);
        let events = recorder.events().join("\n");
        for event in ["LeaseAcquired { recipe: \"lock\"", "LeaseEnded { recipe: \"election\"", "RateDenied", "CacheState"] {
            assert!(events.contains(event), "{event} in {events}");
        }
        assert!(!events.contains("nightly"), "no event has the name of a lock: {events}");
    }
}

/// A closed store refuses every operation, so that each has an error.
#[tokio::test]
async fn errors_and_reports_have_the_same_names() {
    let recorder = Arc::new(Recorder::default());
    let store = Store::memory().with_observer(recorder.clone());
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    let raw = store.raw(sessions.name()).await.unwrap();
    let (locks, ids) = (store.locks("locks").await.unwrap(), store.ids("ids").await.unwrap());
    let (election, group) = (store.election::<String>("election"), store.group::<String>("group"));
    let (semaphore, once) = (store.semaphore("semaphore", 1), store.once::<u32>("once"));
    let (limiter, counters) = (store.rate_limiter("rate", Quota::per_minute(1)), store.counters("hits"));
    let guard = locks.lock("a").await.unwrap();
    let member = group.join("me", &"here".to_owned()).await.unwrap();
    let leadership = election.campaign(&"me".to_owned()).await.unwrap();
    store.close().await.unwrap();
    let before = recorder.reports().len();

    let all = [Session::new("acme", 1), Session::new("acme", 2)];
    let keys = all.each_ref().map(Session::key);
    let (one, key) = (&all[0], &keys[0]);
    let _ = sessions.put(one).await;
    let _ = sessions.update(one, Revision::new(1)).await;
    let _ = sessions.create(one).await;
    let _ = sessions.get(key).await;
    let _ = sessions.get_many(&keys).await;
    let _ = sessions.touch(key).ttl(Duration::from_secs(60)).await;
    let _ = sessions.modify(key, |session| session.visits += 1).await;
    let _ = sessions.try_modify(key, |_| Err::<(), _>("no")).await;
    let _ = sessions.transform(key, |_| Change::Keep).await;
    let _ = sessions.transaction().put(one).commit().await;
    let _ = sessions.transact(|tx| async move { tx.get(key).await.map(drop).map_err(Into::into) }).await;
    let _ = sessions.list(..).await;
    let _ = sessions.keys(..).await;
    let _ = sessions.count(..).await;
    let _ = sessions.status().await;
    let _ = sessions.health().await;
    let _ = sessions.card().await;
    let _ = sessions.wait_for(key, |_| true).await;
    let _ = sessions.watch(..).await;
    let _ = sessions.cache(..).await;
    let _ = sessions.live(key).await;
    let _ = sessions.check_schema().await;
    let _ = sessions.schema_versions().await;
    let _ = sessions.switch_version(1).await;
    let _ = sessions.migrate().await;
    let _ = sessions.migrate().dry_run().await;
    let _ = sessions.rewrite(.., |_| Change::Keep).await;
    let _ = sessions.put_many(&all).await;
    let _ = sessions.delete_many(&keys).await;
    let _ = sessions.history(key).await;
    let _ = sessions.delete(key).await;
    let _ = sessions.purge(key).await;
    let _ = sessions.compact(Duration::ZERO).await;
    let _ = sessions.lock(key).await;
    let _ = sessions.lock_holder(key).await;
    let _ = copy_bucket(&raw, &store).name("copy").await;
    let _ = sessions.destroy().await;
    let _ = store.bucket::<Session>().await;
    let _ = store.raw("sessions").await;
    let _ = store.delete_bucket("sessions").await;
    let _ = store.recipes("locks").await;
    let _ = locks.lock("b").await;
    let _ = locks.try_lock("b").await;
    let _ = locks.all().await;
    let _ = locks.waiters("b").await;
    let _ = locks.watch().await;
    let _ = locks.holder("b").await;
    let _ = locks.break_lock("b", guard.fence()).await;
    let _ = guard.ensure_remaining(Duration::from_secs(29)).await;
    let _ = guard.release().await;
    let _ = member.update(&"there".to_owned()).await;
    let _ = member.leave().await;
    let _ = leadership.proclaim(&"you".to_owned()).await;
    let _ = leadership.resign().await;
    let _ = election.campaign(&"me".to_owned()).await;
    let _ = election.leader().await;
    let _ = election.all().await;
    let _ = election.observe().await;
    let _ = group.join("me", &"here".to_owned()).await;
    let _ = group.get("me").await;
    let _ = group.members().await;
    let _ = group.watch().await;
    let _ = group.view().await;
    let _ = semaphore.acquire().await;
    let _ = semaphore.try_acquire().await;
    let _ = semaphore.available().await;
    let _ = semaphore.holders().await;
    let _ = once.run("charge", || async { Ok::<_, Error>(1) }).await;
    let _ = once.get("charge").await;
    let _ = once.all().await;
    let _ = once.forget("charge").await;
    let _ = limiter.check("client").await;
    let _ = limiter.peek("client").await;
    let _ = limiter.reset("client").await;
    let _ = limiter.until_ready("client").await;
    let _ = counters.add("home", 1).await;
    let _ = counters.get("home").await;
    let _ = counters.all().await;
    let _ = counters.remove("home").await;
    let _ = counters.is_server_side().await;
    let _ = ids.next().await;
    let _ = ids.peek().await;

    let reports = recorder.reports().split_off(before);
    assert!(reports.len() > 80, "{}", reports.len());
    // The error of a release names the request that failed.
    let is_same = |report: &Kept, named| named == report.operation || (report.operation, named) == ("release", "purge");
    let named = |report: &Kept| report.named.is_some_and(|named| !is_same(report, named));
    let wrong: Vec<_> = reports.iter().filter(|report| named(report)).map(|it| (it.operation, it.named)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let failed = reports.iter().filter(|report| report.named.is_some()).count();
    assert!(failed > 70, "only {failed} operations failed under a name");
}
