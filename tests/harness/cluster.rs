//! Clusters of three or more servers that replicate streams.

use crate::netns::{Net, ROUTES};
use crate::server::{TestCluster, is_port_race};
use crate::{Server, ports, wait};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::OnceCell;

/// The time limit until a cluster is ready or has elected a leader.
const LIMIT: Duration = Duration::from_secs(60);

/// Running servers that form one cluster. They do not advertise further addresses: a client that connects to one node
/// stays with this node.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Server>,
}

/// Returns the cluster of three servers that all tests of a process share. Each test uses its own bucket names, and no
/// test disturbs the cluster.
pub async fn shared() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    SHARED.get_or_init(|| Cluster::start(3)).await
}

impl Cluster {
    /// Starts `size` servers and waits until they replicate streams.
    ///
    /// # Panics
    ///
    /// Panics if the cluster is not ready within 30 seconds.
    pub async fn start(size: usize) -> Self {
        Self::start_with(size, "").await
    }

    /// Like [`start`](Self::start), with additional configuration for each server. The configuration must give full
    /// permissions to a client without credentials.
    ///
    /// # Panics
    ///
    /// Panics if the cluster is not ready within 30 seconds.
    pub async fn start_with(size: usize, config: &str) -> Self {
        let mut attempt = 1;
        let nodes = loop {
            match Self::try_start(size, config).await {
                Ok(nodes) => break nodes,
                Err(why) if attempt < 5 && is_port_race(&why) => attempt += 1,
                Err(why) => panic!("no cluster: {why}"),
            }
        };
        let cluster = Self { nodes };
        cluster.ready().await;
        cluster
    }

    /// Starts a server on each node of `net` and waits until they replicate streams.
    ///
    /// # Panics
    ///
    /// Panics if the cluster is not ready within 30 seconds.
    pub async fn start_on(net: &Net) -> Self {
        let mut nodes = Vec::new();
        for i in 0..net.nodes() {
            let others = (0..net.nodes()).filter(|other| *other != i);
            let routes: Vec<_> = others.map(|other| format!("\"nats://{}\"", net.route(other, i))).collect();
            // Without a short ping interval, only TCP would detect a cut link. TCP notices the repair only after a
            // delay as long as the cut.
            let config = routing(&format!("0.0.0.0:{ROUTES}"), &routes) + "\nping_interval: \"2s\"";
            let site =
                TestCluster { netns: net.namespace_of(i), addr: net.clients_of(i, 0), from: net.side(0).clone() };
            nodes.push(Server::builder().name(&format!("n{i}")).config(&config).clustered().site(site).start().await);
        }
        let cluster = Self { nodes };
        cluster.ready().await;
        cluster
    }

    async fn try_start(size: usize, config: &str) -> Result<Vec<Server>, String> {
        let ports = ports::free(size);
        let routes: Vec<_> = ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let mut nodes = Vec::new();
        for (i, port) in ports.iter().enumerate() {
            let config = format!("{}\n{config}", routing(&format!("127.0.0.1:{port}"), &routes));
            nodes.push(Server::builder().name(&format!("n{i}")).config(&config).clustered().try_start().await?);
        }
        Ok(nodes)
    }

    /// Waits until every node sees a leader and a stream with a replica on each node can be created. Call it after a
    /// start, or when all nodes run again.
    pub async fn ready(&self) {
        for node in &self.nodes {
            wait::until(&format!("JetStream answers on {}", node.name()), LIMIT, async || {
                node.api("$JS.API.INFO", &Value::Null).await.ok().filter(succeeded)
            })
            .await;
        }
        let probe = json!({
            "name": "HARNESS_PROBE", "subjects": ["harness.probe"], "storage": "memory",
            "num_replicas": self.nodes.len(),
        });
        wait::until("a replicated stream can be made", LIMIT, async || {
            self.api("$JS.API.STREAM.CREATE.HARNESS_PROBE", &probe).await
        })
        .await;
        wait::until("the probe stream is gone", LIMIT, async || {
            let reply = self.nodes.first()?.api("$JS.API.STREAM.DELETE.HARNESS_PROBE", &Value::Null).await.ok()?;
            // An earlier request deletes the stream also if its reply is lost.
            (succeeded(&reply) || reply["error"]["code"] == 404).then_some(())
        })
        .await;
    }

    /// Returns the URLs of all nodes, separated by commas.
    pub fn urls(&self) -> String {
        self.nodes.iter().map(Server::url).collect::<Vec<_>>().join(",")
    }

    /// Returns a node by its index.
    pub fn node(&self, i: usize) -> &Server {
        &self.nodes[i]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// Returns the node that leads a stream, if a leader exists and any node answers. After a fault the answer may be
    /// outdated; the caller must verify it.
    pub async fn leader_of(&self, stream: &str) -> Option<usize> {
        let info = self.api(&format!("$JS.API.STREAM.INFO.{stream}"), &Value::Null).await?;
        let leader = info["cluster"]["leader"].as_str()?;
        self.nodes.iter().position(|node| node.name() == leader)
    }

    /// Returns whether a node has all messages of a stream, according to the leader. A partitioned former leader still
    /// claims to lead, so an answer without message `newest` is ignored.
    pub async fn is_current(&self, node: usize, stream: &str, newest: u64) -> bool {
        let Some(info) = self.api(&format!("$JS.API.STREAM.INFO.{stream}"), &Value::Null).await else { return false };
        if info["state"]["last_seq"].as_u64().is_none_or(|last| last < newest) {
            return false;
        }
        let name = self.nodes[node].name();
        let cluster = &info["cluster"];
        let mut replicas = cluster["replicas"].as_array().into_iter().flatten();
        cluster["leader"] == name || replicas.any(|replica| replica["name"] == name && replica["current"] == true)
    }

    /// Makes the leader of a stream step down and returns the next leader. Repeats the request each second: a request
    /// during an election is refused, and the former leader may win the election.
    ///
    /// # Panics
    ///
    /// Panics if the stream has no leader, or if no other node becomes the leader.
    pub async fn step_down(&self, stream: &str) -> usize {
        let before = wait::until("the stream has a leader", LIMIT, async || self.leader_of(stream).await).await;
        let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
        wait::until("another node leads the stream", LIMIT, async || {
            self.api(&subject, &Value::Null).await?;
            wait::within(Duration::from_secs(1), async || self.leader_of(stream).await.filter(|now| *now != before))
                .await
        })
        .await
    }

    /// Sends a request to the nodes in turn, until one answers with success.
    async fn api(&self, subject: &str, payload: &Value) -> Option<Value> {
        for node in &self.nodes {
            if let Some(answer) = node.api(subject, payload).await.ok().filter(succeeded) {
                return Some(answer);
            }
        }
        None
    }
}

/// Returns the configuration block that makes a server a member of the cluster.
fn routing(listen: &str, routes: &[String]) -> String {
    let routes = routes.join(", ");
    format!("cluster {{\nname: \"kvtyped\"\nlisten: \"{listen}\"\nroutes: [{routes}]\nno_advertise: true\n}}")
}

fn succeeded(answer: &Value) -> bool {
    answer["error"].is_null()
}
