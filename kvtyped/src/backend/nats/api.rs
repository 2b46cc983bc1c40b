//! The JetStream API: JSON there and back.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::select_all;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::convert::{self, ApiError};
use super::wire::{Answer, Pending, Wire};
use super::{able, config, echo, record};
use crate::backend::{Backoff, Capabilities, Deadline};
use crate::error::{Error, ErrorKind, Result};

/// The prefix of the API of the account and the server that one is connected to.
pub(super) const DEFAULT_PREFIX: &str = "$JS.API";

/// How long an answer may take before a request that can do no harm is sent again.
const ATTEMPT: Duration = Duration::from_secs(1);

/// How many times a request is sent after [`ATTEMPT`] each. Later ones wait longer.
const ELECTION: u32 = 10;

/// How many requests without an answer are kept.
const MOST_OPEN: usize = 4;

/// How long after a server of a cluster denied a stream it is asked again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How long nobody may answer on a server without JetStream; another, behind it, may just be starting.
const NOBODY: Duration = Duration::from_secs(1);

/// The API of one JetStream.
#[derive(Clone)]
pub(super) struct Api {
    wire: Arc<Wire>,
    prefix: Arc<str>,
}

/// Whether a request may be sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It only asks.
    UntilAnswered,
    /// It changes something.
    Never,
}

impl Api {
    pub(super) fn new(wire: Arc<Wire>, prefix: String) -> Self {
        Self { wire, prefix: prefix.into() }
    }

    /// The API of another account or domain, over the same connection.
    pub(super) fn elsewhere(&self, prefix: String) -> Self {
        Self { wire: Arc::clone(&self.wire), prefix: prefix.into() }
    }

    pub(super) fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn is_default(&self) -> bool {
        &*self.prefix == DEFAULT_PREFIX
    }

    /// Asks under `<prefix>.<verb>`: what the server answers, or what it finds wrong.
    pub(super) async fn call(
        &self,
        verb: &str,
        body: Option<&Value>,
        repeat: Repeat,
        deadline: Deadline,
    ) -> Result<Result<Value, ApiError>> {
        let mut backoff = Backoff::outage();
        let mut looked_again = false;
        loop {
            let message = self.ask(verb, body, repeat, deadline).await?;
            let answer = parse(&message.payload)?;
            match answer {
                // A server of a cluster that has just begun to lead may not know every stream yet.
                Err(error) if error.is_stream_not_found() && repeat == Repeat::UntilAnswered && !looked_again => {
                    looked_again = true;
                    if !self.wire.is_clustered() || deadline.remaining() < LOOK_AGAIN {
                        return Ok(Err(error));
                    }
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(error) if error.passes() => {
                    tracing::debug!(verb, error = error.description, "JetStream is not able to answer now");
                    if !backoff.pause(deadline).await {
                        return Ok(Err(error));
                    }
                }
                answer => return Ok(answer),
            }
        }
    }

    /// Asks under `<prefix>.<verb>`: the message that the server answers.
    ///
    /// A repeated request does not discard the earlier ones: a slow server may still answer them.
    async fn ask(&self, verb: &str, body: Option<&Value>, repeat: Repeat, deadline: Deadline) -> Result<Message> {
        let begun = Instant::now();
        let mut backoff = Backoff::outage();
        let mut requests = Requests::default();
        loop {
            let length = match repeat {
                Repeat::UntilAnswered => requests.patience(),
                Repeat::Never => Duration::MAX,
            };
            requests.add(self.send(verb, body, deadline).await?);
            let error = match requests.answer(deadline.within(length)).await {
                Answer::Message(message) => return Ok(message),
                Answer::NoResponders => {
                    self.nobody(begun)?;
                    Error::unavailable(format!("nobody answers under `{}.{verb}`", self.prefix))
                }
                answer @ (Answer::Silent | Answer::Broken) => {
                    let was_silent = matches!(answer, Answer::Silent);
                    let error = match self.wire.is_over() {
                        true => Error::new(ErrorKind::Closed),
                        false => convert::of_answer(answer, deadline),
                    };
                    if repeat == Repeat::Never {
                        return Err(error.unknown_outcome());
                    }
                    // The wait for the answer was the pause.
                    if was_silent && !deadline.has_passed() {
                        tracing::debug!(verb, %error, "asking again");
                        continue;
                    }
                    error
                }
                answer => return Err(convert::of_answer(answer, deadline)),
            };
            tracing::debug!(verb, %error, "asking again");
            if !backoff.pause(deadline).await {
                return Err(error);
            }
        }
    }

    /// Asks once under `<prefix>.<verb>`, as soon as there is a connection, and waits as long as a healthy server takes.
    pub(super) async fn attempt(&self, verb: &str, body: Option<&Value>, deadline: Deadline) -> Result<Answer> {
        let mut request = self.send(verb, body, deadline).await?;
        Ok(request.wait(deadline.within(ATTEMPT)).await)
    }

    /// A request under `<prefix>.<verb>`, as soon as there is a connection.
    async fn send(&self, verb: &str, body: Option<&Value>, deadline: Deadline) -> Result<Pending> {
        self.wire.connected(deadline).await?;
        let payload = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        Ok(self.wire.request(format!("{}.{verb}", self.prefix), None, payload))
    }

    /// Nobody listens: an error as soon as it is clear that nobody will.
    fn nobody(&self, begun: Instant) -> Result<()> {
        let server = self.wire.client().server_info();
        if server.jetstream || begun.elapsed() < NOBODY {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported {
            needs: format!("JetStream under `{}`", self.prefix),
            found: format!("nats-server {} without (`-js` enables it)", server.version),
        }))
    }

