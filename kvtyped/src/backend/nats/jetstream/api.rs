//! The JetStream API: JSON requests and replies.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::account;
use super::error::ApiError;
use super::features::{API_LEVEL_ATOMIC_BATCH, API_LEVEL_MESSAGE_TTL, ATOMIC_BATCH_VERSION, parse_version};
use super::message::StoredMessage;
use super::stream_config::stream_name;
use crate::backend::nats::connection::connection::{Connection, InFlight};
use crate::backend::nats::connection::options::DEFAULT_PREFIX;
use crate::backend::nats::connection::reply::{AwaitReply, Reply, first_reply};
use crate::backend::{AccountUsage, Backoff, Capabilities, Deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::observe::note_retry;

/// The time limit for a reply before a request that is safe to repeat is sent again.
const ATTEMPT: Duration = Duration::from_secs(1);

/// The number of attempts that wait [`ATTEMPT`] each. Later attempts wait longer.
const SHORT_ATTEMPTS: u32 = 10;

/// The maximum number of unanswered attempts of a request that are kept.
const MAX_OPEN: usize = 4;

/// The pause before a stream is requested again after a server of a cluster reported that it does not exist.
const LEADER_SETTLE_DELAY: Duration = Duration::from_millis(200);

/// How long "no responders" is retried on a server without JetStream. A server behind it with JetStream may just be
/// starting.
const NO_RESPONDERS_GRACE: Duration = Duration::from_secs(1);

/// A handle to the API of one JetStream account or domain.
#[derive(Clone)]
pub(crate) struct Api {
    connection: Arc<Connection>,
    prefix: Arc<str>,
}

/// Whether a request may be sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idempotency {
    /// The request only reads, or a repetition is harmless.
    Idempotent,
    /// The request changes state and is not safe to repeat.
    AtMostOnce,
}

impl Api {
    pub(crate) fn new(connection: Arc<Connection>, prefix: String) -> Self {
        Self { connection, prefix: prefix.into() }
    }

