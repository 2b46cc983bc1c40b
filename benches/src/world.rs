//! What the groups share: a server, both clients on it, and the record that is read and written.

use async_nats::jetstream::{self, kv};
use futures::stream::{self, StreamExt};
use harness::Server;
use kvtyped::prelude::*;

use crate::measure::Effort;
use crate::report::Report;

/// A record of about 200 bytes as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "sessions", key = "{tenant}.{id}", history = 1)]
pub(crate) struct Session {
    pub(crate) tenant: String,
    pub(crate) id: u64,
    pub(crate) user: String,
    pub(crate) visits: u64,
    pub(crate) roles: Vec<String>,
    pub(crate) note: String,
}

impl Session {
    pub(crate) fn new(tenant: impl Into<String>, id: u64) -> Self {
        Self {
            tenant: tenant.into(),
            id,
            user: format!("user-{id:08}@example.com"),
            visits: 1,
            roles: vec!["reader".into(), "writer".into()],
            note: "n".repeat(72),
        }
    }

    /// The same, of about 2,000 bytes.
    pub(crate) fn long(mut self) -> Self {
        self.note = "n".repeat(1_872);
        self
    }

    /// The key as one writes it by hand.
    pub(crate) fn by_hand(&self) -> String {
        format!("{}.{}", self.tenant, self.id)
    }
}

/// As one encodes it by hand.
pub(crate) fn encode(session: &Session) -> bytes::Bytes {
    serde_json::to_vec(session).expect("it encodes").into()
}

/// As one decodes it by hand.
pub(crate) fn decode(bytes: &[u8]) -> Session {
    serde_json::from_slice(bytes).expect("it decodes")
}

/// A server, and both clients on it, each with a connection of its own.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) store: Store,
    pub(crate) raw: jetstream::Context,
    pub(crate) effort: Effort,
    pub(crate) report: Report,
}

impl World {
    pub(crate) async fn new(effort: Effort) -> Self {
        let server = Server::start().await;
        let store = Store::connect(server.url()).await.expect("the server is there");
        let client = async_nats::connect(server.url()).await.expect("the server is there");
        let version = client.server_info().version.clone();
        let raw = jetstream::new(client);
        Self { server, store, raw, effort, report: Report::new(version, effort.quick) }
    }

    /// A bucket, and the plain client's handle of the same one.
    pub(crate) async fn bucket(&self, name: &str) -> (Bucket<Session>, kv::Store) {
        let bucket = self.store.bucket().name(name).await.expect("the bucket is made");
        (bucket, self.plain(name).await)
    }

    /// The plain client's handle of a bucket.
    pub(crate) async fn plain(&self, name: &str) -> kv::Store {
        self.raw.get_key_value(name).await.expect("the bucket is there")
    }

    /// Another store, with a connection of its own.
    pub(crate) async fn another_store(&self) -> Store {
        Store::connect(self.server.url()).await.expect("the server is there")
    }
}

/// How many publishes are on their way at once where many are written.
pub(crate) const WINDOW: usize = 1_024;

/// Writes many records by hand, as fast as the plain client goes: publishes, and awaits the acknowledgements behind them.
pub(crate) async fn publish_all(raw: &jetstream::Context, bucket: &str, records: &[Session]) {
    let subjects = records.iter().map(|record| (format!("$KV.{bucket}.{}", record.by_hand()), encode(record)));
    stream::iter(subjects)
        .then(|(subject, bytes)| async move { raw.publish(subject, bytes).await.expect("it is sent") })
        .map(IntoFuture::into_future)
        .buffered(WINDOW)
        .for_each(|acknowledged| async move {
            acknowledged.expect("it is stored");
        })
        .await;
}
