//! Requests on a connection, and the reasons for a missing reply.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Request, RequestError, RequestErrorKind, StatusCode};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryFutureExt};
use tokio::sync::{Mutex, MutexGuard, Semaphore, SemaphorePermit, broadcast, watch};
use tokio::time::Instant;

use super::connect::Connector;
use super::link::Links;
use super::monitor::ConnectionMonitor;
use super::reply::{AwaitReply, Reply};
use super::ticker::{SharedTicker, TICK};
use super::violations::{PermissionViolation, PermissionViolations};
use crate::backend::{ConnectionState, Deadline};
use crate::error::{Error, ErrorKind, Result};

/// How long closing waits for the replies to requests in flight.
const LAST_REPLIES_TIMEOUT: Duration = Duration::from_secs(1);

/// How long closing may take after that.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a reply may still arrive after the server denied a request on the same subject.
const DENIAL_GRACE: Duration = Duration::from_millis(50);

/// The maximum number of unanswered batches of one connection. A server accepts up to 50 batches of all clients for a
/// bucket, and processes one after the other.
const MAX_BATCHES: usize = 32;

/// A connection, and the denials of its server.
pub(crate) struct Connection {
    links: Links,
    violations: Option<Arc<PermissionViolations>>,
    /// Whether to avoid requests that permissions cannot limit to some keys.
    restricted: bool,
    ticker: Arc<SharedTicker>,
    monitor: ConnectionMonitor,
    closed: AtomicBool,
    /// Shared with every request in flight.
    in_flight: Arc<()>,
    /// The permits for unanswered batches.
    batch_permits: Semaphore,
    /// Held while the messages of a batch are sent, so that one connection has at most one incomplete batch.
    batch_send: Mutex<()>,
}

impl Connection {
    /// Uses a client of the application.
    pub(crate) fn over(client: Client, restricted: bool) -> Arc<Self> {
        let monitor = ConnectionMonitor::new(&client, None, None);
        Self::new(Links::new(client, None), None, monitor, restricted)
    }

    /// Connects a client, which is replaced when its task ends.
    pub(crate) async fn connect(connector: Connector, restricted: bool) -> Result<Arc<Self>> {
        let client = connector.connect(connector.timeout()).await?;
        let violations = Arc::clone(connector.violations());
        let events = Some(Arc::clone(connector.events()));
        let monitor = ConnectionMonitor::new(&client, events, connector.target());
        Ok(Self::new(Links::new(client, Some(connector)), Some(violations), monitor, restricted))
    }

    fn new(
        links: Links,
        violations: Option<Arc<PermissionViolations>>,
        monitor: ConnectionMonitor,
        restricted: bool,
    ) -> Arc<Self> {
        let ticker = violations.as_ref().map(|violations| violations.ticker()).unwrap_or_default();
        let connection = Arc::new(Self {
            links,
            violations,
            restricted,
            ticker,
            monitor,
            closed: AtomicBool::new(false),
            in_flight: Arc::new(()),
            batch_permits: Semaphore::new(MAX_BATCHES),
            batch_send: Mutex::new(()),
        });
        connection.start_monitor();
        connection
    }

    fn start_monitor(self: &Arc<Self>) {
        let connection = Arc::downgrade(self);
        self.monitor.start(move || connection.upgrade().is_some_and(|connection| connection.refresh_state()));
    }

    /// Publishes the state of the connection. Returns whether it can change again.
    fn refresh_state(&self) -> bool {
        let closed = self.is_closed();
        let connected = !closed && !self.links.has_ended() && self.is_connected();
        self.monitor.update(self.links.current().client(), connected, self.epoch());
        !closed
    }

    /// Returns the state of the connection and its changes.
    pub(crate) fn state(self: &Arc<Self>) -> watch::Receiver<ConnectionState> {
        self.start_monitor();
        self.refresh_state();
        self.monitor.subscribe()
    }

    /// Measures a round trip to the server: publishes a message to an inbox of this connection. A server that denies
    /// the message answers, too.
    pub(crate) async fn ping(&self, deadline: Deadline) -> Result<Duration> {
        self.connected(deadline).await?;
        let (client, mut denials) = (self.client(), self.denials());
        let inbox = client.new_inbox();
        let started = Instant::now();
        let mut echo = client.subscribe(inbox.clone()).await.map_err(|_| self.ended_error())?;
        client.publish(inbox.clone(), Bytes::new()).await.map_err(|_| self.ended_error())?;
        tokio::select! {
            message = echo.next() => message.map(|_| started.elapsed()).ok_or_else(|| self.ended_error()),
            () = denied(&mut denials, &inbox) => Ok(started.elapsed()),
            () = tokio::time::sleep_until(deadline.at()) => Err(match self.is_connected() {
                true => deadline.error(),
                false => Error::unavailable("the connection was lost"),
            }),
        }
    }

    /// Returns the client in use. The next wait for a connection may replace it.
    pub(crate) fn client(&self) -> Client {
        self.links.current().client().clone()
    }

    /// Returns the size of the largest message that the server accepts, in bytes.
    pub(crate) fn max_payload(&self) -> usize {
        self.links.current().client().max_payload()
    }

