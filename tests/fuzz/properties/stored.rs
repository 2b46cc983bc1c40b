//! Stored messages: all read paths decode an arbitrary message in the same way, and take position and time from the
//! server only. Invalid replies of a server do not cause a panic.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use kvtyped::Revision;
use kvtyped::async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use kvtyped::async_nats::{Message, StatusCode};
use kvtyped::backend::nats::fuzzing;
use kvtyped::backend::{Operation, RawEntry};
use serde_json::json;

use super::texts;

const PREFIX: &str = "$KV.b.";
const TIME: &str = "2026-08-14T12:02:39.5Z";

/// Checks arbitrary bytes as a key, header lines, and a value.
///
/// # Panics
///
/// Panics if a property does not hold.
pub fn check(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == 0xff);
    let [key, headers, value] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    let [key, lines] = texts(&[key, headers].join(&0xff));
    // A subject cannot contain white space, which separates words in the protocol.
    let key = key.replace(char::is_whitespace, "_");
    let subject = format!("{PREFIX}{key}");

    let headers: Vec<_> = lines.lines().filter_map(header).collect();
    let block: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let by_leader = leader(&subject, format!("NATS/1.0\r\n{block}\r\n").as_bytes(), value);
    let delivered =
        fuzzing::parse_delivered(delivered(&subject, &headers, value), PREFIX).map(|entry| entry.expect("a place"));
    let directly = fuzzing::direct(direct(&subject, &headers, value), PREFIX);
    same(&by_leader, &delivered);
    same(&by_leader, &directly);
    if let Ok(entry) = &directly {
        one(entry, &key, &headers, value);
    }

    // Headers that no client writes, and replies that no server sends.
    let _ = leader(&subject, lines.as_bytes(), value);
    let _ = leader(&subject, format!("NATS/1.0{lines}").as_bytes(), value);
    let _ = fuzzing::parse_total(value);
    let _ = fuzzing::is_information(value);
    let _ = fuzzing::leader(serde_json::from_slice(value).unwrap_or_default(), PREFIX);
    let _ = fuzzing::parse_delivered(Message { reply: Some(lines.into()), ..delivered_nowhere(&subject) }, PREFIX);
}

/// Parses a header that clients can write.
fn header(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    let name = HeaderName::from_str(name).ok()?;
    let value = HeaderValue::from_str(value.trim()).ok()?;
    Some((name, value))
}

fn delivered_nowhere(subject: &str) -> Message {
    Message {
        subject: subject.into(),
        reply: None,
        payload: bytes::Bytes::new(),
        headers: None,
        status: None,
        description: None,
        length: 0,
    }
}

fn map(headers: &[(HeaderName, HeaderValue)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(name.clone(), value.clone());
    }
    map
}

fn delivered(subject: &str, headers: &[(HeaderName, HeaderValue)], value: &[u8]) -> Message {
    Message {
        reply: Some("$JS.ACK.KV_b.c.1.7.1.1786708959500000000.0".into()),
        payload: bytes::Bytes::copy_from_slice(value),
        headers: Some(map(headers)),
        ..delivered_nowhere(subject)
    }
}

/// Builds the reply of a server to a direct get. The server's own headers come last.
fn direct(subject: &str, headers: &[(HeaderName, HeaderValue)], value: &[u8]) -> Message {
    let mut map = map(headers);
    map.append("Nats-Stream", "KV_b");
    map.append("Nats-Subject", subject);
    map.append("Nats-Sequence", "7");
    map.append("Nats-Time-Stamp", TIME);
    Message {
        payload: bytes::Bytes::copy_from_slice(value),
        headers: Some(map),
        status: None::<StatusCode>,
        ..delivered_nowhere("_INBOX.x")
    }
}

fn leader(subject: &str, headers: &[u8], value: &[u8]) -> Result<RawEntry, kvtyped::Error> {
    let message = json!({ "subject": subject, "seq": 7, "data": base64(value), "hdrs": base64(headers), "time": TIME });
    fuzzing::leader(message, PREFIX)
}

fn same(one: &Result<RawEntry, kvtyped::Error>, other: &Result<RawEntry, kvtyped::Error>) {
    match (one, other) {
        (Ok(one), Ok(other)) => assert_eq!(one, other),
        (Err(one), Err(other)) => {
            assert_eq!((one.key(), one.revision()), (other.key(), other.revision()));
        }
        _ => panic!("{one:?} and {other:?}"),
    }
}

/// Checks the properties of every entry, independent of its headers.
fn one(entry: &RawEntry, key: &str, headers: &[(HeaderName, HeaderValue)], value: &[u8]) {
    assert_eq!(entry.key.as_str(), key);
    assert_eq!((entry.revision, &entry.value[..]), (Revision::new(7), value));
    assert_eq!(entry.created, SystemTime::UNIX_EPOCH + Duration::from_millis(1_786_708_959_500));
    assert!(entry.ttl.is_none_or(|ttl| ttl.as_secs() >= 1));
    let last = |name: &str| {
        let mut of_name = headers.iter().rev().filter(|(other, _)| AsRef::<str>::as_ref(other) == name);
        of_name.next().map(|(_, value)| value.as_str())
    };
    let operation = last("KV-Operation");
    assert_eq!(entry.operation == Operation::Expired, operation.is_none() && expired(&last, value));
    assert_eq!(entry.id.as_ref().map(|id| id.as_str()), last("Nats-Msg-Id"));
    match operation {
        Some("DEL") => assert_eq!(entry.operation, Operation::Delete),
        Some("PURGE") => assert_eq!(entry.operation, Operation::Purge),
        Some("PUT") => assert!(entry.is_live()),
        Some(_) => assert!(!entry.is_live(), "an entry with an unknown operation is not live"),
        // Headers that only a server may set never hide a value.
        None => assert!(entry.is_live() || value.is_empty()),
    }
}

fn expired<'a>(last: &impl Fn(&str) -> Option<&'a str>, value: &[u8]) -> bool {
    let size = last("Nats-Msg-Size").and_then(|size| size.parse::<u64>().ok()).unwrap_or_default();
    last("Nats-Marker-Reason") == Some("MaxAge") && value.is_empty() && size == 0
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= three.len() { char::from(digit) } else { '=' });
        }
    }
    text
}
