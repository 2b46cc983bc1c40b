//! The client of a connection, and its replacement.
//!
//! async-nats serves a client with one task. The task can end while the client is in use: it panics on headers that it
//! cannot parse, its runtime ends, or the number of reconnects is limited. The client then stays in its last state, often
//! "connected", and never connects again. A [`Link`] detects the end; [`Links`] replaces the client where this crate made
//! it, and reports `Closed` where the application did.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_nats::Client;
use async_nats::connection::State;
use futures::Sink;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::connect::Connector;
use crate::backend::{Backoff, Deadline};
use crate::error::{Error, ErrorKind, Result};

/// A client that lived longer than this probably did not end for a cause that ends its successor too.
const STABLE_TIME: Duration = Duration::from_secs(5);

/// One client, and the number of connections before it.
pub(crate) struct Link {
    client: Client,
    connects_before: u64,
    created: Instant,
    has_ended: AtomicBool,
}

impl Link {
    fn new(client: Client, connects_before: u64) -> Self {
        Self { client, connects_before, created: Instant::now(), has_ended: AtomicBool::new(false) }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Returns a number that grows with every connection.
    pub(crate) fn epoch(&self) -> u64 {
        self.connects_before + self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Whether the client is connected. Performs no I/O. Does not detect that the client's task has ended: see
    /// [`has_ended`](Self::has_ended).
    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected && !self.has_ended.load(Ordering::Relaxed)
    }

    /// Whether the client's task has ended. Performs no I/O.
    pub(crate) fn has_ended(&self) -> bool {
        if !self.has_ended.load(Ordering::Relaxed) && has_task_ended(&self.client) {
            self.has_ended.store(true, Ordering::Relaxed);
        }
        self.has_ended.load(Ordering::Relaxed)
    }
}

/// Whether the task of a client has ended: the client's queue of commands closes with it.
fn has_task_ended(client: &Client) -> bool {
    // A clone, because a sender that once reserved capacity does not notice that the queue has closed since.
    let mut client = client.clone();
    let mut context = Context::from_waker(Waker::noop());
    matches!(Pin::new(&mut client).poll_ready(&mut context), Poll::Ready(Err(_)))
}

/// The client in use, and the connector for its successor.
pub(crate) struct Links {
    current: ArcSwap<Link>,
    connector: Option<Connector>,
    /// Held while a client is replaced, so that there is one attempt at a time. A record that ends the client of each
    /// reader must not cause a loop of connections without a pause.
    replacement: Mutex<Backoff>,
}

impl Links {
    /// Creates the links with the first client. `connector` is `None` if the client belongs to the application. Such a
    /// client is not replaced.
    pub(crate) fn new(client: Client, connector: Option<Connector>) -> Self {
        let current = ArcSwap::from_pointee(Link::new(client, 0));
        Self { current, connector, replacement: Mutex::new(Backoff::outage()) }
    }

    pub(crate) fn current(&self) -> Arc<Link> {
        self.current.load_full()
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.current.load().epoch()
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.current.load().is_connected()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.current.load().has_ended()
    }

    /// Whether a client whose task has ended is replaced.
    pub(crate) fn are_replaced(&self) -> bool {
        self.connector.is_some()
    }

    /// Replaces the client if its task has ended. Retries until the deadline, and then returns the last error.
    ///
    /// If the future is dropped, the client is not replaced, and the next call tries again.
    pub(crate) async fn replace(&self, deadline: Deadline) -> Result<()> {
        let Some(connector) = &self.connector else { return Err(Error::new(ErrorKind::Closed)) };
        let mut backoff = deadline.timeout(self.replacement.lock()).await?;
        let old = self.current();
        if !old.has_ended() {
            return Ok(());
        }
        if old.created.elapsed() > STABLE_TIME {
            *backoff = Backoff::outage();
        } else if !backoff.pause(deadline).await {
            return Err(Error::unavailable("the task of the NATS client ended"));
        }
        loop {
            match connector.connect(deadline.remaining()).await {
                Ok(client) => {
                    tracing::warn!("the task of the NATS client ended; another client has connected");
                    // The new epoch exceeds every epoch of the old client, even before the new client counts its first
                    // connection.
                    self.current.store(Arc::new(Link::new(client, old.epoch() + 1)));
                    return Ok(());
                }
                Err(error) => {
                    tracing::debug!(%error, "the NATS client cannot be replaced yet");
                    if !backoff.pause(deadline).await {
                        return Err(error);
                    }
                }
            }
        }
    }
}
