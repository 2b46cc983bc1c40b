//! Requests on a connection, and the reasons for a missing reply.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_nats::{Client, HeaderMap, Message, Request, RequestError, RequestErrorKind, StatusCode};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryFutureExt};
use tokio::sync::{Mutex, MutexGuard, Semaphore, SemaphorePermit, broadcast};
use tokio::time::Instant;

use super::connect::Connector;
use super::link::Links;
use super::ticker::{SharedTicker, TICK};
use crate::backend::Deadline;
use crate::backend::nats::jetstream::error;
use crate::error::{Error, ErrorKind, Result};

/// How long closing waits for the replies to requests in flight.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// How long closing may take after that.
const CLOSING: Duration = Duration::from_secs(5);

/// How long a reply may still arrive after the server denied a request on the same subject.
const GRACE: Duration = Duration::from_millis(50);

/// How long the subscription for replies stays denied before a request reconnects the client. A server does not
/// announce that it allows the subscription again.
const DEAF: Duration = Duration::from_secs(2);

/// The number of recent denials that are kept for requests that check later.
const DENIALS: usize = 64;

/// The maximum number of unanswered batches of one connection. A server accepts up to 50 batches of all clients for a
/// bucket, and processes one after the other.
const BATCHES: usize = 32;

/// A connection, and the denials of its server.
pub(crate) struct Connection {
    links: Links,
    violations: Option<Arc<PermissionViolations>>,
    /// Whether to avoid requests that permissions cannot limit to some keys.
    restricted: bool,
    lookout: Arc<SharedTicker>,
    closed: AtomicBool,
    /// Shared with every request in flight.
    in_flight: Arc<()>,
    /// The permits for unanswered batches.
    batches: Semaphore,
    /// Held while the messages of a batch are sent, so that one connection has at most one incomplete batch.
    batch_send: Mutex<()>,
}

/// The result of a request.
pub(crate) enum Reply {
    /// The reply of the server.
    Message(Message),
    /// No subscription matches the subject, so the request was not received.
    NoResponders,
    /// The server denied this user the subject, and dropped the request.
    PermissionDenied(String),
    /// The request was never sent, and the connection is closed for good.
    Closed,
    /// The request was never sent: it is too large, or its subject is invalid.
    NotSent(RequestError),
    /// The connection of the request broke. A reply may still arrive.
    Disconnected,
    /// No reply arrived in time. It may still arrive.
    TimedOut,
}

impl Connection {
    /// Uses a client of the application.
    pub(crate) fn over(client: Client, restricted: bool) -> Self {
        Self::new(Links::new(client, None), None, restricted)
    }

    /// Connects a client, which is replaced when its task ends.
    pub(crate) async fn connect(connector: Connector, restricted: bool) -> Result<Self> {
        let client = connector.connect(connector.timeout()).await?;
        let violations = Arc::clone(connector.violations());
        Ok(Self::new(Links::new(client, Some(connector)), Some(violations), restricted))
    }

    fn new(links: Links, violations: Option<Arc<PermissionViolations>>, restricted: bool) -> Self {
        let lookout = violations.as_ref().map(|violations| Arc::clone(&violations.lookout)).unwrap_or_default();
        Self {
            links,
            violations,
            restricted,
            lookout,
            closed: AtomicBool::new(false),
            in_flight: Arc::new(()),
            batches: Semaphore::new(BATCHES),
            batch_send: Mutex::new(()),
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
        self.violations.as_ref().map(|violations| violations.sender.subscribe())
    }

    /// Waits for a permit to send a batch.
    pub(crate) async fn batch_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.batches.acquire().await.ok()
    }

