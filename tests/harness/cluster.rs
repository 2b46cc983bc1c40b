//! Three servers, or more, that replicate streams among them.

use crate::netns::{Net, ROUTES};
use crate::server::{Site, is_port_race};
use crate::{Server, ports, wait};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::OnceCell;

/// How long a cluster may take to be ready, or to elect a leader.
const LIMIT: Duration = Duration::from_secs(30);

/// Running servers that form one cluster. Clients learn no further addresses
/// from them: one that is given the address of one node stays with it.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Server>,
}

/// The cluster of three that all tests of a process share. Each uses bucket
/// names of its own, and none harms the cluster.
pub async fn shared() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    SHARED.get_or_init(|| Cluster::start(3)).await
}

impl Cluster {
    /// Starts `size` servers and waits until they replicate streams.
    ///
    /// # Panics
    ///
    /// When they do not within 30 seconds.
    pub async fn start(size: usize) -> Self {
        Self::start_with(size, "").await
    }

    /// The same, each with this beside what a cluster needs. Whoever connects without a name must be let in as somebody
    /// who may do everything.
    ///
    /// # Panics
    ///
    /// When they do not within 30 seconds.
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

    /// Starts a server on each node of a net, and waits until they replicate streams.
    ///
    /// # Panics
    ///
    /// When they do not within 30 seconds.
    pub async fn start_on(net: &Net) -> Self {
        let mut nodes = Vec::new();
        for i in 0..net.nodes() {
            let others = (0..net.nodes()).filter(|other| *other != i);
            let routes: Vec<_> = others.map(|other| format!("\"nats://{}\"", net.route(other, i))).collect();
            // Or else it is TCP alone that notices what was cut, and when it was mended: as long after as it was cut.
            let config = routing(&format!("0.0.0.0:{ROUTES}"), &routes) + "\nping_interval: \"2s\"";
            let site = Site { netns: net.namespace_of(i), addr: net.clients_of(i, 0), from: net.side(0).clone() };
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

    /// Waits until every node sees a leader, and a stream with a replica on
    /// each can be made. For after a start, or when all nodes are up again.
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
            self.api("$JS.API.STREAM.DELETE.HARNESS_PROBE", &Value::Null).await
        })
        .await;
    }

    /// The addresses of all nodes, with commas between them.
    pub fn urls(&self) -> String {
        self.nodes.iter().map(Server::url).collect::<Vec<_>>().join(",")
    }

    /// A node by its place, from 0.
    pub fn node(&self, i: usize) -> &Server {
        &self.nodes[i]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// The node that leads a stream, if one does and any node tells. Right
    /// after a fault the answer may be out of date: make sure by what follows.
    pub async fn leader_of(&self, stream: &str) -> Option<usize> {
        let info = self.api(&format!("$JS.API.STREAM.INFO.{stream}"), &Value::Null).await?;
        let leader = info["cluster"]["leader"].as_str()?;
        self.nodes.iter().position(|node| node.name() == leader)
    }

    /// Whether a node has all that the leader of a stream has, as the leader says. An old leader that was cut off still
    /// answers that it leads: an answer without message `newest` is not the leader's.
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

    /// Makes the leader of a stream step down, and gives the next one.
    ///
    /// # Panics
    ///
    /// When the stream has no leader, or no other node becomes one.
    pub async fn step_down(&self, stream: &str) -> usize {
        let before = wait::until("the stream has a leader", LIMIT, async || self.leader_of(stream).await).await;
        let asked = self.api(&format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}"), &Value::Null).await;
        assert!(asked.is_some(), "the leader of {stream} did not step down");
        wait::until("another node leads the stream", LIMIT, async || {
            self.leader_of(stream).await.filter(|now| *now != before)
        })
        .await
    }

    /// Asks the nodes in turn, until one answers with success.
    async fn api(&self, subject: &str, payload: &Value) -> Option<Value> {
        for node in &self.nodes {
            if let Some(answer) = node.api(subject, payload).await.ok().filter(succeeded) {
                return Some(answer);
            }
        }
        None
    }
}

/// The part of a configuration that makes a server one of a cluster.
fn routing(listen: &str, routes: &[String]) -> String {
    let routes = routes.join(", ");
    format!("cluster {{\nname: \"kvtyped\"\nlisten: \"{listen}\"\nroutes: [{routes}]\nno_advertise: true\n}}")
}

fn succeeded(answer: &Value) -> bool {
    answer["error"].is_null()
}
