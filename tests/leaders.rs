//! Two leaders: an isolated server still considers itself the leader, and refuses writes that the real leader applies.

use futures::StreamExt;
use harness::{Cluster, Server};
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, Outcome, Read};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::needs::needs;
use crate::support::World;

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
async fn a_refusal_by_a_leader_that_was_cut_off_proves_nothing() {
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
async fn the_only_leader_refuses_what_expects_a_record_that_is_gone() {
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
