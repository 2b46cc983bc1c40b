//! The state of the connection to a server.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// The state of the connection of a store. A store in this process is always connected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionState {
    /// Whether the store is connected. A hung server counts as connected until it has missed three pings, which takes
    /// six seconds on a connection of [`Store::connect`](crate::Store::connect).
    pub connected: bool,
    /// When the connection was established, or lost.
    pub since: Instant,
    /// The number of connections after the first one.
    pub reconnects: u64,
    /// The server of the current or the last connection. `None` if there is no server.
    pub server: Option<ServerInfo>,
}

/// A server, as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ServerInfo {
    /// The name of the server.
    pub name: String,
    /// The version: `2.15.1`.
    pub version: String,
    /// The host of the URL, or the host that the server announces if the URL names several.
    pub host: String,
    /// The port, as for the host.
    pub port: u16,
    /// The address that the server announces, or the host if it announces none.
    pub address: String,
    /// The name of the cluster, if the server belongs to one.
    pub cluster: Option<String>,
    /// The largest message that the server accepts, in bytes.
    pub max_payload: usize,
}

impl ConnectionState {
    /// Creates the state of a new connection to this server. For backends.
    pub fn connected(server: Option<ServerInfo>) -> Self {
        Self { connected: true, since: Instant::now(), reconnects: 0, server }
    }

    /// Returns the state of a backend that is never disconnected. Its receiver gets no other state.
    pub fn permanent() -> watch::Receiver<Self> {
        watch::channel(Self::connected(None)).1
    }

    /// Returns how long there has been no connection, or `None` if there is one.
    pub fn downtime(&self) -> Option<Duration> {
        (!self.connected).then(|| self.since.elapsed())
    }
}
