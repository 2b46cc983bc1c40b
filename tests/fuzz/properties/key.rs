//! Keys: encoding is injective, keeps each text within its segment, and is the inverse of decoding.

use kvtyped::codec::Bytes;
use kvtyped::key::{Key, KeyBuilder, ModelKey, escape, unescape};
use kvtyped::prelude::*;

use super::texts;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, KeySegment)]
enum Region {
    Eu,
    #[kv(rename = "u.s.")]
    Us,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, KeySegment)]
struct Name(String);

/// Two adjacent texts, so that a text that leaves its segment is detected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "acct.{tenant}.{name}")]
struct Pair {
    tenant: String,
    name: String,
}

/// Every kind of segment, also between literals.
#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(key = "t-{tenant}.n{id}/v1.{open}.{letter}.{region}.{name}-end.{wide}", codec = Bytes)]
struct Mixed {
    tenant: String,
    id: i64,
    open: bool,
    letter: char,
    region: Region,
    name: Name,
    wide: u128,
    #[kv(value)]
    value: Vec<u8>,
}

/// Checks arbitrary bytes.
///
/// # Panics
///
/// Panics if a property does not hold.
pub fn check(bytes: &[u8]) {
    let [a, b, c, d] = texts(bytes);
    for text in [&a, &b, &c, &d] {
        segment(text);
        read_as_segment(text);
        read_as_key(text);
    }
    pairs(PairKey::new(&*a, &*b), PairKey::new(&*c, &*d));
    pairs(PairKey::new(&*a, &*b), PairKey::new(format!("{a}{b}"), ""));
    pairs(PairKey::new(&*a, &*b), PairKey::new(&*a, format!("{b}.{c}")));
    mixed(&a, &b);
    read_as_key(&format!("acct.{a}.{b}"));
    read_as_key(&format!("t-{a}.n{b}/v1.true.{c}.Eu.{d}-end.7"));
}

/// Returns whether a text is one valid segment of a key, according to the grammar.
fn is_segment(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-/_=".contains(&byte))
}

fn segment(text: &str) {
    let escaped = escape(text);
    assert!(is_segment(&escaped), "{escaped:?}");
    assert!(escaped.len() <= (3 * text.len()).max(2), "{escaped:?}");
    assert_eq!(unescape(&escaped).expect("an escaped segment can be unescaped"), text);
    assert_ne!(escaped, Key::RESERVED);
    let mut out = KeyBuilder::new();
    out.segment(&text.to_owned());
    assert_eq!(out.as_str(), escaped);
}

fn read_as_segment(text: &str) {
    if let Ok(read) = unescape(text) {
        assert_eq!(escape(&read), text, "two segments of {read:?}");
    }
}

fn read_as_key(text: &str) {
    let legal = text.len() <= Key::MAX_BYTES && text.split('.').all(is_segment);
    assert_eq!(Key::new(text).is_ok(), legal, "{text:?}");
    assert_eq!(text.parse::<Key>().is_ok(), legal);
    if let Ok(key) = text.parse::<PairKey>() {
        assert!(legal && key.to_string() == text, "{text:?} is read as {key}");
    }
    if let Ok(key) = text.parse::<MixedKey>() {
        assert!(legal && key.to_string() == text, "{text:?} is read as {key}");
    }
}

/// Checks that a short enough key round-trips and has the segments of its template.
fn round_trip<K: ModelKey>(key: &K, segments: usize) {
    let text = key.to_string();
    assert_eq!(text.split('.').count(), segments);
    assert!(text.split('.').all(is_segment), "{text:?}");
    let encoded = key.encode();
    assert_eq!(encoded.is_ok(), text.len() <= Key::MAX_BYTES, "only its length can be wrong with it");
    assert_eq!(encoded.is_ok(), K::decode(&text).is_ok());
    if let Ok(encoded) = encoded {
        assert_eq!(encoded.as_str(), text);
        assert_eq!(&K::decode(&text).expect("short enough"), key);
        assert!(K::pattern().matches(&text));
    }
}

fn pairs(one: PairKey, other: PairKey) {
    round_trip(&one, 3);
    round_trip(&other, 3);
    assert_eq!(one == other, one.to_string() == other.to_string(), "{one} and {other}");
}

fn mixed(tenant: &str, rest: &str) {
    let number = rest.bytes().fold(0_i64, |sum, byte| sum.wrapping_mul(257).wrapping_add(byte.into()));
    let wide = u128::from(number.unsigned_abs()).wrapping_pow(2).wrapping_neg();
    let region = if number % 2 == 0 { Region::Eu } else { Region::Us };
    let letter = rest.chars().next().unwrap_or('\u{10ffff}');
    round_trip(&MixedKey::new(tenant, number, number > 0, letter, region, Name(rest.to_owned()), wide), 7);
}
