//! Transactions: all or nothing, and records that were read must not have changed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;

use futures::FutureExt;
use futures::future::join_all;
use harness::cluster::Cluster;
use harness::{Mode, Proxy, Server};
use kvtyped::bucket::OpenBucket;
use kvtyped::prelude::*;
use kvtyped::txn::{Abort, TransactError};
use kvtyped::{Error, ErrorKind, Read, Storage};

use crate::needs::needs;
use crate::support::{Document, DocumentKey, OLD, Session, SessionKey, World, on_both_backends, seen_as, unique};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "bank", key = "account.{id}")]
struct Account {
    id: u64,
    balance: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "bank", key = "transfer.{id}")]
struct Transfer {
    id: u64,
    from: u64,
    to: u64,
    amount: i64,
}

/// A model for the bucket of `Document`. Its history is not set, so its type permits a TTL of single records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "document", key = "attachment.{id}")]
struct Attachment {
    id: u64,
}

#[derive(Debug, PartialEq)]
enum Refused {
    NoAccount,
    Overdrawn,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Refused {}

const ACCOUNTS: u64 = 8;
const BALANCE: i64 = 100;
const SUM: i64 = ACCOUNTS as i64 * BALANCE;

/// The timeout of a transaction, longer than any fault.
const PATIENT: Duration = Duration::from_secs(60);

async fn open_bank(open: OpenBucket<Account>) -> Bucket<Account> {
    let bank = open.await.expect("the bucket opens");
    let mut accounts = bank.transaction();
    for id in 0..ACCOUNTS {
        accounts = accounts.create(&Account { id, balance: BALANCE });
    }
    assert_eq!(accounts.commit().await.unwrap().revisions().len() as u64, ACCOUNTS);
    bank
}

/// Moves an amount that depends on the balance, and stores a record of the transfer.
async fn transfer(bank: &Bucket<Account>, id: u64, time: Duration) -> Result<(), TransactError> {
    let (from, to) = (id % ACCOUNTS, (id / ACCOUNTS + id + 1) % ACCOUNTS);
    if from == to {
        return Ok(());
    }
    let (from_key, to_key) = (&AccountKey::new(from), &AccountKey::new(to));
    let moved = bank.transact(|tx| async move {
        let mut giver = tx.get(from_key).await?.ok_or(Refused::NoAccount)?;
        let mut taker = tx.get(to_key).await?.ok_or(Refused::NoAccount)?;
        let amount = 1 + giver.balance / 10;
        if giver.balance < amount {
            return Err(Refused::Overdrawn.into());
        }
        giver.balance -= amount;
        taker.balance += amount;
        tx.put(&giver)?;
        tx.put(&taker)?;
        tx.create(&Transfer { id, from, to, amount }).await?;
        Ok(())
    });
    moved.timeout(time).max_attempts(10_000).await
}

/// Returns the sum of all balances, in a read-only transaction.
async fn sum(bank: &Bucket<Account>) -> Result<i64, TransactError> {
    let all = bank.transact(|tx| async move {
        let mut sum = 0;
        for id in 0..ACCOUNTS {
            sum += tx.get(&AccountKey::new(id)).await?.ok_or(Refused::NoAccount)?.balance;
        }
        Ok(sum)
    });
    all.timeout(PATIENT).max_attempts(10_000).await
}

/// Reads the stored records over a working connection, from the leader and without caches.
async fn stored<T: KvModel>(bucket: &Bucket<T>, keys: impl IntoIterator<Item = T::Key>) -> Vec<Option<T>> {
    let read = async |key: T::Key| bucket.get(&key).read(Read::Leader).await.unwrap().map(Entry::into_value);
    let mut found = Vec::new();
    for key in keys {
        found.push(read(key).await);
    }
    found
}

/// Checks that the balances match the recorded transfers, and that the recorded transfers match the results.
async fn balances(world: &World, bank: &Bucket<Account>, reported: &BTreeMap<u64, Result<(), TransactError>>) {
    let transfers: Bucket<Transfer> = seen_as(world, bank.name()).await;
    let mut expected: BTreeMap<u64, i64> = (0..ACCOUNTS).map(|id| (id, BALANCE)).collect();
    for (id, transfer) in reported.keys().zip(stored(&transfers, reported.keys().map(|id| TransferKey::new(*id))).await)
    {
        if let Some(Transfer { from, to, amount, .. }) = &transfer {
            *expected.get_mut(from).unwrap() -= amount;
            *expected.get_mut(to).unwrap() += amount;
        }
        match &reported[id] {
            Ok(()) => assert!(transfer.is_some(), "transfer {id} was acknowledged, and is lost"),
            Err(error) if error.kv().is_some_and(|error| error.outcome() == Outcome::Unknown) => {}
            Err(error) => assert_eq!(transfer, None, "transfer {id} was applied, but returned: {error:?}"),
        }
    }
    let accounts = stored(bank, (0..ACCOUNTS).map(AccountKey::new)).await;
    let found: BTreeMap<_, _> = accounts.into_iter().flatten().map(|account| (account.id, account.balance)).collect();
    assert_eq!(found, expected, "the accounts are what the transfers make of them");
    assert_eq!(found.values().sum::<i64>(), SUM, "no money is made or lost");
}

/// Returns the ids of transfers between two different accounts.
fn transfers(range: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
    range.filter(|id| id % ACCOUNTS != (id / ACCOUNTS + id + 1) % ACCOUNTS)
}

/// Runs transfers in several tasks concurrently.
async fn transfer_at_once(
    bank: &Bucket<Account>,
    tasks: u64,
    each: u64,
    time: Duration,
) -> BTreeMap<u64, Result<(), TransactError>> {
    let tasks = (0..tasks).map(|task| {
        let bank = bank.clone();
        tokio::spawn(async move {
            let mut reported = Vec::new();
            for id in transfers(task * each..(task + 1) * each) {
                reported.push((id, transfer(&bank, id, time).await));
            }
            reported
        })
    });
    join_all(tasks).await.into_iter().flat_map(|reported| reported.expect("no task panics")).collect()
}

on_both_backends! {
    needs Transactions;

    async fn concurrent_transfers_conserve_total(world: World) {
        let bank = open_bank(world.fresh().storage(Storage::Memory)).await;
        let reader = async {
            for _ in 0..20 {
                assert_eq!(sum(&bank).await.unwrap(), SUM, "a transaction that only reads saw what never was");
            }
        };
        let (reported, ()) = tokio::join!(transfer_at_once(&bank, 8, 40, PATIENT), reader);
        assert!(reported.len() > 200, "{} transfers", reported.len());
        for (id, result) in &reported {
            let refused = result.as_ref().err().and_then(|error| error.closure::<Refused>());
            assert!(result.is_ok() || refused == Some(&Refused::Overdrawn), "transfer {id}: {result:?}");
        }
        balances(&world, &bank, &reported).await;
    }

    async fn transaction_combines_all_write_kinds(world: World) {
        let sessions = world.bucket::<Session>().await;
        let [a, b, c, d] = [1, 2, 3, 4].map(|id| Session::new("acme", id));
        let first = sessions.transaction().put(&a).put(&b).create(&c).commit().await.unwrap();
        let [at_a, at_b, at_c] = first.revisions() else { panic!("{first:?}") };
        assert_eq!(first.last(), Some(*at_c));
        let second = sessions
            .transaction()
            .update(&a.clone().visited(1), *at_a)
            .delete(&b.key())
            .if_revision(*at_b)
            .purge(&c.key())
            .put(&d)
            .ttl(Duration::from_secs(60))
            .check(&SessionKey::new("acme", 9), Revision::ZERO)
            .commit()
            .await
            .unwrap();
        assert_eq!(second.revisions().len(), 4);
        let found = stored(&sessions, [1, 2, 3].map(|id| SessionKey::new("acme", id))).await;
        assert_eq!(found, [Some(a.visited(1)), None, None]);
        let lasting = sessions.get(&d.key()).await.unwrap().expect("written");
        assert_eq!((lasting.revision(), lasting.ttl().map(|ttl| ttl.as_secs())), (second.revisions()[3], Some(60)));
        // A removed record can be created again, over its delete marker.
        let again = sessions.transaction().create(&b).create(&c).put(&d).commit().await.unwrap();
        assert_eq!(again.revisions().len(), 3);
        assert_eq!(sessions.transaction().commit().await.unwrap().revisions(), []);
    }

    async fn failed_write_fails_transaction_and_is_named(world: World) {
        let sessions = world.bucket::<Session>().await;
        let [a, b, c] = [1, 2, 3].map(|id| Session::new("acme", id));
        let old = sessions.put(&a).await.unwrap();
        let now = sessions.put(&a.clone().visited(1)).await.unwrap();
        let before = sessions.status().await.unwrap().last_revision;

        let conflict = sessions.transaction().put(&b).update(&a, old).create(&c).commit().await.unwrap_err();
        assert!(matches!(conflict.kind(), ErrorKind::Conflict { .. }), "{conflict}");
        let check = sessions.transaction().create(&b).create(&c).check(&a.key(), old).commit().await.unwrap_err();
        let exists = sessions.transaction().create(&b).create(&a).commit().await.unwrap_err();
        assert!(matches!(exists.kind(), ErrorKind::AlreadyExists), "{exists}");
        assert_eq!(exists.revision(), Some(now));
        let removal = sessions.transaction().put(&b).purge(&a.key()).if_revision(old).commit().await.unwrap_err();
        let twice = sessions.transaction().put(&a).put(&b).delete(&a.key()).commit().await.unwrap_err();
        assert!(matches!(twice.kind(), ErrorKind::InvalidBatch { .. }), "{twice}");
        for error in [conflict, check, exists, removal, twice] {
            assert_eq!((error.outcome(), error.key()), (Outcome::NotApplied, Some("acme.1")), "{error}");
            assert_eq!((error.operation(), error.bucket()), (Some("transaction"), Some(sessions.name())), "{error}");
        }
        let many = (0..1_001).fold(sessions.transaction(), |all, id| all.put(&Session::new("acme", id)));
        let error = many.commit().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidBatch { .. }) && error.to_string().contains("1000"), "{error}");
        assert_eq!(sessions.status().await.unwrap().last_revision, before, "nothing was written");
    }

    async fn invalid_transaction_options_are_rejected(world: World) {
        let documents = world.bucket::<Document>().await;
        let error = documents.transaction().ttl(Duration::from_secs(5)).commit().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidBatch { .. }), "{error}");
        let error = documents.transaction().if_revision(Revision::new(1)).commit().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidBatch { .. }), "{error}");
        let lasting = documents.transaction().put(&Document::new("a", "b")).ttl(Duration::from_secs(5));
        let error = lasting.commit().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
    }

    async fn transact_sees_own_writes_and_reads_keys_once(world: World) {
        let documents = world.bucket::<Document>().await;
        documents.put(&Document::new("a", "1")).await.unwrap();
        let (bucket, runs) = (&documents, &AtomicU32::new(0));
        let seen = documents.transact(|tx| async move {
            let key = DocumentKey::new("a");
            let first = tx.get(&key).await?.expect("there").text;
            if runs.fetch_add(1, Ordering::Relaxed) == 0 {
                bucket.put(&Document::new("a", "2")).await?;
            }
            assert_eq!(tx.get(&key).await?.expect("there").text, first, "it is read once");
            tx.put(&Document::new("a", "own"))?;
            assert_eq!(tx.get(&key).await?.expect("there").text, "own");
            tx.delete(&key)?;
            assert_eq!(tx.get(&key).await?, None);
            tx.create(&Document::new("a", "created")).await?;
            let other = tx.model::<Attachment>();
            other.put_for(&Attachment { id: 1 }, Duration::from_secs(60)).expect_err("history is kept");
            other.put(&Attachment { id: 1 })?;
            assert_eq!(other.get(&AttachmentKey::new(1_u64)).await?, Some(Attachment { id: 1 }));
            Ok(first)
        });
        assert_eq!(seen.await.unwrap(), "2", "it ran again on what another had written");
        assert_eq!(runs.load(Ordering::Relaxed), 2);
        let entry = documents.get(&DocumentKey::new("a")).read(Read::Leader).await.unwrap().expect("there");
        assert_eq!(entry.text, "created");
    }

    async fn read_only_keys_are_checked_at_commit(world: World) {
        // Two transactions read each other's record and write their own. One must be applied first and seen by the
        // other.
        let documents = world.bucket::<Document>().await;
        for round in 0..10 {
            let sign = async |mine: &str, other: &str| {
                let (bucket, mine, other) = (documents.clone(), format!("{mine}{round}"), format!("{other}{round}"));
                let names = (&mine, &other);
                let signed = bucket.transact(|tx| async move {
                    let (mine, other) = names;
                    let free = tx.get(&DocumentKey::new(other.as_str())).await?.is_none();
                    if free {
                        tx.put(&Document::new(mine, "on duty"))?;
                    }
                    Ok(free)
                });
                signed.await.unwrap()
            };
            let (one, two) = tokio::join!(sign("a", "b"), sign("b", "a"));
            assert!(one != two, "round {round}: both are on duty, or none: {one} {two}");
        }
    }

    async fn closure_error_is_returned_without_write(world: World) {
        let bank = open_bank(world.fresh()).await;
        let before = bank.status().await.unwrap().last_revision;
        let refused = bank.transact(|tx| async move {
            tx.put(&Account { id: 1, balance: 0 })?;
            tx.get(&AccountKey::new(99)).await?.ok_or(Refused::NoAccount)?;
            Ok(())
        });
        assert_eq!(refused.await.unwrap_err().into_closure::<Refused>().unwrap(), Refused::NoAccount);
        let exists = bank.transact(|tx| async move { Ok(tx.create(&Account { id: 1, balance: 0 }).await?) });
        let exists = exists.await.unwrap_err();
        assert!(exists.kv().is_some_and(|error| matches!(error.kind(), ErrorKind::AlreadyExists)), "{exists:?}");
        assert_eq!(exists.kv().and_then(|error| error.key()), Some("account.1"));
        let text = bank.transact(|_| async move { Err::<(), _>(Abort::new("enough")) }).await.unwrap_err();
        assert_eq!(text.to_string(), "enough");
        let error = Error::from(text);
        assert!(matches!(error.kind(), ErrorKind::Aborted), "{error}");
        assert_eq!(std::error::Error::source(&error).map(ToString::to_string).as_deref(), Some("enough"));
        assert_eq!(bank.status().await.unwrap().last_revision, before, "nothing was written");
    }

    async fn closure_error_on_inconsistent_read_is_retried(world: World) {
        let bank = open_bank(world.fresh()).await;
        let (outside, runs) = (&bank, &AtomicU32::new(0));
        // Both accounts change between the two reads. The closure saw an inconsistent state, so its error does not
        // count.
        let seen = bank.transact(|tx| async move {
            let one = tx.get(&AccountKey::new(1)).await?.expect("there").balance;
            if runs.fetch_add(1, Ordering::Relaxed) == 0 {
                let (one, two) = (Account { id: 1, balance: 0 }, Account { id: 2, balance: 2 * BALANCE });
                outside.transaction().put(&one).put(&two).commit().await?;
            }
            let two = tx.get(&AccountKey::new(2)).await?.expect("there").balance;
            if one + two == 2 * BALANCE { Ok(one) } else { Err(Abort::new("money was made")) }
        });
        assert_eq!(seen.await.unwrap(), 0);
        assert_eq!(runs.load(Ordering::Relaxed), 2);
    }

    async fn panicking_closure_writes_nothing(world: World) {
        let bank = open_bank(world.fresh()).await;
        let before = bank.status().await.unwrap().last_revision;
        let panicking = bank.transact(|tx| async move {
            tx.put(&Account { id: 1, balance: 0 })?;
            assert!(tx.get(&AccountKey::new(2)).await?.is_none(), "as it should");
            Ok(())
        });
        let panic = std::panic::AssertUnwindSafe(panicking.into_future()).catch_unwind().await;
        assert!(panic.is_err());
        assert_eq!(bank.status().await.unwrap().last_revision, before, "nothing was written");
        assert_eq!(sum(&bank).await.unwrap(), SUM);
    }

    async fn transact_gives_up_after_max_attempts(world: World) {
        let documents = world.bucket::<Document>().await;
        let (bucket, key) = (&documents, &DocumentKey::new("a"));
        let never = documents.transact(|tx| async move {
            tx.get(key).await?;
            bucket.put(&Document::new("a", "another")).await?;
            tx.put(&Document::new("b", "never"))?;
            tx.put(&Document::new("c", "never"))?;
            Ok(())
        });
        let error = never.max_attempts(3).await.unwrap_err();
        let Some(ErrorKind::RetriesExhausted { attempts: 3, .. }) = error.kv().map(Error::kind) else {
            panic!("{error:?}")
        };
        assert_eq!(documents.get(&DocumentKey::new("b")).await.unwrap(), None);
    }

    async fn tx_handle_is_invalid_after_transaction(world: World) {
        let documents = world.bucket::<Document>().await;
        let kept = std::sync::Mutex::new(None);
        let keep = &kept;
        documents.transact(|tx| async move { keep.lock().unwrap().replace(tx.model::<Document>()); Ok(()) }).await.unwrap();
        let tx = kept.into_inner().unwrap().expect("kept");
        let error = tx.put(&Document::new("a", "late")).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidBatch { .. }), "{error}");
    }

    async fn dropped_transaction_is_atomic(world: World) {
        let bank = open_bank(world.fresh().storage(Storage::Memory)).await;
        let mut reported = BTreeMap::new();
        for (polls, id) in transfers(0..150).enumerate() {
            let mut future = Box::pin(transfer(&bank, id, PATIENT));
            let mut left = polls / 2;
            let done = std::future::poll_fn(|context| {
                if left == 0 {
                    return Poll::Ready(None);
                }
                left -= 1;
                future.as_mut().poll(context).map(Some)
            });
            let done = done.await;
            drop(future);
            // The outcome of a dropped transaction is unknown.
            let unknown = || Err(Error::new(ErrorKind::Closed).unknown_outcome().into());
            reported.insert(id, done.unwrap_or_else(unknown));
        }
        // A later transfer: a server processes the requests of one connection in order.
        transfer(&bank, 1_001, PATIENT).await.unwrap();
        reported.insert(1_001, Ok(()));
        balances(&world, &bank, &reported).await;
    }
}

