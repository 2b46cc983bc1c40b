//! Requests with several reply messages. The requests share one subscription, and each request has a number.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::backend::Deadline;
use crate::backend::nats::connection::violations::{PermissionViolation, wait_denied};
use crate::backend::nats::jetstream::api::Api;
use crate::error::Result;

/// How often a waiting caller checks the connection.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The subscription for the replies.
pub(crate) struct ReplyStream {
    api: Api,
    /// The subject of all requests.
    subject: String,
    inbox: String,
    subscriber: Subscriber,
    /// Denials of the subject and of the inbox.
    denials: [Option<broadcast::Receiver<PermissionViolation>>; 2],
    /// The epoch of the connection that carries the requests.
    epoch: u64,
    _in_flight: Arc<()>,
}

/// The next event of the requests.
pub(crate) enum StreamedReply {
    /// A reply to the request with this number.
    Message(u64, Message),
    /// The server denied this user the subject or the inbox.
    Denied,
    /// The connection broke. The remaining replies will not arrive.
    Broken,
    /// Nothing arrived in time.
    Silent,
}

impl ReplyStream {
    /// Subscribes as soon as there is a connection.
    pub(crate) async fn subscribe(api: &Api, verb: &str, deadline: Deadline) -> Result<Self> {
        let connection = api.connection();
        connection.connected(deadline).await?;
        let epoch = connection.epoch();
        let denials = [connection.denials(), connection.denials()];
        let inbox = connection.client().new_inbox();
        let subscriber = deadline.timeout(connection.client().subscribe(format!("{inbox}.*"))).await?;
        let subscriber = subscriber.map_err(|_| connection.ended_error())?;
        let subject = format!("{}.{verb}", api.prefix());
        let in_flight = connection.in_flight_token();
        Ok(Self { api: api.clone(), subject, inbox, subscriber, denials, epoch, _in_flight: in_flight })
    }

    /// Sends a request. Returns whether the client accepted it.
    pub(crate) async fn request(&self, number: u64, body: Bytes, deadline: Deadline) -> Result<bool> {
        let client = self.api.connection().client();
        let reply = format!("{}.{number}", self.inbox);
        let sent = deadline.timeout(client.publish_with_reply(self.subject.clone(), reply, body)).await?;
        Ok(sent.is_ok())
    }

    /// Waits for the next event until the given time.
    ///
    /// # Errors
    ///
    /// Returns `Closed` if the connection was closed.
    pub(crate) async fn next(&mut self, until: Instant) -> Result<StreamedReply> {
        let inbox = format!("{}.*", self.inbox);
        loop {
            let message = match self.subscriber.next().now_or_never() {
                Some(message) => message,
                None if !self.api.connection().is_connected() || self.api.connection().epoch() != self.epoch => {
                    return Ok(StreamedReply::Broken);
                }
                None if Instant::now() >= until => return Ok(StreamedReply::Silent),
                None => {
                    let [by_subject, by_inbox] = &mut self.denials;
                    tokio::select! {
                        biased;
                        message = self.subscriber.next() => message,
                        _ = wait_denied(by_subject, &self.subject) => return Ok(StreamedReply::Denied),
                        _ = wait_denied(by_inbox, &inbox) => return Ok(StreamedReply::Denied),
                        () = tokio::time::sleep_until(until.min(Instant::now() + POLL_INTERVAL)) => continue,
                    }
                }
            };
            let Some(message) = message else {
                self.api.connection().ended()?;
                return Ok(StreamedReply::Broken);
            };
            let number = message.subject.rsplit_once('.').and_then(|(_, number)| number.parse().ok());
            if let Some(number) = number {
                return Ok(StreamedReply::Message(number, message));
            }
        }
    }
}
