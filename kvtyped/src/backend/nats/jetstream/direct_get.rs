//! The reply to a direct get: a stored message, or a status of the server.

use async_nats::Message;

use super::message::{StoredMessage, header};
use crate::error::Result;

/// One message of the reply to a direct get.
#[derive(Debug)]
pub(crate) struct DirectReply(Message);

impl DirectReply {
    pub(crate) fn new(message: Message) -> Self {
        Self(message)
    }

    /// Returns the status, or `None` if the reply is a stored message. A stored message may have a status too, because
    /// some servers, such as 2.11, keep it.
    pub(crate) fn status(&self) -> Option<u16> {
        let status = self.0.status?;
        let headers = self.0.headers.as_ref();
        let is_stored =
            [header::SUBJECT, header::SEQUENCE].iter().all(|name| headers.is_some_and(|all| all.get(*name).is_some()));
        (!is_stored).then(|| status.as_u16())
    }

    /// Returns the description of the status.
    pub(crate) fn description(&self) -> &str {
        self.0.description.as_deref().unwrap_or_default()
    }

    /// Returns the number of messages after this one, if the server reports it.
    pub(crate) fn pending(&self) -> Option<u64> {
        self.number(header::PENDING)
    }

    /// Returns the revision that the server had reached, if the server reports it.
    pub(crate) fn up_to(&self) -> Option<u64> {
        self.number(header::UP_TO)
    }

    /// Converts the reply to the stored message.
    pub(crate) fn into_stored(self) -> Result<StoredMessage> {
        StoredMessage::from_direct(self.0)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.0.headers.as_ref()?.get_last(name)?.as_str().parse().ok()
    }
}
