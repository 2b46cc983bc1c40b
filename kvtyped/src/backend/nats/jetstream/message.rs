//! The content of a stored message (ADR-8, ADR-43).

use std::time::{Duration, SystemTime};

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::RawMessage;
use async_nats::{HeaderMap, Message, Subject};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use crate::backend::{Operation, OperationId, RawEntry, RecordHeaders};
use crate::error::{Error, Result};
use crate::key::Key;
use crate::revision::Revision;
use crate::ttl::Ttl;

/// The headers that this backend writes and reads.
pub(crate) mod header {
    pub(crate) const OPERATION: &str = "KV-Operation";
    pub(crate) const MESSAGE_ID: &str = "Nats-Msg-Id";
    /// The operation id of a write, if the server need not remember the id. The name is as long as `Nats-Msg-Id`, so
    /// both take the same space.
    pub(crate) const OPERATION_ID: &str = "Kvtyped-Oid";
    pub(crate) const INCREMENT: &str = "Nats-Incr";
    pub(crate) const ROLLUP: &str = "Nats-Rollup";
    pub(crate) const TTL: &str = "Nats-TTL";
    pub(crate) const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
    pub(crate) const EXPECTED_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";
    pub(crate) const EXPECTED_STREAM: &str = "Nats-Expected-Stream";
    pub(crate) const BATCH: &str = "Nats-Batch-Id";
    pub(crate) const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
    pub(crate) const BATCH_COMMIT: &str = "Nats-Batch-Commit";
    pub(crate) const MARKER_REASON: &str = "Nats-Marker-Reason";
    pub(crate) const MESSAGE_SIZE: &str = "Nats-Msg-Size";
    pub(crate) const STREAM_SOURCE: &str = "Nats-Stream-Source";
    pub(crate) const SUBJECT: &str = "Nats-Subject";
    pub(crate) const SEQUENCE: &str = "Nats-Sequence";
    pub(crate) const TIME: &str = "Nats-Time-Stamp";
    pub(crate) const PENDING: &str = "Nats-Num-Pending";
    pub(crate) const UP_TO: &str = "Nats-UpTo-Sequence";
}

/// A message of a stream.
#[derive(Debug)]
pub(crate) struct StoredMessage {
    pub(crate) subject: Subject,
    pub(crate) revision: Revision,
    pub(crate) created: SystemTime,
    headers: HeaderMap,
    payload: Bytes,
}

impl StoredMessage {
    /// Creates a message from a NATS message and the data that its headers do not contain.
    pub(crate) fn new(message: Message, revision: Revision, created: SystemTime) -> Self {
        let Message { subject, payload, headers, .. } = message;
        let headers = headers.unwrap_or_default();
        Self { subject, revision, created, headers, payload }
    }

    /// Reads the reply to a direct get.
    pub(crate) fn from_direct(message: Message) -> Result<Self> {
        let headers = message.headers.unwrap_or_default();
        let (mut subject, mut sequence, mut created) = (None, None, None);
        for (name, value) in last_values(&headers) {
            match name {
                header::SUBJECT => subject = Some(Subject::from(value)),
                header::SEQUENCE => sequence = value.parse().ok().map(Revision::new),
                header::TIME => created = time(value),
                _ => {}
            }
        }
        match (subject, sequence, created) {
            (Some(subject), Some(revision), Some(created)) => {
                Ok(Self { subject, revision, created, headers, payload: message.payload })
            }
            _ => Err(Error::backend("the reply to a direct get lacks its headers")),
        }
    }

    /// Reads the `message` field of a reply of the stream's leader.
    pub(crate) fn from_leader(message: Value) -> Result<Self> {
        let raw = RawMessage::deserialize(message).map_err(|_| Error::backend("a stored message is unreadable"))?;
        let message = StreamMessage::try_from(raw);
        let message = message.map_err(|_| Error::backend("a stored message has invalid headers"))?;
        Ok(Self {
            subject: message.subject,
            revision: Revision::new(message.sequence),
            created: message.time.into(),
            headers: message.headers,
            payload: message.payload,
        })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get_last(name).map(|value| value.as_str())
    }

    /// The stored value.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Whether this operation wrote the message.
    pub(crate) fn was_written_by(&self, id: &OperationId) -> bool {
        let is_id_in = |name| self.header(name).map(base_msg_id) == Some(id.as_str());
        is_id_in(header::MESSAGE_ID) || is_id_in(header::OPERATION_ID)
    }

