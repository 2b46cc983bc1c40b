//! Parsers of untrusted bytes, for tests without a server. Not part of the API.

use std::time::SystemTime;

use async_nats::{Message, ServerAddr};
use serde_json::Value;

use super::connection::url::ServerUrl;
use super::jetstream::api;
use super::jetstream::counter_value;
use super::jetstream::delivery::Delivery;
use super::jetstream::message::StoredMessage;
use super::jetstream::stream_info;
use super::jetstream::stream_state::StreamState;
use crate::backend::RawEntry;
use crate::error::Result;
use crate::revision::Revision;

/// Parses the reply to a direct get, for a bucket with this subject prefix.
///
/// # Errors
///
/// Returns the error that a read returns.
pub fn direct(message: Message, prefix: &str) -> Result<RawEntry> {
    StoredMessage::from_direct(message)?.entry(prefix)
}

/// Parses a message in the reply of a stream's leader.
///
/// # Errors
///
/// Returns the error that a read returns.
pub fn leader(message: Value, prefix: &str) -> Result<RawEntry> {
    StoredMessage::from_leader(message)?.entry(prefix)
}

/// Parses a message that a consumer delivered. Returns `None` if its reply subject contains no revision.
///
/// # Errors
///
/// Returns the error that a watch returns.
pub fn parse_delivered(message: Message, prefix: &str) -> Result<Option<RawEntry>> {
    let Some((revision, created)) = parse_reply_subject(&message) else { return Ok(None) };
    StoredMessage::new(message, revision, created).entry(prefix).map(Some)
}

fn parse_reply_subject(message: &Message) -> Option<(Revision, SystemTime)> {
    let delivery = message.reply.as_deref().and_then(Delivery::parse)?;
    Some((delivery.revision, delivery.created))
}

/// Parses the stored value of a counter.
///
/// # Errors
///
/// Returns `Backend` if the value is not a total.
pub fn parse_total(payload: &[u8]) -> Result<i128> {
    counter_value::parse_total(payload)
}

/// Parses a reply of the JetStream API in every possible way. Returns whether it is the information of a bucket.
pub fn is_information(payload: &[u8]) -> bool {
    let Ok(Ok(info)) = api::parse(payload) else { return false };
    let has_state = StreamState::parse(&info).is_some();
    stream_info::status(info).is_ok() && has_state
}

/// Returns the servers that a URL names, without their users.
///
/// # Errors
///
/// Returns `InvalidConfig` if the URL is invalid.
pub fn servers(url: &str) -> Result<Vec<String>> {
    let url = ServerUrl::parse(url)?;
    Ok(url.servers.iter().map(ServerAddr::as_url_str).map(str::to_owned).collect())
}