/// Causes faults repeatedly until the transfers are complete.
async fn over_faults(
    world: &World,
    bank: &Bucket<Account>,
    through: &Bucket<Account>,
    faults: &AtomicU32,
    failing: impl Future<Output = ()>,
) -> BTreeMap<u64, Result<(), TransactError>> {
    let mut reported = BTreeMap::new();
    tokio::select! {
        () = failing => unreachable!("faults go on"),
        all = transfer_at_once(through, 6, 24, Duration::from_secs(10)) => reported.extend(all),
    }
    assert!(faults.load(Ordering::Relaxed) > 0, "no fault was injected");
    let applied = reported.values().filter(|result| result.is_ok()).count();
    assert!(applied > 20, "{applied} of {} were applied: {reported:?}", reported.len());
    let after = join_all((0..4).map(|n| transfer(bank, 900 + n, PATIENT))).await;
    assert!(after.iter().all(Result::is_ok), "afterwards all is well: {after:?}");
    reported.extend((900..).zip(after));
    balances(world, bank, &reported).await;
    reported
}

#[tokio::test]
async fn transfers_conserve_total_despite_lost_acks() {
    needs!(Transactions);
    for storage in [Storage::Memory, Storage::File] {
        let world = World::nats().await;
        let bank = open_bank(world.fresh().storage(storage)).await;
        let proxy = Proxy::start(harness::shared().await.addr()).await;
        let through = seen_as(&World::at(&proxy.url()).await, bank.name()).await;
        let faults = AtomicU32::new(0);
        let failing = async {
            loop {
                let lost = proxy.dropped_replies();
                proxy.set(Mode::DropReplies);
                proxy.await_dropped(lost + 2).await;
                faults.fetch_add(1, Ordering::Relaxed);
                proxy.cut();
                let connections = proxy.connections();
                proxy.set(Mode::Pass);
                proxy.await_connections(connections + 1).await;
                tokio::time::sleep(Duration::from_millis(150)).await;
                proxy.cut();
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
        };
        over_faults(&world, &bank, &through, &faults, failing).await;
    }
}

#[tokio::test]
async fn transfers_conserve_total_during_server_kills() {
    needs!(Transactions);
    let server = Server::start().await;
    let world = World::at(&server.url()).await;
    let bank = open_bank(world.fresh()).await;
    let faults = AtomicU32::new(0);
    let failing = async {
        loop {
            tokio::time::sleep(Duration::from_millis(400)).await;
            server.kill().await;
            faults.fetch_add(1, Ordering::Relaxed);
            server.restart().await;
        }
    };
    let through = seen_as(&World::at(&server.url()).await, bank.name()).await;
    over_faults(&world, &bank, &through, &faults, failing).await;
}

#[tokio::test]
async fn transfers_conserve_total_during_step_downs() {
    needs!(Transactions);
    let cluster: &Cluster = harness::cluster::shared().await;
    let world = World::at(&cluster.urls()).await;
    let bank = open_bank(world.fresh().replicas(3)).await;
    let stream = format!("KV_{}", bank.name());
    let faults = AtomicU32::new(0);
    let failing = async {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            cluster.step_down(&stream).await;
            faults.fetch_add(1, Ordering::Relaxed);
        }
    };
    let reader = async {
        for _ in 0..10 {
            assert_eq!(sum(&bank).await.unwrap(), SUM, "a transaction that only reads saw what never was");
        }
    };
    let through = seen_as(&World::at(&cluster.node(1).url()).await, bank.name()).await;
    tokio::join!(over_faults(&world, &bank, &through, &faults, failing), reader);
}

