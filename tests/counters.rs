//! Counters: the total is exact, or the outcome is reported as unknown (P24).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::HeaderMap;
use harness::{Cluster, Mode, Proxy, Server};
use kvtyped::ErrorKind;
use kvtyped::prelude::*;
use kvtyped::recipes::Counters;

use crate::needs::needs;
use crate::support::{OLD, Session, SessionKey, World, on_both_backends, unique};

/// The duration of the tests with faults.
const WHILE: Duration = Duration::from_secs(8);

impl World {
    /// Returns counters that no other test uses.
    fn fresh_counters(&self) -> Counters {
        self.store.counters(unique("hits"))
    }
}

on_both_backends! {
    async fn increment_returns_total_of_its_counter(world: World) {
        let name = unique("hits");
        let hits = world.store.counters(&name).await.unwrap();
        assert_eq!(hits.get("home").await.unwrap(), 0);
        for (delta, total) in [(1, 1), (41, 42), (-50, -8), (0, -8)] {
            assert_eq!(hits.add("home", delta).await.unwrap(), total);
            assert_eq!(hits.get("home").await.unwrap(), total);
        }
        // Every text is a valid name.
        for odd in ["a.b", "*", ">", "", "=kvtyped", "caf\u{e9} au lait"] {
            assert_eq!(hits.add(odd, 1).await.unwrap(), 1, "{odd}");
        }
        let other = world.store.counters(&name).await.unwrap();
        assert_eq!(other.add("home", 8).await.unwrap(), 0, "they are the same counters");
        let all = other.all().await.unwrap();
        assert_eq!(all.len(), 7, "{all:?}");
        assert!(all.is_sorted() && all.contains(&("home".into(), 0)) && all.contains(&("a.b".into(), 1)), "{all:?}");
    }

    async fn removed_counter_starts_again_at_zero(world: World) {
        let hits = world.fresh_counters().await.unwrap();
        hits.remove("home").await.unwrap();
        hits.add("home", 7).await.unwrap();
        hits.add("about", 7).await.unwrap();
        hits.remove("home").await.unwrap();
        assert_eq!((hits.get("home").await.unwrap(), hits.get("about").await.unwrap()), (0, 7));
        assert_eq!(hits.all().await.unwrap(), [("about".to_owned(), 7)]);
        assert_eq!(hits.add("home", 1).await.unwrap(), 1);
    }

    async fn increments_of_many_tasks_are_all_counted(world: World) {
        let hits = world.fresh_counters().await.unwrap();
        let tasks = (0..8).map(|task| {
            let hits = hits.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    hits.add("home", task).await.unwrap();
                }
            })
        });
        futures::future::try_join_all(tasks).await.unwrap();
        assert_eq!(hits.get("home").await.unwrap(), 50 * (0..8).sum::<i64>());
    }

    /// Acknowledged increments are counted, and refused increments are not.
    async fn out_of_range_increment_is_not_counted(world: World) {
        let hits = world.fresh_counters().await.unwrap();
        for (end, step) in [(i64::MAX, 1), (i64::MIN, -1)] {
            let name = if step > 0 { "top" } else { "bottom" };
            let start = end - 100 * step;
            hits.add(name, start).await.unwrap();
            let tasks = (0..8).map(|task| {
                let hits = hits.clone();
                tokio::spawn(async move {
                    let mut counted = 0;
                    for turn in 0..25 {
                        // Some increments have the opposite sign.
                        let delta = if (task + turn) % 4 == 0 { -7 * step } else { 9 * step };
                        match hits.add(name, delta).await {
                            Ok(_) => counted += delta,
                            Err(error) => {
                                assert!(matches!(error.kind(), ErrorKind::OutOfRange { .. }), "{error}");
                                assert_eq!(error.outcome(), Outcome::NotApplied);
                            }
                        }
                    }
                    counted
                })
            });
            let counted: i64 = futures::future::try_join_all(tasks).await.unwrap().into_iter().sum();
            assert_eq!(hits.get(name).await.unwrap(), start + counted);
            let refused = hits.add(name, end).await.unwrap_err();
            assert!(matches!(refused.kind(), ErrorKind::OutOfRange { .. }), "{refused}");
            assert_eq!(hits.get(name).await.unwrap(), start + counted);
        }
        for end in [i64::MAX, i64::MIN] {
            assert_eq!(hits.add(&end.to_string(), end).await.unwrap(), end);
            hits.add(&end.to_string(), end.signum()).await.unwrap_err();
            assert_eq!(hits.add(&end.to_string(), -end.signum()).await.unwrap(), end - end.signum());
        }
    }

    async fn counter_sets_in_a_bucket_are_independent(world: World) {
        let bucket = unique("counts");
        let own = world.store.counters(&bucket).await.unwrap();
        let hits = world.store.counters("hits").bucket(&bucket).await.unwrap();
        let misses = world.store.counters("misses").bucket(&bucket).await.unwrap();
        for (counters, delta) in [(&own, 1), (&hits, 2), (&misses, 3)] {
            assert_eq!(counters.add("home", delta).await.unwrap(), delta);
            assert_eq!(counters.all().await.unwrap(), [("home".to_owned(), delta)]);
        }
        assert_eq!(own.is_server_side().await.unwrap(), hits.is_server_side().await.unwrap());
        assert!(format!("{hits:?}").contains("server_side"));
    }

    async fn counters_with_invalid_bucket_name_are_refused(world: World) {
        let refused = world.store.counters("page hits").await.unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::InvalidConfig { .. }), "{refused}");
        assert!(refused.to_string().contains("page hits"), "{refused}");
        world.store.counters("page hits").bucket(unique("hits")).await.unwrap().add("home", 1).await.unwrap();
    }

    async fn counters_in_record_bucket_keep_its_records(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        sessions.put(&Session::new("home", 1)).await.unwrap();
        let hits = world.store.counters(sessions.name()).await.unwrap();
        assert!(!hits.is_server_side().await.unwrap());
        assert_eq!(hits.add("home", 2).await.unwrap(), 2);
        assert_eq!(hits.all().await.unwrap(), [("home".to_owned(), 2)]);
        let found: Vec<_> = sessions.list(..).await.unwrap().try_collect().await.unwrap();
        assert_eq!(found.len(), 1, "{found:?}");

        let forgetful: Bucket<Session> = world.fresh().ttl(Duration::from_secs(60)).await.unwrap();
        let refused = world.store.counters(forgetful.name()).await.unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::Unsupported { .. }), "{refused}");
    }

    async fn closed_store_refuses_counter_calls(world: World) {
        let hits = world.fresh_counters().await.unwrap();
        world.store.close().await.unwrap();
        for error in [hits.add("home", 1).await.unwrap_err(), hits.get("home").await.unwrap_err()] {
            assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
        }
    }
}

