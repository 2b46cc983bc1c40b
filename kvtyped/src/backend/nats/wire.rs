//! One request: its answer, or why there is none.

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
use super::convert;
use super::link::Links;
use super::lookout::{Lookout, SLICE};
use crate::backend::Deadline;
use crate::error::{Error, ErrorKind, Result};

/// How long closing waits for the answers to what is under way.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// How long closing may take after that.
const CLOSING: Duration = Duration::from_secs(5);

/// How long an answer may still come after the server denied a request on the same subject.
const GRACE: Duration = Duration::from_millis(50);

/// How long the subscription for replies stays denied before a request reconnects the client. A server does not
/// announce that it allows the subscription again.
const DEAF: Duration = Duration::from_secs(2);

/// How many denials are kept for those who have not looked yet.
const DENIALS: usize = 64;

/// How many batches of one connection may be without an answer. A server takes up to 50 for a bucket, of everybody, and
/// works on one after the other.
const BATCHES: usize = 32;

/// A connection, and what its server denied.
pub(super) struct Wire {
    links: Links,
    violations: Option<Arc<Violations>>,
    /// Whether nothing is to be asked for that cannot be limited to some keys.
    confined: bool,
    lookout: Arc<Lookout>,
    closed: AtomicBool,
    /// Shared with every request on its way.
    under_way: Arc<()>,
    /// For the batches that are not answered yet.
    batches: Semaphore,
    /// Held while the messages of a batch are handed over, so that one connection has one batch that is not complete.
    turn: Mutex<()>,
}

/// What came of a request.
pub(super) enum Answer {
    /// The server's answer.
    Message(Message),
    /// Nobody listens on the subject, so nobody got it.
    NoResponders,
    /// The server denied this user the subject, and dropped it.
    Denied(String),
    /// It was never sent, and the connection will not send any more.
    Closed,
    /// It was never sent: it is too large, or its subject is not one.
    Refused(RequestError),
    /// The connection that it was sent on broke. An answer may yet come.
    Broken,
    /// None in the time given. It may yet come.
    Silent,
}

impl Wire {
    /// A client of the application.
    pub(super) fn over(client: Client, confined: bool) -> Self {
        Self::new(Links::new(client, None), None, confined)
    }

    /// A client that this crate created, and replaces when its task ends.
    pub(super) async fn connect(connector: Connector, confined: bool) -> Result<Self> {
        let client = connector.connect(connector.timeout()).await?;
        let violations = Arc::clone(connector.violations());
        Ok(Self::new(Links::new(client, Some(connector)), Some(violations), confined))
    }

    fn new(links: Links, violations: Option<Arc<Violations>>, confined: bool) -> Self {
        let lookout = violations.as_ref().map(|violations| Arc::clone(&violations.lookout)).unwrap_or_default();
        Self {
            links,
            violations,
            confined,
            lookout,
            closed: AtomicBool::new(false),
            under_way: Arc::new(()),
            batches: Semaphore::new(BATCHES),
            turn: Mutex::new(()),
        }
    }

    /// The client in use. The next wait for a connection may replace it.
    pub(super) fn client(&self) -> Client {
        self.links.current().client().clone()
    }

    /// The largest message that the server accepts, in bytes.
    pub(super) fn max_payload(&self) -> usize {
        self.links.current().client().max_payload()
    }

    /// Whether nothing is to be asked for that cannot be limited to some keys.
    pub(super) fn is_confined(&self) -> bool {
        self.confined
    }

    /// Denials of subscriptions, for one who waits on a subscription of his own.
    pub(super) fn denials(&self) -> Option<broadcast::Receiver<Violation>> {
        self.violations.as_ref().map(|violations| violations.sender.subscribe())
    }

