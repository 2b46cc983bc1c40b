//! The state of a connection, as callers observe it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backend::{ConnectionState, ServerInfo};

/// How long after an event of the client its state has certainly changed: the client reports the event first.
const SETTLE_TIME: Duration = Duration::from_millis(20);

/// The interval of checks of a client that reports its events.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The interval of checks of a client of the application, which reports its events to the application alone.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The observed state of a connection, and the task that updates it.
pub(crate) struct ConnectionMonitor {
    state: watch::Sender<ConnectionState>,
    /// Notified of the events of the client. `None` for a client of the application.
    events: Option<Arc<Notify>>,
    /// The only server of the URL, as host and port.
    target: Option<(String, u16)>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl ConnectionMonitor {
    pub(crate) fn new(client: &Client, events: Option<Arc<Notify>>, target: Option<(String, u16)>) -> Self {
        let server = Some(describe(client, target.as_ref()));
        let state = watch::Sender::new(ConnectionState::connected(server));
        Self { state, events, target, task: Mutex::new(None) }
    }

    /// Starts the task that calls `refresh` whenever the state may have changed, until `refresh` returns `false`. Does
    /// nothing if the task runs, or if there is no runtime.
    pub(crate) fn start(&self, refresh: impl Fn() -> bool + Send + 'static) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        // The task ends with its runtime, and the connection may be used from another one.
        if task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let events = self.events.clone();
        *task = Some(runtime.spawn(async move {
            while refresh() {
                match &events {
                    Some(events) => {
                        if tokio::time::timeout(CHECK_INTERVAL, events.notified()).await.is_ok() && refresh() {
                            tokio::time::sleep(SETTLE_TIME).await;
                        }
                    }
                    None => tokio::time::sleep(POLL_INTERVAL).await,
                }
            }
        }));
    }

    /// Wakes the task.
    pub(crate) fn wake(&self) {
        if let Some(events) = &self.events {
            events.notify_one();
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    /// Publishes the state if it differs from the last one.
    pub(crate) fn update(&self, client: &Client, connected: bool, epoch: u64) {
        let reconnects = epoch.saturating_sub(1);
        self.state.send_if_modified(|state| {
            if (state.connected, state.reconnects) == (connected, reconnects) {
                return false;
            }
            if connected {
                state.server = Some(describe(client, self.target.as_ref()));
            }
            (state.connected, state.reconnects, state.since) = (connected, reconnects, Instant::now());
            true
        });
    }
}

fn describe(client: &Client, target: Option<&(String, u16)>) -> ServerInfo {
    let info = client.server_info();
    let (host, port) = target.cloned().unwrap_or((info.host.clone(), info.port));
    // A server that listens on all addresses announces none.
    let is_address = !matches!(&*info.host, "" | "0.0.0.0" | "::");
    let address = if is_address { info.host } else { host.clone() };
    ServerInfo {
        name: info.server_name,
        version: info.version,
        host,
        port,
        address,
        cluster: info.cluster,
        max_payload: info.max_payload,
    }
}
