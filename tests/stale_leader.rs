//! Two leaders: an isolated server still considers itself the leader, and refuses writes that the real leader applies.

use std::time::{Duration, Instant};

use futures::StreamExt;
use harness::{Cluster, Server, wait};
use kvtyped::prelude::*;
use kvtyped::{Drift, ErrorKind, Outcome, Read};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::index_probe::{User, user};
use crate::needs::needs;
use crate::support::{World, unique};

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, KvModel)]
#[kv(bucket = "items", key = "item.{id}")]
struct Item {
    id: u64,
    text: String,
}

fn item(id: u64, text: &str) -> Item {
    Item { id, text: text.to_owned() }
}

/// Answers every write of a bucket with a conflict at a low revision, like a leader that lacks the newest messages.
async fn refuse(server: &Server, bucket: &str) -> JoinHandle<()> {
    let client = async_nats::connect(server.url()).await.expect("a connection");
    let mut writes = client.subscribe(format!("$KV.{bucket}.>")).await.expect("a subscription");
    client.flush().await.expect("the server receives the subscription");
    let refusal = r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 1"},"seq":0}"#;
    tokio::spawn(async move {
        while let Some(write) = writes.next().await {
            if let Some(reply) = write.reply {
                client.publish(reply, refusal.into()).await.expect("it is sent");
                client.flush().await.expect("it is sent");
            }
        }
    })
}

#[tokio::test]
async fn refusal_by_isolated_leader_is_not_trusted() {
    needs!(Locks);
    let cluster = Cluster::start(3).await;
    let world = World::at(&cluster.node(0).url()).await;
    let bucket: Bucket<Item> = world.fresh().replicas(3).await.unwrap();
    let [own, fenced, a, b] = [1, 2, 3, 4].map(|id| item(id, "before"));
    bucket.put(&own).await.unwrap();
    let own_revision = bucket.put(&own).await.unwrap();
    let (a_revision, b_revision) = (bucket.put(&a).await.unwrap(), bucket.put(&b).await.unwrap());
    let guard = bucket.lock(&fenced.key()).await.unwrap();
    let refusing = refuse(cluster.node(0), bucket.name()).await;

    bucket.update(&item(1, "after"), own_revision).await.unwrap();
    bucket.put(&item(2, "after")).fenced_by(&guard).await.unwrap();
    let both = bucket.transaction().update(&item(3, "after"), a_revision).update(&item(4, "after"), b_revision);
    both.commit().await.unwrap();
    bucket.modify(&ItemKey::new(1), |item| item.text.push_str(", and again")).await.unwrap();

    refusing.abort();
    for (id, text) in [(1, "after, and again"), (2, "after"), (3, "after"), (4, "after")] {
        assert_eq!(bucket.get(&ItemKey::new(id)).read(Read::Leader).await.unwrap().unwrap().text, text);
    }
}

/// The only leader also reports a conflict with a lower revision if the record of the key is gone.
#[tokio::test]
async fn update_of_purged_record_conflicts() {
    let cluster = Cluster::start(3).await;
    let world = World::at(&cluster.urls()).await;
    let bucket: Bucket<Item> = world.fresh().replicas(3).await.unwrap();
    let revision = bucket.put(&item(1, "before")).await.unwrap();
    let purge = serde_json::json!({ "filter": format!("$KV.{}.{}", bucket.name(), ItemKey::new(1)) });
    let subject = format!("$JS.API.STREAM.PURGE.KV_{}", bucket.name());
    assert_eq!(cluster.node(0).api(&subject, &purge).await.unwrap()["success"], true);
    let error = bucket.update(&item(1, "after"), revision).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Conflict { actual: Some(Revision::ZERO), .. }), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotApplied);
}

/// How long a leader may answer after it was cut off: four seconds, and the time of a request.
const CUT_OFF: Duration = Duration::from_secs(6);

/// A replicated bucket of five users, its leader, and a handle through a connection to the leader.
async fn indexed_bucket(cluster: &Cluster) -> (Bucket<User>, usize, Bucket<User>) {
    let store = Store::connect(cluster.urls()).timeout(Duration::from_secs(30)).await.unwrap();
    let users: Bucket<User> = store.bucket().name(unique("users")).replicas(3).await.unwrap();
    users.put_many((0..5).map(|id| user(id, &format!("mail{id}")))).await.unwrap();
    let leader = cluster.leader_of(&format!("KV_{}", users.name())).await.expect("a leader");
    let at_leader = Store::connect(cluster.node(leader).url()).timeout(Duration::from_secs(30)).await.unwrap();
    let open = at_leader.bucket::<User>().name(users.name()).must_exist().on_drift(Drift::Adopt);
    (users, leader, open.await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_without_followers_lists_nothing() {
    needs!(WriteEpochs);
    let cluster = Cluster::start(3).await;
    let (_, leader, users) = indexed_bucket(&cluster).await;
    let core = || User::by_team("core");
    let second = Duration::from_secs(1);
    assert_eq!(users.count_by(core()).await.unwrap(), 5);
    let followers = || (0..3).filter(|node| *node != leader).map(|node| cluster.node(node));
    followers().for_each(Server::freeze);
    let since = Instant::now();
    // A follower that was heard a moment ago may still be there.
    wait::until("the leader misses its followers", CUT_OFF, async || {
        users.count_by(core()).timeout(second).await.err()
    })
    .await;
    while since.elapsed() < 3 * CUT_OFF {
        let error = users.count_by(core()).timeout(second).await.unwrap_err();
        assert!(error.is_retryable(), "{error:?}");
        assert!(users.list_by(core()).timeout(second).await.is_err());
    }
    followers().for_each(Server::thaw);
    let healed = wait::until("the bucket has a leader again", Duration::from_secs(30), async || {
        users.count_by(core()).timeout(second).await.ok()
    });
    assert_eq!(healed.await, 5);
}

/// A leader that was stopped answers the requests that arrived meanwhile, before it learns that it was replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaced_leader_hides_no_acknowledged_entry() {
    needs!(WriteEpochs);
    let cluster = Cluster::start(3).await;
    let (_, leader, at_leader) = indexed_bucket(&cluster).await;
    let other = Store::connect(cluster.node((leader + 1) % 3).url()).timeout(Duration::from_secs(30)).await.unwrap();
    let users = other.bucket::<User>().name(at_leader.name()).must_exist().on_drift(Drift::Adopt).await.unwrap();
    let raw = async_nats::connect(cluster.node(leader).url()).await.unwrap();

    cluster.node(leader).freeze();
    users.put(&user(5, "mail5")).timeout(Duration::from_secs(30)).await.unwrap();
    let count = at_leader.count_by(User::by_team("core")).timeout(Duration::from_secs(30));
    let list = at_leader.list_by(User::by_team("core")).timeout(Duration::from_secs(30));
    // The requests wait in the socket of the stopped server, which confirms nothing.
    let thaw = async {
        tokio::time::timeout(Duration::from_millis(500), raw.flush()).await.ok();
        cluster.node(leader).thaw();
    };
    let list = async { list.await.unwrap().try_collect::<Vec<_>>().await.unwrap().len() };
    let (count, list, ()) = tokio::join!(count.into_future(), list, thaw);
    assert_eq!((count.unwrap(), list), (6, 6));
}
