//! Reports of a store about its server and its connection.

use std::time::Duration;

use crate::backend::{Capabilities, ConnectionState, ServerInfo};

/// The server of a store, and its capabilities; see [`Store::info`](crate::Store::info).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreInfo {
    /// The server that the store is connected to. `None` if there is no server.
    pub server: Option<ServerInfo>,
    /// The capabilities of the backend.
    pub capabilities: Capabilities,
}

/// The health of a store; see [`Store::health`](crate::Store::health).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreHealth {
    /// The state of the connection.
    pub connection: ConnectionState,
    /// The time of a round trip to the server. `None` if the server did not answer in time.
    pub round_trip: Option<Duration>,
}

impl StoreHealth {
    /// Whether the store is connected and the server answers.
    pub fn is_healthy(&self) -> bool {
        self.connection.connected && self.round_trip.is_some()
    }
}
