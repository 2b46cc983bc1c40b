//! Groups on the memory backend and on a server: members, arrivals, departures and their reasons.

use futures::future::join_all;
use harness::{Mode, Proxy};
use kvtyped::prelude::*;
use kvtyped::recipes::{Group, GroupEvent, GroupEvents};
use kvtyped::{Error, ErrorKind};

use crate::needs::needs;
use crate::support::{ForeignRecord, SOON, World, dropped_after, on_both_backends, seen_as, soon, unique};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct NodeInfo {
    address: String,
    load: u32,
}

fn node(address: &str) -> NodeInfo {
    NodeInfo { address: address.into(), load: 0 }
}

/// Formats an event for comparison.
fn said(event: GroupEvent<NodeInfo>) -> String {
    match event {
        GroupEvent::Joined(member) => format!("{} joined at {}", member.id(), member.address),
        GroupEvent::Updated(member) => format!("{} has load {}", member.id(), member.load),
        GroupEvent::Left { id, reason } => format!("{id}: {reason:?}"),
        GroupEvent::Ready => "ready".into(),
        _ => panic!("an event that the tests do not know"),
    }
}

async fn reported(events: &mut GroupEvents<NodeInfo>) -> String {
    said(soon(events).await.expect("an event"))
}

async fn ids(group: &Group<NodeInfo>) -> Vec<String> {
    group.members().await.unwrap().iter().map(|member| member.id().to_owned()).collect()
}