    /// What the servers behind this API can do.
    pub(super) async fn capabilities(&self, deadline: Deadline) -> Result<Capabilities> {
        let info = self.call("INFO", None, Repeat::UntilAnswered, deadline).await?.map_err(convert::of_api)?;
        let level = info["api"]["level"].as_u64().unwrap_or_default();
        let version = self.wire.client().server_info().version;
        // Behind another prefix it may be a server of another version that answers.
        let is_new = !self.is_default() || echo::numbers(&version) >= able::TAKES_BATCHES;
        let mut capabilities = Capabilities::new(format!("nats-server {version} (JetStream API level {level})"));
        capabilities.key_ttl = level >= able::HEEDS_HEADERS;
        capabilities.atomic = level >= able::BATCHES && is_new;
        capabilities.mirrors = true;
        capabilities.counters = level >= 2;
        Ok(capabilities)
    }

    /// The information of the stream of a bucket, if there is one.
    pub(super) async fn stream(&self, bucket: &str, deadline: Deadline) -> Result<Option<Value>> {
        let verb = format!("STREAM.INFO.{}", config::stream_name(bucket));
        match self.call(&verb, None, Repeat::UntilAnswered, deadline).await? {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.is_stream_not_found() => Ok(None),
            Err(error) => Err(convert::of_api(error)),
        }
    }

    /// Refuses what a permission cannot limit to some keys, where only such is wanted.
    pub(super) fn whole(&self, verb: &str) -> Result<()> {
        match self.wire.is_confined() {
            true => Err(Error::new(ErrorKind::PermissionDenied { subject: format!("{}.{verb}", self.prefix) })),
            false => Ok(()),
        }
    }

    /// A message of a stream as its leader has it, if there is one.
    pub(super) async fn leader(
        &self,
        stream: &str,
        which: &Value,
        deadline: Deadline,
    ) -> Result<Option<record::Stored>> {
        let verb = format!("STREAM.MSG.GET.{stream}");
        self.whole(&verb)?;
        match self.call(&verb, Some(which), Repeat::UntilAnswered, deadline).await? {
            Ok(mut answer) => record::Stored::from_leader(answer["message"].take()).map(Some),
            Err(error) if error.is_message_not_found() => Ok(None),
            Err(error) => Err(convert::of_api(error)),
        }
    }

    /// The newest message of a subject as the leader of the stream has it.
    pub(super) async fn leader_newest(
        &self,
        stream: &str,
        subject: &str,
        deadline: Deadline,
    ) -> Result<Option<record::Stored>> {
        self.leader(stream, &json!({ "last_by_subj": subject }), deadline).await
    }
}

/// The same request, sent several times.
#[derive(Default)]
struct Requests {
    /// Those that may still be answered.
    open: VecDeque<Pending>,
    sent: u32,
}

impl Requests {
    /// Adds a request, which is sent when [`answer`](Self::answer) is polled.
    fn add(&mut self, request: Pending) {
        self.sent += 1;
        self.open.truncate(MOST_OPEN - 1);
        self.open.push_front(request);
    }

    /// How long to wait before the request is sent again. An election takes up to about 10 s, and the new leader knows
    /// nothing of earlier requests.
    fn patience(&self) -> Duration {
        match self.sent {
            0..ELECTION => ATTEMPT,
            _ => 3 * ATTEMPT,
        }
    }

    /// Waits for the first answer to any of the requests.
    async fn answer(&mut self, until: Instant) -> Answer {
        let (answer, which) = if self.open.len() == 1 {
            (self.open[0].wait(until).await, 0)
        } else {
            let waits = self.open.iter_mut().map(|request| request.wait(until).boxed());
            let (answer, which, _) = select_all(waits).await;
            (answer, which)
        };
        match answer {
            // Each request has waited until then.
            Answer::Message(_) | Answer::Silent => {}
            // The requests on a connection that broke stay without an answer.
            Answer::Broken => self.open.clear(),
            _ => drop(self.open.remove(which)),
        }
        answer
    }
}

/// What a server answers to a message that it was to store.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Acknowledgement {
    /// The sequence of the message; of the last one, of a batch.
    pub(super) seq: u64,
    /// Whether it was stored before, under the same id.
    pub(super) duplicate: bool,
    /// How many messages a batch had.
    pub(super) count: usize,
    /// The total, of a counter.
    pub(super) val: Option<String>,
    error: Option<ApiError>,
}

/// What the server acknowledges, or what it finds wrong.
pub(super) fn acknowledgement(payload: &[u8]) -> Result<Result<Acknowledgement, ApiError>> {
    let mut answer: Acknowledgement = serde_json::from_slice(payload).map_err(unreadable)?;
    Ok(answer.error.take().map_or(Ok(answer), Err))
}

fn unreadable(_: serde_json::Error) -> Error {
    convert::backend("JetStream's answer is no JSON")
}

/// What the server answers, or what it finds wrong.
pub(super) fn parse(payload: &[u8]) -> Result<Result<Value, ApiError>> {
    let mut answer: Value = serde_json::from_slice(payload).map_err(unreadable)?;
    match answer.get_mut("error").map(Value::take) {
        None | Some(Value::Null) => Ok(Ok(answer)),
        Some(error) => Ok(Err(ApiError::deserialize(error).map_err(unreadable)?)),
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Api").field(&self.prefix).finish()
    }
}