    /// Whether the server checked that this was the newest revision of the subject when it stored the message.
    pub(crate) fn directly_follows(&self, revision: Revision) -> bool {
        self.header(header::EXPECTED).and_then(|text| text.parse().ok()) == Some(revision.get())
            && self.header(header::EXPECTED_SUBJECT).is_none_or(|subject| subject == self.subject.as_str())
            // The precondition of a copied message was checked in the stream of its origin.
            && self.header(header::STREAM_SOURCE).is_none()
    }

    /// Converts the message to an entry of a bucket with this subject prefix.
    pub(crate) fn entry(mut self, prefix: &str) -> Result<RawEntry> {
        self.take_entry(prefix)
    }

    /// Like [`entry`](Self::entry), but takes the payload out of the message. Afterwards only the subject and the time
    /// of the message are valid.
    pub(crate) fn take_entry(&mut self, prefix: &str) -> Result<RawEntry> {
        let subject = self.subject.as_str();
        let text = subject.strip_prefix(prefix).unwrap_or(subject);
        let key = Key::new(text).map_err(|error| Error::from(error).with_key(text).at_revision(self.revision))?;
        let (mut operation, mut reason, mut size, mut ttl_value) = (None, None, 0_u64, None);
        let (mut id, mut message_id, mut headers) = (None, None, RecordHeaders::default());
        for (name, value) in last_values(&self.headers) {
            match name {
                header::OPERATION => operation = Some(value),
                header::MARKER_REASON => reason = Some(value),
                header::MESSAGE_SIZE => size = value.parse().unwrap_or_default(),
                header::TTL => ttl_value = ttl(value),
                header::OPERATION_ID => id = Some(value),
                header::MESSAGE_ID => message_id = Some(value),
                name => drop(headers.set(name, value)),
            }
        }
        let id = id.or(message_id).map(base_msg_id).map(OperationId::from_stored);
        let operation = self.operation(operation, reason, size);
        Ok(RawEntry {
            key,
            revision: self.revision,
            created: self.created,
            operation,
            value: std::mem::take(&mut self.payload),
            ttl: ttl_value,
            headers,
            id,
        })
    }

    fn operation(&self, operation: Option<&str>, reason: Option<&str>, size: u64) -> Operation {
        match operation {
            None => {}
            Some("PUT") => return Operation::Put,
            Some("DEL") => return Operation::Delete,
            Some("PURGE") => return Operation::Purge,
            Some(other) => return Operation::Unknown(other.to_owned()),
        }
        // A client can write this header too. A marker of the server has no payload. If only the headers were
        // requested, another header contains the size of the payload.
        match reason {
            Some(reason) if self.payload.is_empty() && size == 0 => match reason {
                "MaxAge" => Operation::Expired,
                "Purge" => Operation::Purge,
                "Remove" => Operation::Delete,
                other => Operation::Unknown(other.to_owned()),
            },
            _ => Operation::Put,
        }
    }
}

/// Returns each header with its last value. A publisher can write the headers of the server too, and the server appends
/// its own values.
fn last_values(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    headers.iter().filter_map(|(name, values)| Some((name.as_ref(), values.last()?.as_str())))
}

/// Parses a time of the server: `2026-08-14T12:02:39.123456789Z`.
pub(crate) fn time(text: &str) -> Option<SystemTime> {
    async_nats::datetime::parse_rfc3339(text).ok().map(SystemTime::from)
}

/// Parses a stored TTL: whole seconds, a Go duration, or `never`.
fn ttl(text: &str) -> Option<Ttl> {
    if text == "never" {
        return Some(Ttl::NEVER);
    }
    let duration = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => go_duration(text)?,
    };
    Ttl::new(duration.max(Ttl::MIN))
}

/// Parses a Go duration: `1h30m`, `1.5s`, `1500ms`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(unit_at);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = after;
    }
    (!total.is_zero()).then_some(total)
}

/// The separator of an operation id and the number of its form.
const FORM: char = '~';

/// Returns another form of an operation id, for a server that treats the id as that of a write in flight.
pub(crate) fn suffixed_msg_id(id: &OperationId, number: u32) -> String {
    format!("{}{FORM}{number}", id.as_str())
}