#[tokio::test]
async fn server_side_counters_are_used_if_supported() {
    needs!(Counters);
    assert!(World::nats().await.fresh_counters().await.unwrap().is_server_side().await.unwrap());
    assert!(!World::memory().fresh_counters().await.unwrap().is_server_side().await.unwrap());
}

/// An older server has no server-side counters, so the library stores the totals as records.
#[tokio::test]
async fn old_server_counters_are_not_server_side() {
    let server = Server::builder().version(OLD).start().await;
    let world = World::at(&server.url()).await;
    let hits = world.fresh_counters().await.unwrap();
    assert!(!hits.is_server_side().await.unwrap());
    let adding = (0..8).map(|_| hits.add("home", 1));
    futures::future::try_join_all(adding).await.unwrap();
    assert_eq!(hits.get("home").await.unwrap(), 8);
}

/// Increments of other ADR-49 clients are counted, and those clients read the totals of this library.
#[tokio::test]
async fn increments_of_other_clients_are_counted() {
    needs!(Counters);
    let server = harness::shared().await;
    let world = World::at(&server.url()).await;
    let name = unique("hits");
    let hits = world.store.counters(&name).await.unwrap();
    hits.add("home", 2).await.unwrap();
    let client = async_nats::connect(server.url()).await.unwrap();
    let add = async |subject: String, delta: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Incr", delta);
        client.request_with_headers(subject, headers, "".into()).await.unwrap()
    };
    let answer = add(format!("$KV.{name}.home"), "+5").await;
    assert!(String::from_utf8_lossy(&answer.payload).contains(r#""val":"7""#), "{answer:?}");
    assert_eq!(hits.get("home").await.unwrap(), 7);
    let stored = async_nats::jetstream::new(client.clone()).get_key_value(&name).await.unwrap();
    assert_eq!(stored.get("home").await.unwrap().unwrap(), r#"{"val":"7"}"#);
    // Other clients have no range limit.
    add(format!("$KV.{name}.home"), "340282366920938463463374607431768211456000").await;
    for error in [hits.get("home").await.unwrap_err(), hits.add("home", 1).await.unwrap_err()] {
        assert!(matches!(error.kind(), ErrorKind::OutOfRange { .. }), "{error}");
    }
    add(format!("$KV.{name}.home"), "-340282366920938463463374607431768211456000").await;
    assert_eq!(hits.get("home").await.unwrap(), 7, "the refused increment is reverted");
    let mistaken: Bucket<Session> = world.store.bucket().name(&name).on_drift(Drift::Adopt).must_exist().await.unwrap();
    let refused = mistaken.put(&Session::new("a", 1)).await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Unsupported { .. }), "{refused}");
    assert!(mistaken.get(&SessionKey::new("a", 1)).await.unwrap().is_none());
}