#[tokio::test]
async fn lost_ack_of_transaction_is_recovered() {
    needs!(Transactions);
    let world = World::nats().await;
    let past: Bucket<Session> = world.bucket().await;
    let proxy = Proxy::start(harness::shared().await.addr()).await;
    let through: Bucket<Session> = seen_as(&World::at(&proxy.url()).await, past.name()).await;
    let [a, b] = [1, 2].map(|id| Session::new("acme", id));
    let first = past.put(&a).await.unwrap();
    for guarded in [true, false] {
        let lost = proxy.dropped_replies();
        proxy.set(Mode::DropReplies);
        let both = if guarded { through.transaction().update(&a, first) } else { through.transaction().put(&a) };
        let both = both.put(&b).timeout(Duration::from_secs(8)).commit();
        let (result, ()) = tokio::join!(both, async {
            proxy.await_dropped(lost + 1).await;
            proxy.set(Mode::Pass);
        });
        let committed = result.expect("it is found");
        let mut stored = Vec::new();
        for session in [&a, &b] {
            stored.push(past.get(&session.key()).read(Read::Leader).await.unwrap().expect("written").revision());
        }
        assert_eq!(committed.revisions(), stored, "guarded: {guarded}");
        assert_eq!(past.status().await.unwrap().last_revision, stored[1], "it was applied once");
    }
}

