//! An ephemeral push consumer, which delivers many messages of a stream.
//!
//! The client chooses the name of the consumer, so that a user with access to only some keys can be permitted to create
//! and delete it. The consumer is deleted when it is dropped, not only after its inactivity threshold.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::{Message, Subject, Subscriber};
use futures::future::{BoxFuture, select_all};
use futures::{FutureExt, StreamExt};
use serde_json::Value;
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::api::{Api, Idempotency};
use super::consumer_delete::{CreatedConsumer, delete};
use super::consumer_request::ConsumerRequest;
use super::delivery::Delivery;
use super::error::ApiError;
use super::message::StoredMessage;
use crate::backend::nats::connection::violations::{PermissionViolation, wait_denied_any};
use crate::backend::{Backoff, Deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// How often a wait checks that the client is still connected.
const HEARTBEAT_CHECK: Duration = Duration::from_millis(250);

/// After how long another name is tried while a consumer is created. A cluster may choose a server that was just lost,
/// and a repeated request would wait for that server. After the first attempts, each interval is twice as long as the
/// one before, because creating a consumer on a very large stream is slow.
const ATTEMPT: Duration = Duration::from_secs(1);
const FIRST_ATTEMPTS: u32 = 8;

/// How many attempts may run at the same time.
const MAX_ATTEMPTS: usize = 3;

/// An idle consumer acknowledges its messages once this many are unacknowledged. The server compares every purge of the
/// stream with each of them. A watch of few messages, such as that of a lock, sends no acknowledgements and needs no
/// permission for them.
const IDLE_ACK_THRESHOLD: u64 = 256;

/// The prefixes of the subjects for acknowledgements and for flow control replies.
const ACKNOWLEDGEMENTS: &str = "$JS.ACK.";
const FLOW_CONTROL: &str = "$JS.FC.";

/// A consumer and its subscription.
pub(crate) struct Consumer {
    api: Api,
    stream: String,
    name: String,
    deliver: String,
    subscriber: Subscriber,
    /// A received message that is processed next.
    parked: Option<Message>,
    denials: Option<broadcast::Receiver<PermissionViolation>>,
    /// The idle timeout. After this time without a message, the consumer counts as lost.
    idle_timeout: Duration,
    /// The epoch of the connection that created the consumer.
    epoch: u64,
    /// The number of the last delivery.
    last: u64,
    /// The maximum number of messages in flight, and the number of the last acknowledged message.
    window: Option<u32>,
    acknowledged: u64,
    /// The reply subject of the last message, and the number of messages that were pending after it.
    reply: Option<Subject>,
    pending_after: u64,
    /// The number of messages for the consumer at its creation.
    pub(crate) pending: u64,
    /// The server of a cluster that delivers.
    pub(crate) server: Option<String>,
    /// Whether the consumer may exist on the server.
    created: CreatedConsumer,
}

/// An event of a consumer.
pub(crate) enum ConsumerEvent {
    /// A message, and the number of messages pending after it.
    Message(StoredMessage, u64),
    /// A heartbeat: the server has delivered every message for now, at least up to this revision.
    Idle(Revision),
    /// A message or the consumer was lost. Another consumer must continue.
    Lost(&'static str),
    /// A message did not arrive, for example because this client's subscription was full. Another consumer must
    /// continue, with a smaller window.
    Dropped,
    /// Acknowledgements do not reach the server. Another consumer must continue, without a window.
    AcksDenied,
}

/// The progress of a consumer, according to its server.
pub(crate) struct ConsumerPosition {
    /// The number of messages that are pending or in flight.
    pub(crate) pending: u64,
    /// Whether the consumer waits for an acknowledgement of delivered messages.
    pub(crate) waits: bool,
}

impl Consumer {
    /// Creates a consumer and subscribes to its messages. If an attempt gets no reply for a while, another one starts
    /// under another name, and the first one continues. The first success counts. A dropped attempt removes the
    /// consumer that it may have created.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, a consumer that the server may have created is removed.
    pub(crate) async fn create(api: &Api, request: &ConsumerRequest, deadline: Deadline) -> Result<Self> {
        let mut backoff = Backoff::outage();
        let mut attempts = VecDeque::new();
        let mut interval = ATTEMPT;
        for number in 1_u32.. {
            attempts.truncate(MAX_ATTEMPTS - 1);
            attempts.push_front(Self::attempt(api, request, deadline).boxed());
            let error = match tokio::time::timeout_at(deadline.within(interval), first(&mut attempts)).await {
                Ok(Err(error)) if matches!(error.kind(), ErrorKind::Timeout { .. } | ErrorKind::Unavailable { .. }) => {
                    error
                }
                Ok(result) => return result,
                Err(_) => {
                    tracing::debug!(stream = request.stream, "a consumer is created under another name");
                    if number >= FIRST_ATTEMPTS {
                        interval *= 2;
                    }
                    if deadline.is_expired() {
                        break;
                    }
                    continue;
                }
            };
            tracing::debug!(stream = request.stream, %error, "a consumer is created under another name");
            if !backoff.pause(deadline).await {
                return Err(if matches!(error.kind(), ErrorKind::Timeout { .. }) { deadline.error() } else { error });
            }
        }
        Err(deadline.error())
    }

    async fn attempt(api: &Api, request: &ConsumerRequest, deadline: Deadline) -> Result<Self> {
        let connection = api.connection();
        connection.connected(deadline).await?;
        let epoch = connection.epoch();
        let denials = connection.denials();
        let name = format!("kvtyped-{:016x}", rand::random::<u64>());
        let deliver = connection.client().new_inbox();
        let subscriber = deadline.timeout(connection.client().subscribe(deliver.clone())).await?;
        let subscriber = subscriber.map_err(|_| connection.ended_error())?;
        let mut consumer = Self {
            api: api.clone(),
            stream: request.stream.clone(),
            name,
            deliver,
            subscriber,
            parked: None,
            denials,
            idle_timeout: request.heartbeat.mul_f64(2.5),
            epoch,
            last: 0,
            window: request.window,
            acknowledged: 0,
            reply: None,
            pending_after: 0,
            pending: 0,
            server: None,
            created: CreatedConsumer::Maybe,
        };
        let (verb, mut body) = request.creation(&consumer.name, &consumer.deliver);
        let mut reply = api.call(&verb, Some(&body), Idempotency::Idempotent, deadline).await?;
        // The stream or the account requires a shorter inactivity limit, so use the server's default.
        if reply.as_ref().is_err_and(ApiError::is_inactive_too_long) {
            body["config"]["inactive_threshold"] = Value::Null;
            reply = api.call(&verb, Some(&body), Idempotency::Idempotent, deadline).await?;
        }
        consumer.created = if reply.is_ok() { CreatedConsumer::Yes } else { CreatedConsumer::No };
        let info = reply.map_err(ApiError::into_error)?;
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        // The reply to a repeated request reports the current state: some messages may be in flight already.
        consumer.pending = number(&info["num_pending"]) + number(&info["delivered"]["consumer_seq"]);
        consumer.server = info["cluster"]["leader"].as_str().map(str::to_owned);
        Ok(consumer)
    }

    /// Whether the connection has not changed since the consumer was created.
    pub(crate) fn is_current(&self) -> bool {
        self.api.connection().epoch() == self.epoch
    }

    /// Returns the next event if it is a message that has already arrived.
    pub(crate) async fn try_next(&mut self) -> Option<ConsumerEvent> {
        let message = match self.parked {
            None => self.subscriber.next().now_or_never()??,
            Some(_) => return None,
        };
        // `next` interprets a message that is not a delivery.
        let Some(delivery) = message.reply.as_deref().and_then(Delivery::parse) else {
            self.parked = Some(message);
            return None;
        };
        Some(self.on_message(message, &delivery).await)
    }

    /// Waits for the next event. Returns [`ConsumerEvent::Lost`] if no message or heartbeat arrives in time.
    ///
    /// # Errors
    ///
    /// Returns `PermissionDenied` if the server denies the subscription or the flow control replies, and `Closed` if
    /// the connection was closed.
    pub(crate) async fn next(&mut self, until: Instant) -> Result<ConsumerEvent> {
        let mut until = until.min(Instant::now() + self.idle_timeout);
        loop {
            // After a reconnection, records may have been removed before the next message of this consumer.
            if !self.is_current() {
                return Ok(ConsumerEvent::Lost("the connection was lost"));
            }
            let message = match self.parked.take().map(Some).or_else(|| self.subscriber.next().now_or_never()) {
                Some(message) => message,
                None if !self.api.connection().is_connected() => {
                    return Ok(ConsumerEvent::Lost("the connection was lost"));
                }
                None if Instant::now() >= until => return Ok(ConsumerEvent::Lost("no heartbeat arrived")),
                None => tokio::select! {
                    biased;
                    message = self.subscriber.next() => message,
                    subject = wait_denied(&mut self.denials, &self.deliver, &self.name) => {
                        if subject.starts_with(ACKNOWLEDGEMENTS) {
                            return Ok(ConsumerEvent::AcksDenied);
                        }
                        return Err(Error::new(ErrorKind::PermissionDenied { subject }));
                    }
                    () = tokio::time::sleep_until(until.min(Instant::now() + HEARTBEAT_CHECK)) => continue,
                },
            };
            let Some(message) = message else { return Ok(ConsumerEvent::Lost(self.api.connection().ended()?)) };
            // A stored message may have a status too, because some servers, such as 2.11, keep it. No client can forge
            // the reply subject.
            if let Some(delivery) = message.reply.as_deref().and_then(Delivery::parse) {
                return Ok(self.on_message(message, &delivery).await);
            }
            match message.status.map(|status| status.as_u16()) {
                None => return Ok(ConsumerEvent::Lost("a message has no sequence")),
                Some(100) => {
                    if let Some(event) = self.on_control_message(&message).await {
                        return Ok(event);
                    }
                    until = until.max(Instant::now() + self.idle_timeout);
                }
                Some(_) => return Ok(ConsumerEvent::Lost("the server removed the consumer")),
            }
        }
    }

    async fn on_message(&mut self, mut message: Message, delivery: &Delivery) -> ConsumerEvent {
        if delivery.number != self.last + 1 {
            return ConsumerEvent::Dropped;
        }
        self.last = delivery.number;
        // Moved, because the first clone of a subject allocates.
        self.reply = message.reply.take();
        self.pending_after = delivery.pending;
        if self.window.is_some_and(|window| self.last - self.acknowledged >= u64::from(window.div_ceil(2))) {
            self.acknowledge().await;
        }
        ConsumerEvent::Message(StoredMessage::new(message, delivery.revision, delivery.created), delivery.pending)
    }

    /// Acknowledges every message that was received.
    async fn acknowledge(&mut self) {
        if self.acknowledged < self.last
            && let Some(reply) = self.reply.clone()
        {
            self.acknowledged = self.last;
            let _ = self.api.connection().client().publish(reply, bytes::Bytes::new()).await;
        }
    }

    /// Whether an idle server may be waiting for an acknowledgement, because the last message reported pending
    /// messages. Acknowledges everything, so that a later heartbeat shows whether this was the cause.
    pub(crate) async fn may_be_stalled(&mut self) -> bool {
        if self.window.is_none() || self.pending_after == 0 {
            return false;
        }
        self.acknowledge().await;
        true
    }

    /// Assumes that no message is pending after the last one.
    pub(crate) fn clear_pending(&mut self) {
        self.pending_after = 0;
    }

    /// The number of the last message.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Replies to a flow control request, or interprets a heartbeat.
    async fn on_control_message(&mut self, message: &Message) -> Option<ConsumerEvent> {
        let header = |name: &str| message.headers.as_ref()?.get(name).map(|value| value.as_str().to_owned());
        let client = self.api.connection().client();
        if let Some(reply) = message.reply.clone() {
            // Every earlier message was received, so the server may continue. If this reply is lost, the next heartbeat
            // repeats the request.
            let _ = client.publish(reply, bytes::Bytes::new()).await;
            return None;
        }
        if let Some(stalled) = header("Nats-Consumer-Stalled") {
            let _ = client.publish(stalled, bytes::Bytes::new()).await;
            return None;
        }
        match header("Nats-Last-Consumer").and_then(|number| number.parse::<u64>().ok()) {
            // The server checks for new messages after each heartbeat. It may have reached a later revision since.
            Some(number) if number == self.last => {
                let upto = header("Nats-Last-Stream").and_then(|sequence| sequence.parse().ok()).unwrap_or_default();
                if self.window.is_some() && self.last - self.acknowledged >= IDLE_ACK_THRESHOLD {
                    self.acknowledge().await;
                }
                Some(ConsumerEvent::Idle(Revision::new(upto)))
            }
            Some(number) if number > self.last => Some(ConsumerEvent::Dropped),
            _ => None,
        }
    }

    /// Requests the progress of the consumer.
    pub(crate) async fn position(&self, deadline: Deadline) -> Result<ConsumerPosition> {
        let verb = format!("CONSUMER.INFO.{}.{}", self.stream, self.name);
        let info =
            self.api.call(&verb, None, Idempotency::Idempotent, deadline).await?.map_err(ApiError::into_error)?;
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let in_flight = number(&info["delivered"]["consumer_seq"]).saturating_sub(self.last);
        let pending = number(&info["num_pending"]);
        let window = self.window.map_or(u64::MAX, u64::from);
        let waits = pending > 0 && in_flight == 0 && number(&info["num_ack_pending"]) >= window;
        Ok(ConsumerPosition { pending: pending + in_flight, waits })
    }
}

/// Waits until one of the attempts has completed, and removes it.
async fn first<T>(attempts: &mut VecDeque<BoxFuture<'_, T>>) -> T {
    let (result, which, _) = select_all(attempts.iter_mut()).await;
    drop(attempts.remove(which));
    result
}

/// Waits until the server denies the subscription, an acknowledgement or a flow control reply. The subjects of the last
/// two contain the name of the consumer, which is unique.
async fn wait_denied(
    denials: &mut Option<broadcast::Receiver<PermissionViolation>>,
    deliver: &str,
    name: &str,
) -> String {
    let answers = |subject: &str| subject.starts_with(ACKNOWLEDGEMENTS) || subject.starts_with(FLOW_CONTROL);
    wait_denied_any(denials, |subject| subject == deliver || (answers(subject) && subject.contains(name))).await
}

/// Deletes the consumer, even if only its request was sent because the future of [`Consumer::create`] was dropped.
impl Drop for Consumer {
    fn drop(&mut self) {
        if self.created == CreatedConsumer::No {
            return;
        }
        let verb = format!("CONSUMER.DELETE.{}.{}", self.stream, self.name);
        if self.created == CreatedConsumer::Yes && self.api.connection().is_connected() {
            // Sent at once, before the caller can close the connection. No task waits for the reply: if the request is
            // lost, the server deletes the consumer after its inactivity threshold.
            let subject = format!("{}.{verb}", self.api.prefix());
            let reply = format!("{}.gone", self.deliver);
            let client = self.api.connection().client();
            let sent = client.publish_with_reply(subject, reply, bytes::Bytes::new()).now_or_never();
            if matches!(sent, Some(Ok(()))) {
                // If this was the last handle, the connection would close without sending its buffer.
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(async move { client.flush().await });
                }
                return;
            }
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(delete(self.api.clone(), verb, self.created));
    }
}
