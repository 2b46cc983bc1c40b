//! The request that creates a consumer.

use std::time::Duration;

use serde_json::{Value, json};

use crate::revision::Revision;

/// How long the server keeps a consumer without a subscriber.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(30);

/// The `ack_wait` of consumers. It is long, because a reader may be slow and a watch lives for years.
const ACK_WAIT: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The messages that a consumer delivers.
#[derive(Debug, Clone)]
pub(crate) struct ConsumerRequest {
    pub(crate) stream: String,
    /// Subject filters that do not overlap. At least one.
    pub(crate) filters: Vec<String>,
    pub(crate) start: Start,
    pub(crate) headers_only: bool,
    /// The interval of heartbeats while there is nothing to deliver.
    pub(crate) heartbeat: Duration,
    /// The maximum number of messages in flight to a slow reader. `None` bounds only their bytes (32 MiB), and that can
    /// be more messages than a subscription holds.
    pub(crate) window: Option<u32>,
}

/// The start position of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// The newest message of each subject.
    Newest,
    /// The first message from this revision on.
    At(Revision),
}

impl ConsumerRequest {
    /// Returns the verb and the body of the API request that creates a consumer of this name. Messages are delivered to
    /// the subject `deliver`.
    pub(crate) fn creation(&self, name: &str, deliver: &str) -> (String, Value) {
        let mut config = json!({
            "name": name,
            "deliver_subject": deliver,
            "ack_policy": "none",
            "replay_policy": "instant",
            "flow_control": true,
            "idle_heartbeat": nanos(self.heartbeat),
            "inactive_threshold": nanos(INACTIVE_THRESHOLD),
            "max_deliver": 1,
            "mem_storage": true,
            "num_replicas": 1,
        });
        match self.start {
            Start::Newest => config["deliver_policy"] = json!("last_per_subject"),
            Start::At(revision) if revision <= Revision::new(1) => config["deliver_policy"] = json!("all"),
            Start::At(revision) => {
                config["deliver_policy"] = json!("by_start_sequence");
                config["opt_start_seq"] = json!(revision.get());
            }
        }
        if self.headers_only {
            config["headers_only"] = json!(true);
        }
        if let Some(window) = self.window {
            config["ack_policy"] = json!("all");
            config["max_ack_pending"] = json!(window);
            config["ack_wait"] = json!(nanos(ACK_WAIT));
        }
        let mut verb = format!("CONSUMER.CREATE.{}.{}", self.stream, name);
        match self.filters.as_slice() {
            // A permission can be limited to some keys only in this form of the self.
            [filter] => {
                config["filter_subject"] = json!(filter);
                verb = format!("{verb}.{filter}");
            }
            filters => config["filter_subjects"] = json!(filters),
        }
        (verb, json!({ "stream_name": self.stream, "config": config }))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