#[tokio::test]
async fn dropped_commit_leaves_no_open_batch() {
    needs!(Transactions);
    // More batches are dropped than the server keeps as incomplete batches. The server itself would discard them only
    // after ten seconds.
    let world = World::nats().await;
    let sessions: Bucket<Session> = world.fresh().storage(Storage::Memory).await.unwrap();
    let all: Vec<_> = (0..900).map(|id| Session::new("acme", id)).collect();
    for _ in 0..70 {
        let many = all.iter().fold(sessions.transaction(), |many, session| many.put(session));
        let mut commit = Box::pin(many.commit());
        let mut polls = 2;
        std::future::poll_fn(|context| {
            polls -= 1;
            let done = commit.as_mut().poll(context).is_ready();
            if done || polls == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
    let two = sessions.transaction().put(&all[0]).put(&all[1]).timeout(Duration::from_secs(4));
    two.commit().await.expect("there is room");
}

#[tokio::test]
async fn unsupported_transaction_names_requirement() {
    needs!(Transactions);
    let server = Server::builder().version(OLD).start().await;
    let world = World::at(&server.url()).await;
    let old: Bucket<Session> = world.bucket().await;
    let [a, b] = [1, 2].map(|id| Session::new("acme", id));
    let error = old.transaction().put(&a).put(&b).commit().await.unwrap_err();
    let ErrorKind::Unsupported { needs, found } = error.kind() else { panic!("{error}") };
    assert!(needs.contains("nats-server 2.12") && found.contains(OLD), "{error}");
    assert_eq!(old.transaction().create(&a).commit().await.unwrap().revisions().len(), 1, "one write is a write");
    let error = world.fresh::<Session>().atomic(true).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");

    let world = World::nats().await;
    let name = unique("plain");
    let plain: Bucket<Session> = world.store.bucket().name(&name).atomic(false).await.unwrap();
    let error = plain.transaction().put(&a).put(&b).commit().await.unwrap_err();
    assert!(error.to_string().contains(".atomic(true).on_drift(Drift::Update)"), "{error}");
    let able: Bucket<Session> = world.store.bucket().name(&name).atomic(true).on_drift(Drift::Update).await.unwrap();
    assert_eq!(able.transaction().put(&a).put(&b).commit().await.unwrap().revisions().len(), 2);
}

#[tokio::test]
async fn transaction_runs_in_spawned_task() {
    let bank = open_bank(World::memory().fresh()).await;
    let task = tokio::spawn(async move { transfer(&bank, 0, PATIENT).await });
    task.await.expect("no panic").unwrap();
}