/// An increment without an acknowledgement is found by its id, and its total is read.
#[tokio::test]
async fn lost_ack_of_increment_counts_once() {
    needs!(Counters);
    for (url, addr, replicas) in [
        (harness::shared().await.url(), harness::shared().await.addr(), 1),
        (harness::cluster::shared().await.node(0).url(), harness::cluster::shared().await.node(0).addr(), 3),
    ] {
        let past = World::at(&url).await;
        let name = unique("hits");
        let direct = past.store.counters(&name).replicas(replicas).await.unwrap();
        let proxy = Proxy::start(addr).await;
        let through = World::at(&proxy.url()).await.store.counters(&name).await.unwrap();
        for round in 0..4 {
            let dropped = proxy.dropped_replies();
            proxy.set(Mode::DropReplies);
            let (total, ()) = tokio::join!(through.add("home", 10), async {
                proxy.await_dropped(dropped + 1).await;
                // The lost increment is no longer the newest.
                if round % 2 == 1 {
                    direct.add("home", 1).await.unwrap();
                }
                proxy.set(Mode::Pass);
            });
            // The total at the time of the increment, because the server keeps it.
            assert_eq!(total.unwrap(), 10 * (round + 1) + round / 2, "round {round}");
            let counted = direct.get("home").await.unwrap();
            assert_eq!(counted, 10 * (round + 1) + (round + 1) / 2, "round {round}");
        }
    }
}

/// No reply arrives: the outcome must be reported as unknown.
#[tokio::test]
async fn increment_without_reply_has_unknown_outcome() {
    needs!(Counters);
    let past = World::nats().await;
    let name = unique("hits");
    let direct = past.store.counters(&name).await.unwrap();
    let proxy = Proxy::start(harness::shared().await.addr()).await;
    let store = World::at(&proxy.url()).await.store;
    let through = store.counters(&name).timeout(Duration::from_secs(2)).await.unwrap();
    proxy.set(Mode::DropReplies);
    let error = through.add("home", 1).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    proxy.set(Mode::Pass);
    assert_eq!(direct.get("home").await.unwrap(), 1);
    assert_eq!(through.add("home", 1).await.unwrap(), 2);
}

/// The outcomes of the increments of many tasks during a fault.
#[derive(Debug, Default, Clone, Copy)]
struct Observed {
    acknowledged: i64,
    unknown: i64,
    refused: i64,
}

/// Eight tasks increment over the given handles until `over` is set.
async fn add_until(over: Arc<AtomicBool>, handles: &[Counters]) -> Observed {
    let tasks = (0..8).map(|task| {
        let (hits, over) = (handles[task % handles.len()].clone(), Arc::clone(&over));
        tokio::spawn(async move {
            let mut reported = Observed::default();
            while !over.load(Ordering::Relaxed) {
                match hits.add("home", 1).await {
                    Ok(_) => reported.acknowledged += 1,
                    Err(error) if error.outcome() == Outcome::Unknown => reported.unknown += 1,
                    Err(_) => reported.refused += 1,
                }
            }
            reported
        })
    });
    let reported = futures::future::try_join_all(tasks).await.unwrap();
    reported.into_iter().fold(Observed::default(), |a, b| Observed {
        acknowledged: a.acknowledged + b.acknowledged,
        unknown: a.unknown + b.unknown,
        refused: a.refused + b.refused,
    })
}

