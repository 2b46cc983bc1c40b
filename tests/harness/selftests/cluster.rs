use crate::{Cluster, cluster, wait};
use serde_json::json;
use std::time::Duration;

async fn make_stream(cluster: &Cluster, name: &str) {
    let stream = json!({ "name": name, "subjects": [name], "storage": "file", "num_replicas": 3 });
    let made = cluster.node(0).api(&format!("$JS.API.STREAM.CREATE.{name}"), &stream).await.unwrap();
    assert!(made["error"].is_null(), "{made}");
}

#[tokio::test]
async fn step_down_moves_leadership() {
    let cluster = cluster::shared().await;
    assert_eq!(cluster.nodes().len(), 3);
    assert_eq!(cluster.urls().split(',').count(), 3);
    make_stream(cluster, "moves").await;
    let before = cluster.leader_of("moves").await.expect("a new stream has a leader");
    let after = cluster.step_down("moves").await;
    assert_ne!(before, after);
    assert_eq!(cluster.leader_of("none").await, None);
}

#[tokio::test]
async fn killed_or_frozen_leader_is_replaced() {
    let cluster = Cluster::start(3).await;
    make_stream(&cluster, "fails").await;
    let next = async |lost: usize| {
        wait::until("another node leads", Duration::from_secs(30), async || {
            cluster.leader_of("fails").await.filter(|now| *now != lost)
        })
        .await
    };
    let first = cluster.leader_of("fails").await.unwrap();
    cluster.node(first).kill().await;
    let second = next(first).await;
    cluster.node(first).restart().await;
    cluster.ready().await;

    cluster.node(second).freeze();
    next(second).await;
    cluster.node(second).thaw();
    cluster.ready().await;
}
