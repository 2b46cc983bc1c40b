//! Elections on the memory backend and on a server: one leader at a time, observation, proclamation, and loss of
//! leadership.

use std::sync::{Arc, Mutex};

use futures::future::join_all;
use harness::{Cluster, Mode, Proxy, wait};
use kvtyped::prelude::*;
use kvtyped::recipes::Leaders;
use kvtyped::{Error, ErrorKind};
use tokio::time::Instant;

use crate::needs::needs;
use crate::support::{ForeignRecord, SOON, World, dropped_after, on_both_backends, seen_as, soon, unique};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct NodeInfo {
    address: String,
}

fn node(address: &str) -> NodeInfo {
    NodeInfo { address: address.into() }
}

/// Returns the address of the next leader.
async fn reported(leaders: &mut Leaders<NodeInfo>) -> String {
    soon(leaders).await.expect("a leader").into_value().address
}

/// The transitions of all leaders, in order.
#[derive(Default)]
struct Log(Mutex<Vec<Step>>);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Started(u64),
    Stopped(u64),
}

impl Log {
    fn note(&self, step: Step) {
        self.0.lock().unwrap().push(step);
    }

    /// P23: each term stops before the next starts, and terms grow. Returns the terms.
    fn terms(&self) -> Vec<u64> {
        let steps = self.0.lock().unwrap();
        let mut terms = Vec::new();
        for pair in steps.chunks(2) {
            match pair {
                [Step::Started(term), Step::Stopped(stopped)] if term == stopped => terms.push(*term),
                [Step::Started(_)] => {}
                _ => panic!("{pair:?} in {steps:?}"),
            }
        }
        assert!(terms.is_sorted_by(|one, next| one < next), "{terms:?}");
        terms
    }
}