fn assert_exact(reported: Observed, counted: i64, faults: usize) {
    println!("{reported:?} over {faults} faults; the counter: {counted}");
    assert!(faults > 0 && reported.acknowledged > 100, "{reported:?}");
    assert!(reported.acknowledged <= counted, "{} additions are lost: {reported:?}", reported.acknowledged - counted);
    assert!(counted <= reported.acknowledged + reported.unknown, "{counted} were counted of {reported:?}");
}

/// P24: the server is killed and restarted. It then remembers only the ids of the newest increments.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_are_exact_or_unknown_on_server_kill() {
    let server = Server::start().await;
    let mut handles = Vec::new();
    for _ in 0..2 {
        handles.push(World::at(&server.url()).await.store.counters("hits").await.unwrap());
    }
    let over = Arc::new(AtomicBool::new(false));
    let mut kills = 0;
    let (reported, ()) = tokio::join!(add_until(Arc::clone(&over), &handles), async {
        let end = tokio::time::Instant::now() + WHILE;
        while tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(700)).await;
            server.restart().await;
            kills += 1;
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_exact(reported, handles[0].get("home").await.unwrap(), kills);
}

/// P24: leaders step down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_are_exact_or_unknown_on_step_down() {
    let cluster = harness::cluster::shared().await;
    let name = unique("hits");
    let mut handles = Vec::new();
    for node in cluster.nodes() {
        handles.push(World::at(&node.url()).await.store.counters(&name).replicas(3).await.unwrap());
    }
    let over = Arc::new(AtomicBool::new(false));
    let mut step_downs = 0;
    let (reported, ()) = tokio::join!(add_until(Arc::clone(&over), &handles), async {
        let end = tokio::time::Instant::now() + WHILE;
        while tokio::time::Instant::now() < end {
            cluster.step_down(&format!("KV_{name}")).await;
            step_downs += 1;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_exact(reported, handles[0].get("home").await.unwrap(), step_downs);
}

/// P24: the leader is killed and restarted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_are_exact_or_unknown_on_leader_kill() {
    let cluster = Cluster::start(3).await;
    let mut handles = Vec::new();
    for _ in 0..2 {
        handles.push(World::at(&cluster.urls()).await.store.counters("hits").replicas(3).await.unwrap());
    }
    let over = Arc::new(AtomicBool::new(false));
    let mut kills = 0;
    let (reported, ()) = tokio::join!(add_until(Arc::clone(&over), &handles), async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let leader = harness::wait::until("there is a leader", Duration::from_secs(30), async || {
                cluster.leader_of("KV_hits").await
            });
            cluster.node(leader.await).restart().await;
            kills += 1;
        }
        cluster.ready().await;
        over.store(true, Ordering::Relaxed);
    });
    assert_exact(reported, handles[0].get("home").await.unwrap(), kills);
}

/// The control: a retry with the same id after a lost acknowledgement counts twice after a restart.
#[tokio::test]
async fn naive_retry_with_same_id_counts_twice() {
    needs!(Counters);
    let server = Server::start().await;
    let hits = World::at(&server.url()).await.store.counters("hits").await.unwrap();
    let add = async |id: &str| {
        let client = async_nats::connect(server.url()).await.unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Incr", "1");
        headers.insert("Nats-Msg-Id", id);
        client.request_with_headers("$KV.hits.home", headers, "".into()).await.unwrap()
    };
    add("ours").await;
    // The server still knows the ids that it keeps.
    server.restart().await;
    add("ours").await;
    assert_eq!(hits.get("home").await.unwrap(), 1);
    for _ in 0..64 {
        hits.add("home", 1).await.unwrap();
    }
    server.restart().await;
    add("ours").await;
    assert_eq!(hits.get("home").await.unwrap(), 66);
}
