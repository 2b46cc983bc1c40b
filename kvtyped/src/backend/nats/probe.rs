//! What this backend makes of bytes that strangers wrote, for tests that have no server. No part of the API.

use std::time::SystemTime;

use async_nats::{Message, ServerAddr};
use serde_json::Value;

use super::delivery::Delivery;
use super::facts::Facts;
use super::record::Stored;
use super::target::Target;
use super::{api, count, echo};
use crate::backend::RawEntry;
use crate::error::Result;
use crate::revision::Revision;

/// The entry of an answer to a direct get, of a bucket whose subjects begin so.
///
/// # Errors
///
/// As the verbs tell them.
pub fn direct(message: Message, prefix: &str) -> Result<RawEntry> {
    Stored::from_direct(message)?.entry(prefix)
}

/// The entry of an answer of a stream's leader.
///
/// # Errors
///
/// As the verbs tell them.
pub fn leader(message: Value, prefix: &str) -> Result<RawEntry> {
    Stored::from_leader(message)?.entry(prefix)
}

/// The entry of a message that a consumer delivered; `None` if it tells no place.
///
/// # Errors
///
/// As the verbs tell them.
pub fn delivered(message: Message, prefix: &str) -> Result<Option<RawEntry>> {
    let Some((revision, created)) = place(&message) else { return Ok(None) };
    Stored::new(message, revision, created).entry(prefix).map(Some)
}

fn place(message: &Message) -> Option<(Revision, SystemTime)> {
    let delivery = message.reply.as_deref().and_then(Delivery::parse)?;
    Some((delivery.revision, delivery.created))
}

/// The total of a counter, from what is stored of it.
///
/// # Errors
///
/// `Backend` if it is no total.
pub fn total(payload: &[u8]) -> Result<i128> {
    count::total(payload)
}

/// Reads an answer of the JetStream API as everything that it could be; whether it is the information of a bucket.
pub fn is_information(payload: &[u8]) -> bool {
    let Ok(Ok(info)) = api::parse(payload) else { return false };
    let facts = Facts::of(&info).is_some();
    echo::status(info).is_ok() && facts
}

/// The servers that a URL names, without their users.
///
/// # Errors
///
/// `InvalidConfig` if the URL is not understood.
pub fn servers(url: &str) -> Result<Vec<String>> {
    let target = Target::parse(url)?;
    Ok(target.servers.iter().map(ServerAddr::as_url_str).map(str::to_owned).collect())
}
