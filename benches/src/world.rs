//! The environment that the groups share: a server and both clients.

use async_nats::jetstream::{self, kv};
use futures::stream::{self, StreamExt};
use harness::Server;
use kvtyped::prelude::*;

use crate::measure::Effort;
pub(crate) use crate::record::{Session, SessionKey};
use crate::report::Report;

/// Encodes a record by hand.
pub(crate) fn encode(session: &Session) -> bytes::Bytes {
    session.encode().into()
}

/// Decodes a record by hand.
pub(crate) fn decode(bytes: &[u8]) -> Session {
    Session::decode(bytes)
}

/// A server and both clients, each with a separate connection.
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

    /// Creates a bucket. Also returns the plain client's handle to it.
    pub(crate) async fn bucket(&self, name: &str) -> (Bucket<Session>, kv::Store) {
        let bucket = self.store.bucket().name(name).await.expect("the bucket is made");
        (bucket, self.plain(name).await)
    }

    /// Opens a bucket with the plain client.
    pub(crate) async fn plain(&self, name: &str) -> kv::Store {
        self.raw.get_key_value(name).await.expect("the bucket is there")
    }

    /// Connects another store with a separate connection.
    pub(crate) async fn another_store(&self) -> Store {
        Store::connect(self.server.url()).await.expect("the server is there")
    }
}

/// The number of publishes in flight during bulk writes.
pub(crate) const WINDOW: usize = 1_024;

/// Writes many records by hand, as fast as the plain client can: publishes them with at most [`WINDOW`]
/// acknowledgements pending.
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
