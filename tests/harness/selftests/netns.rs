use crate::netns::{Net, Place, Unavailable};
use crate::{Cluster, raw_client, wait};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
const LOOKUP_INTERVAL: Duration = Duration::from_secs(1);

/// Returns a net, or prints the reason and returns `None` if this machine does not support namespaces.
pub(super) fn net(nodes: usize, sides: usize) -> Option<Net> {
    match Net::lay(nodes, sides) {
        Ok(net) => Some(net),
        Err(why @ (Unavailable::NotLinux | Unavailable::NoProgram(_) | Unavailable::Refused { .. })) => {
            eprintln!("NO NETWORK NAMESPACES HERE, nothing of them is tested: {why}");
            None
        }
    }
}

/// Returns whether a node answers a client on a side.
async fn answers(net: &Net, side: usize, node: usize) -> bool {
    let addr = net.clients_of(node, side);
    let look_up = async move { raw_client::api(addr, "$JS.API.INFO", &Value::Null, LOOKUP_INTERVAL).await.is_ok() };
    net.side(side).spawn(look_up).await.unwrap()
}

#[tokio::test]
async fn cut_link_blocks_only_its_traffic() {
    let Some(net) = net(3, 2) else { return };
    let cluster = Cluster::start_on(&net).await;
    for (side, node) in [(0, 0), (1, 0), (1, 2)] {
        assert!(answers(&net, side, node).await, "{side} {node}");
    }
    net.cut(Place::Side(1), Place::Node(0));
    assert!(!answers(&net, 1, 0).await);
    assert!(answers(&net, 1, 1).await && answers(&net, 0, 0).await);
    net.heal(Place::Node(0), Place::Side(1));
    wait::until("the wire passes again", LIMIT, async || answers(&net, 1, 0).await.then_some(())).await;

    let stream = json!({ "name": "parted", "subjects": ["parted"], "num_replicas": 3 });
    let made = cluster.node(0).api("$JS.API.STREAM.CREATE.parted", &stream).await.unwrap();
    assert!(made["error"].is_null(), "{made}");
    let leader = cluster.leader_of("parted").await.expect("a new stream has a leader");
    // Isolates the leader together with side 1.
    net.part(&[Place::Node(leader), Place::Side(1)]);
    let next = wait::until("another node leads", LIMIT, async || {
        cluster.leader_of("parted").await.filter(|now| *now != leader)
    });
    next.await;
    assert!(!answers(&net, 0, leader).await && !answers(&net, 1, (leader + 1) % 3).await);
    net.heal_all();
    cluster.ready().await;
}

#[test]
fn dropped_net_leaves_no_namespace() {
    let Some(net) = net(1, 1) else { return };
    let names = ["n0", "s0", "hub"].map(|of| format!("/run/netns/{}", net.namespace(of)));
    assert!(names.iter().all(|name| std::fs::exists(name).unwrap()), "{names:?}");
    drop(net);
    assert!(names.iter().all(|name| !std::fs::exists(name).unwrap()), "{names:?}");
}