on_both_backends! {
    needs Groups;

    async fn members_are_listed_until_they_leave(world: World) {
        let name = unique("group");
        let here = world.store.group::<NodeInfo>(&name).owner("process here");
        let there = world.another().await.group::<NodeInfo>(&name);
        assert!(here.members().await.unwrap().is_empty());
        let two = here.join("node.2", &node("b")).await.unwrap();
        let one = there.join("node.1", &node("a")).await.unwrap();
        assert_eq!((one.id(), two.id()), ("node.1", "node.2"));
        assert_eq!(ids(&there).await, ["node.1", "node.2"]);
        let info = there.get("node.2").await.unwrap().expect("it is there");
        assert_eq!((&*info.address, info.owner(), info.fence()), ("b", "process here", two.fence()));
        assert!(info.since().elapsed().unwrap_or_default() < SOON);
        two.update(&NodeInfo { load: 7, ..node("b") }).await.unwrap();
        let info = there.get("node.2").await.unwrap().expect("it is there");
        assert_eq!((info.load, info.fence()), (7, two.fence()));
        two.leave().await.unwrap();
        assert_eq!(there.get("node.2").await.unwrap(), None);
        assert_eq!(ids(&here).await, ["node.1"]);
        drop(one);
    }

    async fn member_id_is_unique_in_its_group(world: World) {
        let name = unique("group");
        let group = world.store.group::<NodeInfo>(&name);
        let member = group.join("node-1", &node("a")).await.unwrap();
        let other = world.another().await.group::<NodeInfo>(&name);
        let error = other.join("node-1", &node("b")).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::AlreadyExists), "{error}");
        assert_eq!((error.operation(), error.key()), (Some("join"), Some("node-1")));
        let error = other.join("node-1", &node("b")).wait(Duration::from_millis(100)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error}");
        let waiter = tokio::spawn(other.join("node-1", &node("b")).wait(SOON).into_future());
        tokio::time::sleep(Duration::from_millis(20)).await;
        member.leave().await.unwrap();
        let member = waiter.await.unwrap().unwrap();
        assert_eq!(group.get("node-1").await.unwrap().expect("it is there").address, "b");
        member.leave().await.unwrap();
    }

    async fn single_concurrent_join_per_id_succeeds(world: World) {
        let name = unique("group");
        let mut joins = Vec::new();
        for number in 0..8_u32 {
            let group = world.another().await.group::<u32>(&name);
            joins.push(tokio::spawn(group.join("node-1", &number).into_future()));
        }
        let (joined, refused): (Vec<_>, Vec<_>) =
            join_all(joins).await.into_iter().map(Result::unwrap).partition(Result::is_ok);
        assert_eq!(joined.len(), 1);
        for error in refused.into_iter().filter_map(Result::err) {
            assert!(matches!(error.kind(), ErrorKind::AlreadyExists), "{error}");
        }
    }

    async fn watch_reports_joins_updates_and_departures(world: World) {
        let name = unique("group");
        let group = world.store.group::<NodeInfo>(&name).ttl(2 * SECOND);
        let one = group.join("node-1", &node("a")).await.unwrap();
        let mut events = world.another().await.group::<NodeInfo>(&name).watch().await.unwrap();
        assert_eq!(reported(&mut events).await, "node-1 joined at a");
        assert_eq!(reported(&mut events).await, "ready");
        let two = group.join("node-2", &node("b")).await.unwrap();
        assert_eq!(reported(&mut events).await, "node-2 joined at b");
        // Renewals cause no events.
        tokio::time::sleep(2 * SECOND).await;
        two.update(&NodeInfo { load: 7, ..node("b") }).await.unwrap();
        assert_eq!(reported(&mut events).await, "node-2 has load 7");
        one.leave().await.unwrap();
        assert_eq!(reported(&mut events).await, "node-1: Left");
        let doomed = world.another().await;
        let dead = doomed.group::<NodeInfo>(&name).ttl(SECOND).join("node-1", &node("c")).await.unwrap();
        assert_eq!(reported(&mut events).await, "node-1 joined at c");
        doomed.close().await.unwrap();
        assert_eq!(reported(&mut events).await, "node-1: Expired");
        assert!(dead.check().is_err());
        drop(two);
        assert_eq!(reported(&mut events).await, "node-2: Left");
    }

    async fn view_shows_current_members(world: World) {
        let name = unique("group");
        let group = world.store.group::<NodeInfo>(&name).ttl(2 * SECOND);
        let one = group.join("node-1", &node("a")).await.unwrap();
        let mut view = world.another().await.group::<NodeInfo>(&name).view().await.unwrap();
        assert_eq!((view.len(), view.is_empty(), view.contains("node-1")), (1, false, true));
        assert_eq!(view.get("node-1").expect("it is there").address, "a");
        assert_eq!(view.get("node-2"), None);
        let mut other = view.clone();
        let two = group.join("node-2", &node("b")).await.unwrap();
        tokio::time::timeout(SOON, view.changed()).await.unwrap().unwrap();
        let members = view.members();
        assert_eq!(members.iter().map(|member| member.id()).collect::<Vec<_>>(), ["node-1", "node-2"]);
        assert_eq!(members[1].fence(), two.fence());
        assert!(
            tokio::time::timeout(2 * SECOND, view.changed()).await.is_err(),
            "renewals are no changes"
        );
        one.update(&NodeInfo { load: 7, ..node("a") }).await.unwrap();
        let wait = other.wait_for(|members| members.iter().any(|member| member.load == 7));
        assert_eq!(tokio::time::timeout(SOON, wait).await.unwrap().unwrap().len(), 2);
        one.leave().await.unwrap();
        drop(two);
        tokio::time::timeout(SOON, view.wait_for(|members| members.is_empty())).await.unwrap().unwrap();
        assert!(view.last_error().is_none());
    }

    async fn view_converges_after_many_joins_and_leaves(world: World) {
        let name = unique("group");
        let mut view = world.store.group::<u32>(&name).view().await.unwrap();
        let mut nodes = Vec::new();
        for number in 0..12_u32 {
            let group = world.another().await.group::<u32>(&name);
            nodes.push(tokio::spawn(async move {
                for round in 0..3 {
                    let member = group.join(format!("node-{number}"), &round).await.unwrap();
                    member.update(&(round + 10)).await.unwrap();
                    member.leave().await.unwrap();
                }
                group.join(format!("node-{number}"), &100).await.unwrap()
            }));
        }
        let members = join_all(nodes).await.into_iter().map(Result::unwrap).collect::<Vec<_>>();
        let all = |members: &[kvtyped::recipes::MemberInfo<u32>]| members.len() == 12 && members.iter().all(|member| **member == 100);
        tokio::time::timeout(SOON, view.wait_for(all)).await.unwrap().unwrap();
        drop(members);
        tokio::time::timeout(SOON, view.wait_for(|members| members.is_empty())).await.unwrap().unwrap();
    }

    async fn dropped_join_does_not_block_the_id(world: World) {
        let name = unique("group");
        let group = world.store.group::<NodeInfo>(&name);
        for steps in 0..60 {
            dropped_after(group.join("node-1", &node("dropped")), steps).await;
        }
        group.join("node-1", &node("a")).wait(SOON).await.unwrap().leave().await.unwrap();
    }

    async fn member_of_aborted_task_leaves(world: World) {
        let name = unique("group");
        let group = world.store.group::<NodeInfo>(&name);
        let mut events = group.watch().await.unwrap();
        assert_eq!(reported(&mut events).await, "ready");
        let join = group.join("node-1", &node("a"));
        let task = tokio::spawn(async move { join.await.unwrap().run(std::future::pending::<()>()).await });
        assert_eq!(reported(&mut events).await, "node-1 joined at a");
        task.abort();
        assert_eq!(reported(&mut events).await, "node-1: Left");
    }

    async fn undecodable_member_is_reported_as_an_error(world: World) {
        let name = unique("group");
        let group = world.store.group::<NodeInfo>(&name).ttl(SECOND);
        let one = group.join("node-1", &node("a")).await.unwrap();
        let mut view = group.view().await.unwrap();
        let mut events = group.watch().await.unwrap();
        assert_eq!(reported(&mut events).await, "node-1 joined at a");
        assert_eq!(reported(&mut events).await, "ready");
        let is_decode = |error: &Error| matches!(error.kind(), ErrorKind::Decode { .. });
        // A member of another type, and a record that is not a member.
        let other = world.store.group::<u32>(&name).ttl(SECOND).join("node-2", &7).await.unwrap();
        assert!(soon(&mut events).await.is_err_and(|error| is_decode(&error)));
        let junk = seen_as::<ForeignRecord>(&world, &name).await;
        junk.put(&ForeignRecord::new("group", &name, "node-3", "junk")).await.unwrap();
        assert!(soon(&mut events).await.is_err_and(|error| is_decode(&error)));
        assert!(group.members().await.is_err_and(|error| is_decode(&error)));
        assert!(group.get("node-2").await.is_err_and(|error| is_decode(&error)));
        assert!(group.join("node-3", &node("c")).await.is_err_and(|error| is_decode(&error)));
        // The error is not repeated with each renewal.
        tokio::time::sleep(SECOND).await;
        other.leave().await.unwrap();
        let two = group.join("node-2", &node("b")).await.unwrap();
        assert_eq!(reported(&mut events).await, "node-2 joined at b");
        tokio::time::timeout(SOON, view.wait_for(|members| members.len() == 2)).await.unwrap().unwrap();
        assert!(view.last_error().is_some_and(|error| is_decode(&error)));
        drop((one, two));
    }

    async fn group_continues_in_recreated_bucket(world: World) {
        let name = unique("group");
        let group = world.store.group::<NodeInfo>(&name).ttl(2 * SECOND);
        let mut events = group.watch().await.unwrap();
        assert_eq!(reported(&mut events).await, "ready");
        let gone = group.join("node-1", &node("a")).await.unwrap();
        assert_eq!(reported(&mut events).await, "node-1 joined at a");
        world.store.delete_bucket(&name).await.unwrap();
        tokio::time::timeout(SOON, gone.lost()).await.unwrap();
        // A process that starts now.
        let two = world.another().await.group::<NodeInfo>(&name).join("node-2", &node("b")).await.unwrap();
        let mut received = Vec::new();
        while received.len() < 2 {
            match soon(&mut events).await {
                Ok(event) => received.push(said(event)),
                Err(error) => assert!(matches!(error.kind(), ErrorKind::BucketNotFound), "{error}"),
            }
        }
        received.sort();
        assert_eq!(received, ["node-1: Unobserved", "node-2 joined at b"]);
        two.leave().await.unwrap();
        assert_eq!(reported(&mut events).await, "node-2: Left");
    }
}

/// An isolated member learns of its loss before the others report it as dead.
#[tokio::test]
async fn isolated_member_learns_of_its_loss_first() {
    needs!(Groups);
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let name = unique("group");
    let through = World::at(&proxy.url()).await.store.group::<NodeInfo>(&name).ttl(3 * SECOND);
    let mut events = World::at(&server.url()).await.store.group::<NodeInfo>(&name).watch().await.unwrap();
    assert_eq!(reported(&mut events).await, "ready");
    let member = through.join("node-1", &node("a")).await.unwrap();
    assert_eq!(reported(&mut events).await, "node-1 joined at a");
    proxy.set(Mode::Stall);
    tokio::select! {
        biased;
        () = member.lost() => {}
        said = reported(&mut events) => panic!("{said} before it knew"),
    }
    assert_eq!(reported(&mut events).await, "node-1: Expired");
    proxy.set(Mode::Pass);
    assert!(matches!(member.update(&node("b")).await.unwrap_err().kind(), ErrorKind::Lost));
    through.join("node-1", &node("b")).await.unwrap().leave().await.unwrap();
}