/// Returns the operation id of a form. An id of another client stays unchanged, unless it looks like a form.
fn base_msg_id(text: &str) -> &str {
    let is_form = |(id, number): &(&str, &str)| {
        id.bytes().all(|byte| byte.is_ascii_hexdigit()) && number.parse::<u32>().is_ok() && !id.is_empty()
    };
    text.rsplit_once(FORM).filter(is_form).map_or(text, |(id, _)| id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn stored(headers: &[(&str, &str)], payload: &'static str) -> StoredMessage {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        StoredMessage {
            subject: "$KV.b.a.1".into(),
            revision: Revision::new(7),
            created: SystemTime::UNIX_EPOCH,
            headers: map,
            payload: Bytes::from_static(payload.as_bytes()),
        }
    }

    fn operation(headers: &[(&str, &str)], payload: &'static str) -> Operation {
        stored(headers, payload).entry("$KV.b.").unwrap().operation
    }

    #[test]
    fn headers_determine_the_operation() {
        assert_eq!(operation(&[], ""), Operation::Put);
        assert_eq!(operation(&[("KV-Operation", "DEL")], ""), Operation::Delete);
        assert_eq!(operation(&[("KV-Operation", "PURGE"), ("Nats-Rollup", "sub")], ""), Operation::Purge);
        assert_eq!(operation(&[("KV-Operation", "MERGE")], "x"), Operation::Unknown("MERGE".into()));
        assert_eq!(operation(&[("Nats-Marker-Reason", "MaxAge")], ""), Operation::Expired);
        assert_eq!(operation(&[("Nats-Marker-Reason", "Remove")], ""), Operation::Delete);
    }

    #[test]
    fn suffixed_message_id_maps_to_operation_id() {
        let id = OperationId::generate();
        for text in [id.as_str(), &suffixed_msg_id(&id, 1), &suffixed_msg_id(&id, 12)] {
            assert_eq!(base_msg_id(text), id.as_str());
        }
        for theirs in ["a~b", "order~1", "~1", "7f~", ""] {
            assert_eq!(base_msg_id(theirs), theirs);
        }
    }

    #[test]
    fn forged_marker_with_value_is_a_put() {
        assert_eq!(operation(&[("Nats-Marker-Reason", "MaxAge")], "x"), Operation::Put);
        assert_eq!(operation(&[("Nats-Marker-Reason", "MaxAge"), ("Nats-Msg-Size", "1")], ""), Operation::Put);
    }

    #[test]
    fn ttl_header_parses_every_client_format() {
        let seconds = |text| ttl(text).map(Ttl::as_secs);
        assert_eq!(seconds("5"), Some(5));
        assert_eq!(seconds("5s"), Some(5));
        assert_eq!(seconds("1500ms"), Some(2));
        assert_eq!(seconds("1h30m"), Some(5400));
        assert_eq!(ttl("never"), Some(Ttl::NEVER));
        assert_eq!(seconds("5x"), None);
        assert_eq!(seconds(""), None);
    }

    #[test]
    fn invalid_key_error_names_key_and_revision() {
        let mut entry = stored(&[], "");
        entry.subject = "$KV.b.a b".into();
        let error = entry.entry("$KV.b.").unwrap_err();
        assert_eq!((error.key(), error.revision()), (Some("a b"), Some(Revision::new(7))));
    }

    #[test]
    fn only_same_key_precondition_proves_predecessor() {
        assert!(stored(&[("Nats-Expected-Last-Subject-Sequence", "5")], "").directly_follows(Revision::new(5)));
        assert!(!stored(&[("Nats-Expected-Last-Subject-Sequence", "5")], "").directly_follows(Revision::new(4)));
        assert!(!stored(&[], "").directly_follows(Revision::ZERO));
        let other = [
            ("Nats-Expected-Last-Subject-Sequence", "5"),
            ("Nats-Expected-Last-Subject-Sequence-Subject", "$KV.b.fence"),
        ];
        assert!(!stored(&other, "").directly_follows(Revision::new(5)));
    }

    #[test]
    fn leader_response_decodes_to_entry() {
        let message = serde_json::json!({
            "subject": "$KV.b.a", "seq": 3, "data": "aGVsbG8=", "time": "2026-08-14T12:02:39.5Z",
            "hdrs": "TkFUUy8xLjANCk5hdHMtTXNnLUlkOiB4DQoNCg==",
        });
        let entry = StoredMessage::from_leader(message).unwrap().entry("$KV.b.").unwrap();
        assert_eq!((&entry.value[..], entry.revision), (&b"hello"[..], Revision::new(3)));
        assert_eq!(entry.id, Some(OperationId::from_stored("x")));
        assert_eq!(entry.created.duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_millis(), 500);
    }
}