    /// Waits until there are not too many batches under way: for a place among them.
    pub(super) async fn place_of_batch(&self) -> Option<SemaphorePermit<'_>> {
        self.batches.acquire().await.ok()
    }

    /// Waits until nobody else hands over a batch.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    pub(super) fn is_connected(&self) -> bool {
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

    /// Something that is under way as long as this is held: closing waits for it.
    pub(super) fn under_way(&self) -> Arc<()> {
        Arc::clone(&self.under_way)
    }

    /// Whether the server is one of several.
    pub(super) fn is_clustered(&self) -> bool {
        self.links.current().client().server_info().cluster.is_some()
    }

    /// Grows with every connection that was made.
    pub(super) fn epoch(&self) -> u64 {
        self.links.epoch()
    }

    /// Waits until there is a connection. What is published without one is kept by the client, and sent whenever there
    /// is one again: long after the caller gave up.
    pub(super) async fn connected(&self, deadline: Deadline) -> Result<()> {
        if self.is_connected() && !self.closed.load(Ordering::Relaxed) && !deadline.has_passed() {
            return Ok(());
        }
        // Rare, and in a box, so that the future of every operation stays small.
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
            match (self.is_connected(), deadline.has_passed()) {
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

    /// Whether this connection is closed for good: the store was closed, or the task of the application's client has
    /// ended.
    pub(super) fn is_over(&self) -> bool {
        self.closed.load(Ordering::SeqCst) || (!self.links.are_replaced() && self.links.has_ended())
    }

    /// Handles the end of the client's task, which shows as an ended subscription or a refused command. Returns the
    /// reason why the caller must start over.
    ///
    /// # Errors
    ///
    /// Returns `Closed` if the client is not replaced.
    pub(super) fn ended(&self) -> Result<&'static str> {
        // The next wait for a connection replaces the client.
        self.links.has_ended();
        if self.links.are_replaced() && !self.closed.load(Ordering::SeqCst) {
            return Ok("the task of the NATS client ended");
        }
        Err(Error::new(ErrorKind::Closed))
    }

    /// Converts [`ended`](Self::ended) to the error of an operation that cannot start over.
    pub(super) fn ended_error(&self) -> Error {
        self.ended().map_or_else(|closed| closed, Error::unavailable)
    }

    /// A request, which is sent when it is first waited for.
    pub(super) fn request(self: &Arc<Self>, subject: String, headers: Option<HeaderMap>, payload: Bytes) -> Pending {
        let mut request = Request::new().payload(payload).timeout(None);
        request.headers = headers;
        let (link, to) = (self.links.current(), subject.clone());
        let replies = stream::once(async move { link.client().send_request(to, request).await });
        self.pending(subject, replies.boxed())
    }

    /// A request with several answers. Each call of [`Pending::wait`] returns one of them.
    pub(super) fn request_all(self: &Arc<Self>, subject: String, headers: HeaderMap, payload: Bytes) -> Pending {
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

    fn pending(self: &Arc<Self>, subject: String, replies: Replies) -> Pending {
        self.listen_again();
        Pending {
            epoch: Some(self.links.current().epoch()),
            replies,
            ready: None,
            wire: Arc::clone(self),
            looked: self.violations.as_ref().map_or(0, |violations| violations.count()),
            denied: None,
            subject,
            _under_way: self.under_way(),
        }
    }

    /// Sends what is to be sent, and closes the connection.
    pub(super) async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::SeqCst);
        // What is under way may well get its answer.
        let answered = Instant::now() + LAST_ANSWERS;
        while self.is_connected() && Arc::strong_count(&self.under_way) > 1 && Instant::now() < answered {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let client = self.client();
        let closing = async {
            // Draining begins where the last command ends; once it is over, no command is taken any more.
            if client.drain().await.is_ok() {
                while client.flush().await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        };
        // Without a connection there is nothing to send, and the client is busy making one.
        if self.is_connected() && tokio::time::timeout(CLOSING, closing).await.is_err() {
            return Err(Error::timeout(CLOSING));
        }
        Ok(())
    }
}

type Replies = BoxStream<'static, Result<Message, RequestError>>;

/// A request on its way.
pub(super) struct Pending {
    /// The replies to it.
    replies: Replies,
    /// A reply that arrived early.
    ready: Option<Result<Message, RequestError>>,
    wire: Arc<Wire>,
    /// How many denials there were when it last looked.
    looked: u64,
    /// What was denied, and when an answer can no longer be expected.
    denied: Option<(String, Instant)>,
    subject: String,
    /// The connection that it is sent on; `None` once it broke.
    epoch: Option<u64>,
    _under_way: Arc<()>,
}

impl Pending {
    /// Sends it now, rather than when it is first waited for.
    pub(super) async fn start(&mut self) {
        self.ready = self.replies.next().now_or_never().flatten();
    }

    /// Waits for the next answer until then.
    pub(super) async fn wait(&mut self, until: Instant) -> Answer {
        let wire = Arc::clone(&self.wire);
        loop {
            // From here on, so that what is denied meanwhile wakes it.
            let mut look = pin!(wire.lookout.next());
            self.look_for_denials();
            let enough = self.denied.as_ref().map_or(until, |(_, at)| until.min(*at));
            let soon = enough.saturating_duration_since(Instant::now()) <= 2 * SLICE;
            tokio::select! {
                biased;
                reply = next(&mut self.ready, &mut self.replies) => {
                    let answer = convert::of_reply(reply);
                    // The message was never sent, so it can be sent on the next connection.
                    if matches!(answer, Answer::Closed) && wire.ended().is_ok() {
                        return Answer::NoResponders;
                    }
                    if let Answer::Broken = answer {
                        let _ = wire.ended();
                        // The connection was closed for good: there is nothing to wait for any more.
                        self.replies = stream::empty().boxed();
                        self.epoch = None;
                    }
                    return answer;
                }
                () = &mut look => {}
                // Only the last of the time is told by a timer.
                () = async { tokio::time::sleep_until(enough).await }, if soon => {}
            }
            self.look_for_denials();
            if let Some((subject, at)) = &self.denied
                && Instant::now() >= *at
            {
                return Answer::Denied(subject.clone());
            }
            if let Some(epoch) = self.epoch
                && (!wire.is_connected() || wire.epoch() != epoch)
            {
                self.epoch = None;
                return Answer::Broken;
            }
            if Instant::now() >= until {
                return Answer::Silent;
            }
        }
    }

    fn look_for_denials(&mut self) {
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
pub(super) async fn denied(denials: &mut Option<broadcast::Receiver<Violation>>, subject: &str) -> String {
    denied_one(denials, |denied| denied == subject).await
}

/// Waits until the server denies one of these subjects.
pub(super) async fn denied_one(
    denials: &mut Option<broadcast::Receiver<Violation>>,
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

/// One subject that the server denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) subject: String,
    is_subscription: bool,
}

impl Violation {
    /// Reads `Permissions Violation for Publish to "$KV.b.k"`.
    fn parse(text: &str) -> Option<Self> {
        let (_, what) = text.split_once("ermissions Violation for ")?;
        let subject = what.split('"').nth(1)?;
        Some(Self { subject: subject.to_owned(), is_subscription: what.starts_with("Subscription") })
    }
}

/// What the server denied: told to whoever waits, since the server does not say which request it denies.
pub(super) struct Violations {
    /// To those who wait for long.
    sender: broadcast::Sender<Violation>,
    /// The last ones, for those who look.
    last: std::sync::Mutex<VecDeque<Violation>>,
    /// How many there were in all.
    count: AtomicU64,
    /// The subscription under which all answers arrive, if it was denied: the server says so only once.
    inbox: ArcSwapOption<DeniedInbox>,
    /// Whether a reconnect was requested because of the denial.
    reconnects: AtomicBool,
    /// Whether the last attempt to connect again was refused for its credentials.
    unauthorized: AtomicBool,
    lookout: Arc<Lookout>,
}

/// The subscription for answers that the server denied.
struct DeniedInbox {
    subject: String,
    at: Instant,
}

impl Default for Violations {
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

impl Violations {
    /// Takes what the server said.
    pub(super) fn report(&self, text: &str) {
        let Some(violation) = Violation::parse(text) else { return };
        tracing::debug!(subject = violation.subject, "the server denies a subject");
        // Answers to requests arrive under one subscription that ends so.
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
        self.lookout.look_now();
        // An error says that nobody waits.
        let _ = self.sender.send(violation);
    }

    /// Another connection may be allowed more; if not, the server says so again.
    pub(super) fn forget(&self) {
        self.inbox.store(None);
        self.reconnects.store(false, Ordering::Relaxed);
    }

    /// Takes whether the credentials were refused when it was connected again.
    pub(super) fn refuse(&self, unauthorized: bool) {
        self.unauthorized.store(unauthorized, Ordering::Relaxed);
    }

    fn unauthorized(&self) -> bool {
        self.unauthorized.load(Ordering::Relaxed)
    }

    /// How many there were in all.
    fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// This subject, if it was denied since there were so many; and how many there are now.
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
        let publish = Violation::parse(r#"Permissions Violation for Publish to "$KV.b.t2.k""#);
        assert_eq!(publish, Some(Violation { subject: "$KV.b.t2.k".into(), is_subscription: false }));
        let inbox = Violation::parse(r#"Permissions Violation for Subscription to "_INBOX.x.*""#);
        assert_eq!(inbox, Some(Violation { subject: "_INBOX.x.*".into(), is_subscription: true }));
        assert_eq!(Violation::parse("Stale Connection"), None);
    }

    #[test]
    fn a_denial_is_told_to_those_who_asked_before_it_and_once() {
        let violations = Violations::default();
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