    /// Returns whether to avoid requests that permissions cannot limit to some keys.
    pub(crate) fn is_restricted(&self) -> bool {
        self.restricted
    }

    /// Subscribes to denials, for a caller that waits on a subscription. Returns `None` for a client of the
    /// application.
    pub(crate) fn denials(&self) -> Option<broadcast::Receiver<PermissionViolation>> {
        self.violations.as_ref().map(|violations| violations.subscribe())
    }

    /// Waits for a permit to send a batch.
    pub(crate) async fn batch_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.batch_permits.acquire().await.ok()
    }

    /// Waits until no other caller sends the messages of a batch.
    pub(crate) async fn lock_batch_send(&self) -> MutexGuard<'_, ()> {
        self.batch_send.lock().await
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.links.is_connected()
    }

    /// Reconnects if the subscription for replies has been denied for a while.
    fn reconnect_if_denied(self: &Arc<Self>) {
        if !self.violations.as_ref().is_some_and(|violations| violations.should_reconnect()) {
            return;
        }
        tracing::debug!("the subscription for replies is denied; reconnecting, because it may be allowed again");
        let client = self.client();
        tokio::spawn(async move { client.force_reconnect().await });
    }

    /// Returns a token for an operation in flight. Closing waits at most [`LAST_REPLIES_TIMEOUT`] until all tokens are dropped.
    pub(crate) fn in_flight_token(&self) -> Arc<()> {
        Arc::clone(&self.in_flight)
    }

    /// Returns whether the server belongs to a cluster.
    pub(crate) fn is_clustered(&self) -> bool {
        self.links.current().client().server_info().cluster.is_some()
    }

    /// Returns a number that grows with every connection.
    pub(crate) fn epoch(&self) -> u64 {
        self.links.epoch()
    }

    /// Waits until there is a connection. Without one, the client would buffer a message and send it after it
    /// reconnects, long after the caller gave up.
    pub(crate) async fn connected(&self, deadline: Deadline) -> Result<()> {
        if self.is_connected() && !self.closed.load(Ordering::Relaxed) && !deadline.is_expired() {
            return Ok(());
        }
        // Rare, and therefore boxed, so that the future of every operation stays small.
        self.reconnected(deadline).boxed().await
    }

    async fn reconnected(&self, deadline: Deadline) -> Result<()> {
        loop {
            if self.closed.load(Ordering::SeqCst) {
                return Err(Error::new(ErrorKind::Closed));
            }
            if self.links.has_ended() {
                self.links.replace(deadline).await?;
                self.close_if_late().await;
                continue;
            }
            match (self.is_connected(), deadline.is_expired()) {
                (true, false) => return Ok(()),
                (true, true) => return Err(deadline.error()),
                (false, true) if self.violations.as_ref().is_some_and(|violations| violations.is_unauthorized()) => {
                    return Err(Error::new(ErrorKind::Unauthorized));
                }
                (false, true) => return Err(Error::unavailable("not connected to a server")),
                (false, false) => {}
            }
            tokio::time::sleep(deadline.remaining().min(Duration::from_millis(10))).await;
        }
    }

    /// Closes a client that was created while the connection was closed.
    async fn close_if_late(&self) {
        if self.closed.load(Ordering::SeqCst) {
            let _ = self.client().drain().await;
        }
    }

    /// Returns whether this connection is closed for good: the store was closed, or the task of the application's
    /// client has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst) || (!self.links.are_replaced() && self.links.has_ended())
    }

    /// Handles the end of the client's task, which shows as an ended subscription or a refused command. Returns the
    /// reason why the caller must start over.
    ///
    /// # Errors
    ///
    /// Returns `Closed` if the client is not replaced.
    pub(crate) fn ended(&self) -> Result<&'static str> {
        // The next wait for a connection replaces the client.
        self.links.has_ended();
        if self.links.are_replaced() && !self.closed.load(Ordering::SeqCst) {
            return Ok("the task of the NATS client ended");
        }
        Err(Error::new(ErrorKind::Closed))
    }

    /// Converts [`ended`](Self::ended) to the error of an operation that cannot start over.
    pub(crate) fn ended_error(&self) -> Error {
        self.ended().map_or_else(|closed| closed, Error::unavailable)
    }

    /// Creates a request, which is sent at the first wait for its reply.
    pub(crate) fn request(self: &Arc<Self>, subject: String, headers: Option<HeaderMap>, payload: Bytes) -> InFlight {
        let mut request = Request::new().payload(payload).timeout(None);
        request.headers = headers;
        let (link, to) = (self.links.current(), subject.clone());
        let replies = stream::once(async move { link.client().send_request(to, request).await });
        self.pending(subject, replies.boxed())
    }

    /// Creates a request with several replies. Each call of [`InFlight::wait`] returns one of them.
    pub(crate) fn request_all(self: &Arc<Self>, subject: String, headers: HeaderMap, payload: Bytes) -> InFlight {
        let (client, to) = (self.client(), subject.clone());
        let replies = async move {
            let inbox = client.new_inbox();
            let subscriber = client.subscribe(inbox.clone()).await?;
            client.publish_with_reply_and_headers(to, inbox, headers, payload).await?;
            Ok(subscriber.map(|message| match message.status {
                Some(StatusCode::NO_RESPONDERS) => Err(RequestError::new(RequestErrorKind::NoResponders)),
                _ => Ok(message),
            }))
        };
        self.pending(subject, replies.try_flatten_stream().boxed())
    }

    fn pending(self: &Arc<Self>, subject: String, replies: Replies) -> InFlight {
        self.reconnect_if_denied();
        InFlight {
            epoch: Some(self.links.current().epoch()),
            replies,
            ready: None,
            connection: Arc::clone(self),
            denials_seen: self.violations.as_ref().map_or(0, |violations| violations.count()),
            denied: None,
            subject,
            _in_flight: self.in_flight_token(),
        }
    }

    /// Sends all buffered messages and closes the connection.
    pub(crate) async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::SeqCst);
        self.monitor.wake();
        // Requests in flight may still get their replies.
        let replies_until = Instant::now() + LAST_REPLIES_TIMEOUT;
        while self.is_connected() && Arc::strong_count(&self.in_flight) > 1 && Instant::now() < replies_until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let client = self.client();
        let drain = async {
            // Draining begins after the last queued command. Afterwards the client accepts no command.
            if client.drain().await.is_ok() {
                while client.flush().await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        };
        // Without a connection there is nothing to send, and the client is busy reconnecting.
        if self.is_connected() && tokio::time::timeout(CLOSE_TIMEOUT, drain).await.is_err() {
            return Err(Error::timeout(CLOSE_TIMEOUT));
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.monitor.wake();
    }
}