on_both_backends! {
    needs Elections;

    async fn leader_is_visible_to_other_processes(world: World) {
        let name = unique("election");
        let here = world.store.election::<NodeInfo>(&name).owner("process here");
        let there = world.another().await.election::<NodeInfo>(&name);
        assert_eq!(there.leader().await.unwrap(), None);
        let leadership = here.campaign(&node("a")).await.unwrap();
        let leader = there.leader().await.unwrap().expect("there is a leader");
        assert_eq!((&*leader.address, leader.owner()), ("a", "process here"));
        assert_eq!(leader.fence(), leadership.fence());
        assert!(leader.since().elapsed().unwrap_or_default() < SOON);
        let error = there.campaign(&node("b")).wait(Duration::from_millis(100)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error}");
        assert_eq!((error.operation(), error.bucket(), error.key()), (Some("campaign"), Some(&*name), Some(&*name)));
        leadership.release().await.unwrap();
        assert_eq!(there.leader().await.unwrap(), None);
        let next = there.campaign(&node("b")).await.unwrap();
        assert!(next.fence() > leader.fence());
        next.resign().await.unwrap();
    }

    async fn candidate_is_elected_after_resign_or_drop(world: World) {
        let name = unique("election");
        for drops in [false, true] {
            let leadership = world.store.election::<NodeInfo>(&name).campaign(&node("a")).await.unwrap();
            let election = world.another().await.election::<NodeInfo>(&name);
            let candidate = tokio::spawn(election.campaign(&node("b")).into_future());
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(!candidate.is_finished());
            if drops {
                drop(leadership);
            } else {
                leadership.resign().await.unwrap();
            }
            candidate.await.unwrap().unwrap().resign().await.unwrap();
        }
    }

    async fn observer_sees_each_leader_and_proclamation(world: World) {
        let name = unique("election");
        let election = world.store.election::<NodeInfo>(&name).ttl(2 * SECOND);
        let mut early = world.another().await.election::<NodeInfo>(&name).observe().await.unwrap();
        let first = election.campaign(&node("a")).await.unwrap();
        assert_eq!(reported(&mut early).await, "a");
        let mut late = election.observe().await.unwrap();
        assert_eq!(reported(&mut late).await, "a");
        let term = first.fence();
        // Renewals cause no events.
        tokio::time::sleep(2 * SECOND).await;
        first.proclaim(&node("a, ready")).await.unwrap();
        for leaders in [&mut early, &mut late] {
            let leader = soon(leaders).await.unwrap();
            assert_eq!((&*leader.address, leader.fence()), ("a, ready", term));
        }
        // The same value is proclaimed again.
        first.proclaim(&node("a, ready")).await.unwrap();
        assert_eq!(reported(&mut early).await, "a, ready");
        first.resign().await.unwrap();
        let second = election.campaign(&node("b")).await.unwrap();
        let leader = soon(&mut early).await.unwrap();
        assert_eq!((&*leader.address, leader.fence()), ("b", second.fence()));
        assert!(second.fence() > term);
        second.resign().await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(200), early.next()).await.is_err(), "a vacancy is no item");
    }

    async fn terms_of_many_candidates_do_not_overlap(world: World) {
        let name = unique("election");
        let log = Arc::new(Log::default());
        let mut candidates = Vec::new();
        for number in 0..6 {
            let election = world.another().await.election::<u32>(&name);
            let log = Arc::clone(&log);
            candidates.push(tokio::spawn(async move {
                for _ in 0..4 {
                    let leadership = election.campaign(&number).await.unwrap();
                    let term = leadership.fence().get();
                    log.note(Step::Started(term));
                    leadership.run(tokio::task::yield_now()).await.unwrap();
                    log.note(Step::Stopped(term));
                    leadership.resign().await.unwrap();
                }
            }));
        }
        join_all(candidates).await.into_iter().for_each(|candidate| candidate.unwrap());
        assert_eq!(log.terms().len(), 24);
    }

    async fn dropped_campaign_does_not_block_election(world: World) {
        let name = unique("election");
        let election = world.store.election::<NodeInfo>(&name);
        // The future is dropped after 0, 1, 2, … polls.
        for steps in 0..60 {
            dropped_after(election.campaign(&node("dropped")), steps).await;
        }
        let next = world.another().await.election::<NodeInfo>(&name);
        next.campaign(&node("b")).wait(SOON).await.unwrap().resign().await.unwrap();
    }

    async fn aborted_leader_task_resigns(world: World) {
        let name = unique("election");
        let election = world.store.election::<NodeInfo>(&name);
        let campaign = election.campaign(&node("a"));
        let (elected, is_elected) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let leadership = campaign.await.unwrap();
            elected.send(()).unwrap();
            leadership.run(std::future::pending::<()>()).await
        });
        is_elected.await.unwrap();
        task.abort();
        election.campaign(&node("b")).wait(SOON).await.unwrap().resign().await.unwrap();
    }

    async fn dead_leader_is_replaced(world: World) {
        let name = unique("election");
        let doomed = world.another().await;
        let _leadership = doomed.election::<NodeInfo>(&name).ttl(SECOND).campaign(&node("a")).await.unwrap();
        let election = world.store.election::<NodeInfo>(&name).ttl(SECOND);
        let mut leaders = election.observe().await.unwrap();
        assert_eq!(reported(&mut leaders).await, "a");
        doomed.close().await.unwrap();
        let next = election.campaign(&node("b")).wait(SOON).await.unwrap();
        assert_eq!(reported(&mut leaders).await, "b");
        next.resign().await.unwrap();
    }

    async fn undecodable_leader_is_reported_as_an_error(world: World) {
        let name = unique("election");
        let election = world.store.election::<NodeInfo>(&name).ttl(SECOND);
        election.campaign(&node("a")).await.unwrap().resign().await.unwrap();
        let junk = seen_as::<ForeignRecord>(&world, &name).await;
        let record = ForeignRecord::new("election", &name, "lease", "[1, 2");
        let mut leaders = election.observe().await.unwrap();
        junk.put(&record).await.unwrap();
        let is_decode = |error: &Error| matches!(error.kind(), ErrorKind::Decode { .. });
        assert!(soon(&mut leaders).await.is_err_and(|error| is_decode(&error)));
        assert!(election.leader().await.is_err_and(|error| is_decode(&error)));
        let error = election.campaign(&node("b")).wait(SECOND).await.unwrap_err();
        assert!(is_decode(&error), "it is not ours to take: {error}");
        // The leader proclaims a value that is not a `NodeInfo`, and is still the leader.
        junk.purge(&record.key()).await.unwrap();
        let other = world.store.election::<u32>(&name).ttl(SECOND);
        let leadership = other.campaign(&7).await.unwrap();
        assert!(soon(&mut leaders).await.is_err_and(|error| is_decode(&error)));
        assert!(election.leader().await.is_err_and(|error| is_decode(&error)));
        // The error is not repeated with each renewal.
        tokio::time::sleep(SECOND).await;
        leadership.resign().await.unwrap();
        let next = election.campaign(&node("b")).await.unwrap();
        assert_eq!(reported(&mut leaders).await, "b");
        next.resign().await.unwrap();
    }

    async fn oversized_proclamation_keeps_previous_value(world: World) {
        let name = unique("election");
        let small = world.store.bucket::<ForeignRecord>().name(&name).max_value_size(4_096).limit_markers(SECOND);
        small.await.unwrap();
        let election = world.store.election::<NodeInfo>(&name).ttl(2 * SECOND);
        let leadership = election.campaign(&node("a")).await.unwrap();
        let error = leadership.proclaim(&node(&"x".repeat(5_000))).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::TooLarge { .. }), "{error}");
        // The renewals continue.
        tokio::time::sleep(3 * SECOND).await;
        leadership.check().unwrap();
        assert_eq!(election.leader().await.unwrap().expect("there is a leader").address, "a");
        leadership.resign().await.unwrap();
    }

    async fn election_continues_in_recreated_bucket(world: World) {
        let name = unique("election");
        let election = world.store.election::<NodeInfo>(&name).ttl(2 * SECOND);
        let mut leaders = election.observe().await.unwrap();
        let old = election.campaign(&node("a")).await.unwrap();
        assert_eq!(reported(&mut leaders).await, "a");
        assert!(world.store.delete_bucket(&name).await.unwrap());
        tokio::time::timeout(SOON, old.lost()).await.unwrap();
        // The first failing call reports the missing bucket. The next call recreates the bucket.
        let started = Instant::now();
        let new = loop {
            match election.campaign(&node("b")).wait(SOON).await {
                Ok(new) => break new,
                Err(error) => assert!(matches!(error.kind(), ErrorKind::BucketNotFound), "{error}"),
            }
            assert!(started.elapsed() < SOON);
        };
        new.ensure_remaining(SECOND).await.unwrap();
        let leader = loop {
            match soon(&mut leaders).await {
                Ok(leader) => break leader,
                Err(error) => assert!(matches!(error.kind(), ErrorKind::BucketNotFound), "{error}"),
            }
        };
        assert_eq!(leader.address, "b");
        new.resign().await.unwrap();
    }

    async fn invalid_times_and_names_are_refused(world: World) {
        let election = world.store.election::<NodeInfo>(unique("election"));
        let error = election.campaign(&node("a")).ttl(SECOND).safety_margin(SECOND).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
        let error = world.store.election::<u32>("no bucket").leader().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn leader_stands_down_before_the_next_election() {
    let world = World::memory();
    let doomed = world.another().await;
    let leadership = doomed.election::<NodeInfo>("e").campaign(&node("a")).await.unwrap();
    let elected = Instant::now();
    doomed.close().await.unwrap();
    let election = world.store.election::<NodeInfo>("e");
    let mut leaders = election.observe().await.unwrap();
    assert_eq!(reported(&mut leaders).await, "a");
    let (lost, next) = tokio::join!(
        async {
            leadership.lost().await;
            elected.elapsed()
        },
        async {
            let next = election.campaign(&node("b")).await.unwrap();
            (elected.elapsed(), next)
        }
    );
    let (taken, next) = next;
    assert!(lost <= 27 * SECOND && taken >= 30 * SECOND && taken < 32 * SECOND, "{lost:?}, {taken:?}");
    assert_eq!(reported(&mut leaders).await, "b");
    next.resign().await.unwrap();
}

/// P23, P13: an isolated leader knows that it lost the leadership before another candidate leads.
#[tokio::test]
async fn isolated_leader_stops_before_the_next_leads() {
    needs!(Elections);
    for mode in [Mode::Refuse, Mode::Stall] {
        let server = harness::shared().await;
        let proxy = Proxy::start(server.addr()).await;
        let name = unique("election");
        let through = World::at(&proxy.url()).await.store.election::<NodeInfo>(&name).ttl(3 * SECOND);
        let past = World::at(&server.url()).await.store.election::<NodeInfo>(&name).ttl(3 * SECOND);
        let log = Arc::new(Log::default());
        let mut leaders = past.observe().await.unwrap();
        let first = through.campaign(&node("a")).await.unwrap();
        log.note(Step::Started(first.fence().get()));
        assert_eq!(reported(&mut leaders).await, "a");
        proxy.set(mode);
        if mode == Mode::Refuse {
            proxy.cut();
        }
        let stops = async {
            assert!(first.run(std::future::pending::<()>()).await.is_err());
            log.note(Step::Stopped(first.fence().get()));
        };
        let follows = async {
            let second = past.campaign(&node("b")).wait(2 * SOON).await.unwrap();
            log.note(Step::Started(second.fence().get()));
            second
        };
        let ((), second) = tokio::join!(stops, follows);
        assert_eq!(reported(&mut leaders).await, "b");
        log.note(Step::Stopped(second.fence().get()));
        assert_eq!(log.terms().len(), 2);
        assert!(matches!(first.resign().await.unwrap_err().kind(), ErrorKind::Lost));
        second.resign().await.unwrap();
    }
}

/// P23: candidates run on all servers of a cluster, while the leader of the stream steps down repeatedly.
#[tokio::test]
async fn terms_do_not_overlap_during_stream_step_downs() {
    needs!(Elections);
    let cluster = Cluster::start(3).await;
    cluster.ready().await;
    let name = "election";
    let log = Arc::new(Log::default());
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut candidates = Vec::new();
    for number in 0..6_usize {
        let store = World::at(&cluster.node(number % 3).url()).await.store;
        let election = store.election::<usize>(name).replicas(3).ttl(15 * SECOND);
        let (log, over) = (Arc::clone(&log), Arc::clone(&over));
        candidates.push(tokio::spawn(async move {
            while !over.load(std::sync::atomic::Ordering::SeqCst) {
                // A missing leader of the stream causes an error, and the candidate retries.
                let Ok(leadership) = election.campaign(&number).wait(SOON).await else { continue };
                let term = leadership.fence().get();
                log.note(Step::Started(term));
                let _ = leadership.run(tokio::time::sleep(Duration::from_millis(5))).await;
                log.note(Step::Stopped(term));
                let _ = leadership.resign().await;
            }
        }));
    }
    let count = || log.0.lock().unwrap().len();
    wait::until("the bucket is there", SOON, async || (count() > 0).then_some(())).await;
    for _ in 0..4 {
        let before = count();
        cluster.step_down("KV_election").await;
        wait::until("others lead", 2 * SOON, async || (count() > before + 20).then_some(())).await;
    }
    over.store(true, std::sync::atomic::Ordering::SeqCst);
    join_all(candidates).await.into_iter().for_each(|candidate| candidate.unwrap());
    eprintln!("{} terms, one after the other", log.terms().len());
}
