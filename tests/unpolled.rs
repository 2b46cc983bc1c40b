//! Futures that are polled once or a few times, and then held without another poll.

use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use kvtyped::Read;
use kvtyped::prelude::*;
use kvtyped::txn::TransactError;

use crate::needs::needs;
use crate::support::{Session, SessionKey, on_both_backends};

const IN_TIME: Duration = Duration::from_secs(5);

fn key() -> SessionKey {
    SessionKey::new("acme", 7)
}

type Visit<'a> = BoxFuture<'a, Result<(), TransactError>>;

/// Counts a visit in a shared record and in a separate record, in one transaction.
fn visit(sessions: &Bucket<Session>, own: u64) -> Visit<'_> {
    let visit = sessions.transact(move |tx| async move {
        let mut session = tx.get(&key()).await?.expect("it is there");
        session.visits += 1;
        tx.put(&session)?;
        tx.put(&Session::new("own", own))?;
        Ok(())
    });
    visit.timeout(IN_TIME).into_future()
}

on_both_backends! {
    async fn unpolled_transactions_block_no_other_call(world: World) {
        needs!(world, Transactions);
        let sessions = world.bucket::<Session>().await;
        sessions.put(&Session::new("acme", 7)).await.unwrap();
        let mut left = Vec::new();
        let mut made = 0;
        // More transactions than may send concurrently, each left at another stage.
        for polls in 0..8 {
            for n in 0..12 {
                let mut change = visit(&sessions, 100 * polls + n);
                let mut is_done = false;
                for _ in 0..=polls {
                    if let Some(done) = change.as_mut().now_or_never() {
                        done.expect("it is applied");
                        (is_done, made) = (true, made + 1);
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                if !is_done {
                    left.push(change);
                }
            }
            for n in 0..3 {
                visit(&sessions, 10_000 + n).await.expect("no other call blocks it");
                made += 1;
            }
        }
        let left = join_all(left).await;
        // Transactions whose time is over time out. The others were applied once.
        let unknown = left.iter().filter(|result| {
            let outcome = result.as_ref().err().and_then(|error| error.kv()).map(|error| error.outcome());
            outcome == Some(Outcome::Unknown)
        });
        let unknown = unknown.count() as u32;
        made += left.iter().filter(|result| result.is_ok()).count() as u32;
        let visits = sessions.get(&key()).read(Read::Leader).await.unwrap().expect("there").visits;
        assert!((made..=made + unknown).contains(&visits), "{visits} visits, {made} applied, {unknown} unknown");
    }

    async fn unpolled_writes_block_no_other_call(world: World) {
        needs!(world, FencedUpdates);
        let open = if world.is_on_a_server() { world.fresh().limit_markers(Duration::from_secs(60)) } else { world.fresh() };
        let sessions: Bucket<Session> = open.await.unwrap();
        let (a, b) = (Session::new("acme", 1), Session::new("acme", 2));
        let guard = sessions.lock(&a.key()).await.unwrap();
        let mut left: Vec<BoxFuture<'_, bool>> = Vec::new();
        for n in 0..40 {
            let other = Session::new("other", n);
            let (sessions, guard) = (&sessions, &guard);
            let all = sessions.transaction().put(&a).put(&b).put(&other);
            left.push(async move { all.commit().await.is_ok() }.boxed());
            let other = Session::new("fenced", n);
            left.push(async move { sessions.create(&other).fenced_by(guard).await.is_ok() }.boxed());
            let other = Session::new("plain", n);
            left.push(async move { sessions.put(&other).await.is_ok() }.boxed());
        }
        let mut held = Vec::new();
        for mut write in left {
            if write.as_mut().now_or_never().is_none() {
                held.push(write);
            }
        }
        for n in 0..3 {
            let all = sessions.transaction().put(&a).put(&Session::new("next", n)).timeout(IN_TIME);
            all.commit().await.expect("no other call blocks it");
            sessions.put(&a).fenced_by(&guard).timeout(IN_TIME).await.expect("no other call blocks it");
            sessions.put(&b).timeout(IN_TIME).await.expect("no other call blocks it");
        }
        assert!(join_all(held).await.into_iter().all(|is_written| is_written));
    }
}

/// The first run of a transaction conflicts, so the second run has a turn, and its future is left during that turn.
#[tokio::test(start_paused = true)]
async fn an_unpolled_transaction_with_a_turn_is_passed_over() {
    let sessions: Bucket<Session> = Store::memory().bucket().await.unwrap();
    sessions.put(&Session::new("acme", 7)).await.unwrap();
    let loses_once = |runs: &Arc<AtomicU32>| {
        let (bucket, runs) = (sessions.clone(), Arc::clone(runs));
        let change = sessions.transact(move |tx| {
            let (bucket, run) = (bucket.clone(), runs.fetch_add(1, Ordering::Relaxed) + 1);
            async move {
                let mut session = tx.get(&key()).await?.expect("it is there");
                if run == 1 {
                    bucket.put(&Session::new("acme", 7).visited(session.visits)).await?;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
                session.visits += 1;
                tx.put(&session)?;
                Ok(())
            }
        });
        change.timeout(Duration::from_secs(60)).into_future()
    };
    let runs = Arc::default();
    let mut left = loses_once(&runs);
    while runs.load(Ordering::Relaxed) < 2 {
        assert!(left.as_mut().now_or_never().is_none(), "it is left before it ends");
        tokio::time::advance(Duration::from_micros(500)).await;
    }
    let start = tokio::time::Instant::now();
    for _ in 0..3 {
        loses_once(&Arc::default()).await.expect("no other call blocks it");
    }
    assert!(start.elapsed() < Duration::from_secs(1), "they waited {:?}", start.elapsed());
    left.await.expect("it ends well");
    assert_eq!(sessions.get(&key()).await.unwrap().expect("there").visits, 4);
}