/// Waits until the server denies a subject. Waits forever if denials are not reported.
async fn denied(denials: &mut Option<broadcast::Receiver<PermissionViolation>>, subject: &str) {
    while let Some(receiver) = denials {
        match receiver.recv().await {
            Ok(denial) if denial.subject == subject => return,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => *denials = None,
        }
    }
    std::future::pending().await
}

type Replies = BoxStream<'static, Result<Message, RequestError>>;

/// A request in flight.
pub(crate) struct InFlight {
    /// The replies to the request.
    replies: Replies,
    /// A reply that arrived early.
    ready: Option<Result<Message, RequestError>>,
    connection: Arc<Connection>,
    /// The number of denials at the last check.
    denials_seen: u64,
    /// The denied subject, and the time limit for a late reply.
    denied: Option<(String, Instant)>,
    subject: String,
    /// The epoch of the connection that carries the request. `None` after that connection broke.
    epoch: Option<u64>,
    _in_flight: Arc<()>,
}

impl InFlight {
    /// Sends the request now rather than at the first wait.
    pub(crate) async fn start(&mut self) {
        self.ready = self.replies.next().now_or_never().flatten();
    }

    fn poll_violations(&mut self) {
        let Some(violations) = &self.connection.violations else { return };
        if self.denied.is_none() {
            let denied = violations.inbox().or_else(|| violations.since(&mut self.denials_seen, &self.subject));
            self.denied = denied.map(|subject| (subject, Instant::now() + DENIAL_GRACE));
        }
    }
}

impl AwaitReply for InFlight {
    async fn wait(&mut self, until: Instant) -> Reply {
        let connection = Arc::clone(&self.connection);
        loop {
            // Registers before the check, so that a denial after the check wakes this wait.
            let mut tick = pin!(connection.ticker.next());
            self.poll_violations();
            let end = self.denied.as_ref().map_or(until, |(_, at)| until.min(*at));
            let is_near = end.saturating_duration_since(Instant::now()) <= 2 * TICK;
            tokio::select! {
                biased;
                reply = next(&mut self.ready, &mut self.replies) => {
                    let reply = Reply::from_result(reply);
                    // The message was never sent, so it can be sent on the next connection.
                    if matches!(reply, Reply::Closed) && connection.ended().is_ok() {
                        return Reply::NoResponders;
                    }
                    if let Reply::Disconnected = reply {
                        let _ = connection.ended();
                        // The client dropped the request, so no reply can arrive.
                        self.replies = stream::empty().boxed();
                        self.epoch = None;
                    }
                    return reply;
                }
                () = &mut tick => {}
                // The shared timer is coarse, so only the last part of the wait uses an exact timer.
                () = async { tokio::time::sleep_until(end).await }, if is_near => {}
            }
            self.poll_violations();
            if let Some((subject, at)) = &self.denied
                && Instant::now() >= *at
            {
                return Reply::PermissionDenied(subject.clone());
            }
            if let Some(epoch) = self.epoch
                && (!connection.is_connected() || connection.epoch() != epoch)
            {
                self.epoch = None;
                return Reply::Disconnected;
            }
            if Instant::now() >= until {
                return Reply::TimedOut;
            }
        }
    }
}

async fn next(
    ready: &mut Option<Result<Message, RequestError>>,
    replies: &mut Replies,
) -> Result<Message, RequestError> {
    if let Some(reply) = ready.take() {
        return reply;
    }
    match replies.next().await {
        Some(reply) => reply,
        None => std::future::pending().await,
    }
}