    /// Waits until no other caller sends the messages of a batch.
    pub(crate) async fn lock_batch_send(&self) -> MutexGuard<'_, ()> {
        self.batch_send.lock().await
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.links.is_connected()
    }

    /// Reconnects if the subscription for replies has been denied for a while.
    fn listen_again(self: &Arc<Self>) {
        let Some(violations) = &self.violations else { return };
        let Some(since) = violations.inbox.load_full().map(|denied| denied.at) else { return };
        if since.elapsed() < DEAF || violations.reconnects.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::debug!("the subscription for replies is denied; reconnecting, because it may be allowed again");
        let client = self.client();
        tokio::spawn(async move { client.force_reconnect().await });
    }

    /// Returns a token for an operation in flight. Closing waits at most [`LAST_ANSWERS`] until all tokens are dropped.
    pub(crate) fn in_flight_count(&self) -> Arc<()> {
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
                (false, true) if self.violations.as_ref().is_some_and(|violations| violations.unauthorized()) => {
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
    pub(crate) fn is_over(&self) -> bool {
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
        self.listen_again();
        InFlight {
            epoch: Some(self.links.current().epoch()),
            replies,
            ready: None,
            wire: Arc::clone(self),
            looked: self.violations.as_ref().map_or(0, |violations| violations.count()),
            denied: None,
            subject,
            _under_way: self.in_flight_count(),
        }
    }

    /// Sends all buffered messages and closes the connection.
    pub(crate) async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::SeqCst);
        // Requests in flight may still get their replies.
        let answered = Instant::now() + LAST_ANSWERS;
        while self.is_connected() && Arc::strong_count(&self.in_flight) > 1 && Instant::now() < answered {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let client = self.client();
        let closing = async {
            // Draining begins after the last queued command. Afterwards the client accepts no command.
            if client.drain().await.is_ok() {
                while client.flush().await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        };
        // Without a connection there is nothing to send, and the client is busy reconnecting.
        if self.is_connected() && tokio::time::timeout(CLOSING, closing).await.is_err() {
            return Err(Error::timeout(CLOSING));
        }
        Ok(())
    }
}

type Replies = BoxStream<'static, Result<Message, RequestError>>;

/// A request in flight.
pub(crate) struct InFlight {
    /// The replies to the request.
    replies: Replies,
    /// A reply that arrived early.
    ready: Option<Result<Message, RequestError>>,
    wire: Arc<Connection>,
    /// The number of denials at the last check.
    looked: u64,
    /// The denied subject, and the time limit for a late reply.
    denied: Option<(String, Instant)>,
    subject: String,
    /// The epoch of the connection that carries the request. `None` after that connection broke.
    epoch: Option<u64>,
    _under_way: Arc<()>,
}

impl InFlight {
    /// Sends the request now rather than at the first wait.
    pub(crate) async fn start(&mut self) {
        self.ready = self.replies.next().now_or_never().flatten();
    }

    /// Waits for the next reply until the given time.
    pub(crate) async fn wait(&mut self, until: Instant) -> Reply {
        let wire = Arc::clone(&self.wire);
        loop {
            // Registers before the check, so that a denial after the check wakes this wait.
            let mut look = pin!(wire.lookout.next());
            self.poll_violations();
            let enough = self.denied.as_ref().map_or(until, |(_, at)| until.min(*at));
            let soon = enough.saturating_duration_since(Instant::now()) <= 2 * TICK;
            tokio::select! {
                biased;
                reply = next(&mut self.ready, &mut self.replies) => {
                    let answer = error::from_request_result(reply);
                    // The message was never sent, so it can be sent on the next connection.
                    if matches!(answer, Reply::Closed) && wire.ended().is_ok() {
                        return Reply::NoResponders;
                    }
                    if let Reply::Disconnected = answer {
                        let _ = wire.ended();
                        // The client dropped the request, so no reply can arrive.
                        self.replies = stream::empty().boxed();
                        self.epoch = None;
                    }
                    return answer;
                }
                () = &mut look => {}
                // The shared timer is coarse, so only the last part of the wait uses an exact timer.
                () = async { tokio::time::sleep_until(enough).await }, if soon => {}
            }
            self.poll_violations();
            if let Some((subject, at)) = &self.denied
                && Instant::now() >= *at
            {
                return Reply::PermissionDenied(subject.clone());
            }
            if let Some(epoch) = self.epoch
                && (!wire.is_connected() || wire.epoch() != epoch)
            {
                self.epoch = None;
                return Reply::Disconnected;
            }
            if Instant::now() >= until {
                return Reply::TimedOut;
            }
        }
    }

    fn poll_violations(&mut self) {
        let Some(violations) = &self.wire.violations else { return };
        if self.denied.is_none() {
            let denied = violations.inbox().or_else(|| violations.since(&mut self.looked, &self.subject));
            self.denied = denied.map(|subject| (subject, Instant::now() + GRACE));
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

/// Waits until the server denies this subject.
pub(crate) async fn wait_denied(
    denials: &mut Option<broadcast::Receiver<PermissionViolation>>,
    subject: &str,
) -> String {
    wait_denied_any(denials, |denied| denied == subject).await
}

/// Waits until the server denies one of these subjects.
pub(crate) async fn wait_denied_any(
    denials: &mut Option<broadcast::Receiver<PermissionViolation>>,
    of: impl Fn(&str) -> bool,
) -> String {
    while let Some(receiver) = denials {
        match receiver.recv().await {
            Ok(violation) if of(&violation.subject) => return violation.subject,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => *denials = None,
        }
    }
    std::future::pending().await
}

/// A subject that the server denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PermissionViolation {
    pub(crate) subject: String,
    is_subscription: bool,
}

impl PermissionViolation {
    /// Parses `Permissions Violation for Publish to "$KV.b.k"`.
    fn parse(text: &str) -> Option<Self> {
        let (_, what) = text.split_once("ermissions Violation for ")?;
        let subject = what.split('"').nth(1)?;
        Some(Self { subject: subject.to_owned(), is_subscription: what.starts_with("Subscription") })
    }
}

/// The subjects that the server denied. All waiting requests are notified, because the server does not say which
/// request it denied.
pub(crate) struct PermissionViolations {
    /// Notifies callers that wait on a subscription.
    sender: broadcast::Sender<PermissionViolation>,
    /// The most recent denials, for requests that check later.
    last: std::sync::Mutex<VecDeque<PermissionViolation>>,
    /// The total number of denials.
    count: AtomicU64,
    /// The denied subscription for all replies, if any. The server reports this denial only once.
    inbox: ArcSwapOption<DeniedInbox>,
    /// Whether a reconnect was requested because of the denial.
    reconnects: AtomicBool,
    /// Whether the last attempt to reconnect was refused because of the credentials.
    unauthorized: AtomicBool,
    lookout: Arc<SharedTicker>,
}

/// The subscription for replies that the server denied.
struct DeniedInbox {
    subject: String,
    at: Instant,
}

impl Default for PermissionViolations {
    fn default() -> Self {
        Self {
            sender: broadcast::channel(DENIALS).0,
            last: std::sync::Mutex::default(),
            count: AtomicU64::new(0),
            inbox: ArcSwapOption::empty(),
            reconnects: AtomicBool::new(false),
            unauthorized: AtomicBool::new(false),
            lookout: Arc::default(),
        }
    }
}

impl PermissionViolations {
    /// Records a denial that the server reported.
    pub(crate) fn report(&self, text: &str) {
        let Some(violation) = PermissionViolation::parse(text) else { return };
        tracing::debug!(subject = violation.subject, "the server denies a subject");
        // The replies to requests arrive under one subscription with this suffix.
        if violation.is_subscription && violation.subject.ends_with(".*") {
            self.inbox.store(Some(Arc::new(DeniedInbox { subject: violation.subject.clone(), at: Instant::now() })));
        }
        {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.len() == DENIALS {
                last.pop_front();
            }
            last.push_back(violation.clone());
            self.count.fetch_add(1, Ordering::Release);
        }
        self.lookout.tick_now();
        // An error means that there is no receiver.
        let _ = self.sender.send(violation);
    }

    /// Forgets the denied subscription for replies. Another connection may be allowed to subscribe. If not, the server
    /// reports the denial again.
    pub(crate) fn remove(&self) {
        self.inbox.store(None);
        self.reconnects.store(false, Ordering::Relaxed);
    }

    /// Records whether reconnecting was refused because of the credentials.
    pub(crate) fn refuse(&self, unauthorized: bool) {
        self.unauthorized.store(unauthorized, Ordering::Relaxed);
    }

    fn unauthorized(&self) -> bool {
        self.unauthorized.load(Ordering::Relaxed)
    }

    /// Returns the total number of denials.
    fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Returns this subject if it was denied since the count in `looked`, and updates that count.
    fn since(&self, looked: &mut u64, subject: &str) -> Option<String> {
        if self.count() == *looked {
            return None;
        }
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let news = self.count() - *looked;
        *looked += news;
        let news = usize::try_from(news).unwrap_or(usize::MAX);
        last.iter().rev().take(news).any(|denied| denied.subject == subject).then(|| subject.to_owned())
    }

    fn inbox(&self) -> Option<String> {
        self.inbox.load().as_ref().map(|inbox| inbox.subject.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_is_read_from_what_the_server_says() {
        let publish = PermissionViolation::parse(r#"Permissions Violation for Publish to "$KV.b.t2.k""#);
        assert_eq!(publish, Some(PermissionViolation { subject: "$KV.b.t2.k".into(), is_subscription: false }));
        let inbox = PermissionViolation::parse(r#"Permissions Violation for Subscription to "_INBOX.x.*""#);
        assert_eq!(inbox, Some(PermissionViolation { subject: "_INBOX.x.*".into(), is_subscription: true }));
        assert_eq!(PermissionViolation::parse("Stale Connection"), None);
    }

    #[test]
    fn a_denial_is_told_to_those_who_asked_before_it_and_once() {
        let violations = PermissionViolations::default();
        let denied = |subject: &str| violations.report(&format!("Permissions Violation for Publish to \"{subject}\""));
        denied("a");
        let (mut one, mut other) = (violations.count(), violations.count());
        assert_eq!(violations.since(&mut one, "a"), None);
        denied("b");
        assert_eq!(violations.since(&mut one, "b").as_deref(), Some("b"));
        assert_eq!(violations.since(&mut one, "b"), None);
        (0..DENIALS - 1).for_each(|_| denied("c"));
        assert_eq!(violations.since(&mut other, "b").as_deref(), Some("b"));
    }
}