    /// Returns the API of another account or domain over the same connection.
    pub(crate) fn with_prefix(&self, prefix: String) -> Self {
        Self { connection: Arc::clone(&self.connection), prefix: prefix.into() }
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn is_default(&self) -> bool {
        &*self.prefix == DEFAULT_PREFIX
    }

    /// Sends a request to `<prefix>.<verb>`. Returns the reply, or the error that the server reports.
    pub(crate) async fn call(
        &self,
        verb: &str,
        body: Option<&Value>,
        idempotency: Idempotency,
        deadline: Deadline,
    ) -> Result<Result<Value, ApiError>> {
        let mut backoff = Backoff::outage();
        let mut was_repeated = false;
        loop {
            let message = self.request(verb, body, idempotency, deadline).await?;
            let reply = parse(&message.payload)?;
            match reply {
                // A server of a cluster that just became the leader may not know every stream yet.
                Err(error)
                    if error.is_stream_not_found() && idempotency == Idempotency::Idempotent && !was_repeated =>
                {
                    was_repeated = true;
                    if !self.connection.is_clustered() || deadline.remaining() < LEADER_SETTLE_DELAY {
                        return Ok(Err(error));
                    }
                    tokio::time::sleep(LEADER_SETTLE_DELAY).await;
                }
                Err(error) if error.is_transient() => {
                    tracing::debug!(verb, error = error.description, "JetStream is temporarily unavailable");
                    if !backoff.pause(deadline).await {
                        return Ok(Err(error));
                    }
                }
                reply => return Ok(reply),
            }
        }
    }

    /// Sends a request to `<prefix>.<verb>` and returns the reply message.
    ///
    /// A repeated request does not discard the earlier ones: a slow server may still answer them.
    async fn request(
        &self,
        verb: &str,
        body: Option<&Value>,
        idempotency: Idempotency,
        deadline: Deadline,
    ) -> Result<Message> {
        let started = Instant::now();
        let mut backoff = Backoff::outage();
        let mut requests = Requests::default();
        loop {
            let length = match idempotency {
                Idempotency::Idempotent => requests.reply_timeout(),
                Idempotency::AtMostOnce => Duration::MAX,
            };
            requests.add(self.send(verb, body, deadline).await?);
            let error = match requests.next_reply(deadline.within(length)).await {
                Reply::Message(message) => return Ok(message),
                Reply::NoResponders => {
                    self.check_jetstream(started)?;
                    Error::unavailable(format!(
                        "no server responds to `{}.{verb}`; check the JetStream domain or API prefix",
                        self.prefix
                    ))
                }
                reply @ (Reply::TimedOut | Reply::Disconnected) => {
                    let was_silent = matches!(reply, Reply::TimedOut);
                    let error = match self.connection.is_closed() {
                        true => Error::new(ErrorKind::Closed),
                        false => reply.into_error(deadline),
                    };
                    if idempotency == Idempotency::AtMostOnce {
                        return Err(error.unknown_outcome());
                    }
                    // The wait for the reply replaces the pause.
                    if was_silent && !deadline.is_expired() {
                        tracing::debug!(verb, %error, "retrying the request");
                        note_retry(&error);
                        continue;
                    }
                    error
                }
                reply => return Err(reply.into_error(deadline)),
            };
            tracing::debug!(verb, %error, "retrying the request");
            note_retry(&error);
            if !backoff.pause(deadline).await {
                return Err(error);
            }
        }
    }

    /// Sends one request to `<prefix>.<verb>` as soon as there is a connection. Waits at most [`ATTEMPT`] for the
    /// reply.
    pub(crate) async fn attempt(&self, verb: &str, body: Option<&Value>, deadline: Deadline) -> Result<Reply> {
        let mut request = self.send(verb, body, deadline).await?;
        Ok(request.wait(deadline.within(ATTEMPT)).await)
    }

    /// Creates a request to `<prefix>.<verb>` as soon as there is a connection.
    async fn send(&self, verb: &str, body: Option<&Value>, deadline: Deadline) -> Result<InFlight> {
        self.connection.connected(deadline).await?;
        let payload = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        Ok(self.connection.request(format!("{}.{verb}", self.prefix), None, payload))
    }

    /// Handles "no responders". Returns an error once it is clear that no server will respond.
    fn check_jetstream(&self, started: Instant) -> Result<()> {
        let server = self.connection.client().server_info();
        if server.jetstream || started.elapsed() < NO_RESPONDERS_GRACE {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported {
            needs: format!("JetStream under `{}`; start the server with `-js`", self.prefix),
            found: format!("nats-server {} without JetStream", server.version),
        }))
    }

    /// Requests the capabilities of the servers behind this API.
    pub(crate) async fn capabilities(&self, deadline: Deadline) -> Result<Capabilities> {
        let info = self.account_info(deadline).await?;
        let level = info["api"]["level"].as_u64().unwrap_or_default();
        let version = self.connection.client().server_info().version;
        // Behind another prefix, a server of another version may respond.
        let is_new = !self.is_default() || parse_version(&version) >= ATOMIC_BATCH_VERSION;
        let mut capabilities = Capabilities::new(format!("nats-server {version} (JetStream API level {level})"));
        capabilities.key_ttl = level >= API_LEVEL_MESSAGE_TTL;
        capabilities.atomic = level >= API_LEVEL_ATOMIC_BATCH && is_new;
        capabilities.mirrors = true;
        capabilities.counters = level >= 2;
        // A precondition in an epoch names its subject.
        capabilities.write_epochs = level >= API_LEVEL_MESSAGE_TTL;
        Ok(capabilities)
    }

    /// Requests the usage and the limits of the account.
    pub(crate) async fn account(&self, deadline: Deadline) -> Result<Vec<AccountUsage>> {
        Ok(account::usage(&self.account_info(deadline).await?))
    }

    async fn account_info(&self, deadline: Deadline) -> Result<Value> {
        self.call("INFO", None, Idempotency::Idempotent, deadline).await?.map_err(ApiError::into_error)
    }

    /// Requests the information of a bucket's stream. Returns `None` if the stream does not exist.
    pub(crate) async fn stream(&self, bucket: &str, deadline: Deadline) -> Result<Option<Value>> {
        let verb = format!("STREAM.INFO.{}", stream_name(bucket));
        match self.call(&verb, None, Idempotency::Idempotent, deadline).await? {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.is_stream_not_found() => Ok(None),
            Err(error) => Err(error.into_error()),
        }
    }

    /// Returns `PermissionDenied` if the connection is restricted: permissions cannot limit this request to some keys.
    pub(crate) fn check_unrestricted(&self, verb: &str) -> Result<()> {
        match self.connection.is_restricted() {
            true => Err(Error::new(ErrorKind::PermissionDenied { subject: format!("{}.{verb}", self.prefix) })),
            false => Ok(()),
        }
    }

    /// Requests a message of a stream from its leader. Returns `None` if the message does not exist.
    pub(crate) async fn leader(
        &self,
        stream: &str,
        selector: &Value,
        deadline: Deadline,
    ) -> Result<Option<StoredMessage>> {
        let verb = format!("STREAM.MSG.GET.{stream}");
        self.check_unrestricted(&verb)?;
        match self.call(&verb, Some(selector), Idempotency::Idempotent, deadline).await? {
            Ok(mut reply) => StoredMessage::from_leader(reply["message"].take()).map(Some),
            Err(error) if error.is_message_not_found() => Ok(None),
            Err(error) => Err(error.into_error()),
        }
    }

    /// Requests the newest message of a subject from the leader of the stream.
    pub(crate) async fn leader_newest(
        &self,
        stream: &str,
        subject: &str,
        deadline: Deadline,
    ) -> Result<Option<StoredMessage>> {
        self.leader(stream, &json!({ "last_by_subj": subject }), deadline).await
    }
}

/// The attempts of one request.
#[derive(Default)]
struct Requests {
    /// The attempts that may still get a reply.
    open: VecDeque<InFlight>,
    sent: u32,
}

impl Requests {
    /// Adds an attempt. It is sent when [`next_reply`](Self::next_reply) is polled.
    fn add(&mut self, request: InFlight) {
        self.sent += 1;
        self.open.truncate(MAX_OPEN - 1);
        self.open.push_front(request);
    }

    /// Returns how long to wait before the request is sent again. An election takes up to about 10 s, and the new
    /// leader does not know earlier attempts.
    fn reply_timeout(&self) -> Duration {
        match self.sent {
            0..SHORT_ATTEMPTS => ATTEMPT,
            _ => 3 * ATTEMPT,
        }
    }

    /// Waits for the first reply to any attempt.
    async fn next_reply(&mut self, until: Instant) -> Reply {
        let (reply, index) = first_reply(self.open.make_contiguous(), until).await;
        match reply {
            // All attempts share one time limit.
            Reply::Message(_) | Reply::TimedOut => {}
            // Attempts on a broken connection get no reply.
            Reply::Disconnected => self.open.clear(),
            _ => drop(self.open.remove(index)),
        }
        reply
    }
}

/// Creates the error of a reply that is not JSON.
pub(crate) fn malformed_reply(_: serde_json::Error) -> Error {
    Error::backend("the reply of JetStream is not JSON")
}

/// Parses a reply. Returns its JSON, or the error that the server reports.
pub(crate) fn parse(payload: &[u8]) -> Result<Result<Value, ApiError>> {
    let mut reply: Value = serde_json::from_slice(payload).map_err(malformed_reply)?;
    match reply.get_mut("error").map(Value::take) {
        None | Some(Value::Null) => Ok(Ok(reply)),
        Some(error) => Ok(Err(ApiError::deserialize(error).map_err(malformed_reply)?)),
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Api").field(&self.prefix).finish()
    }
}
