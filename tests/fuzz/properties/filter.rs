//! Filters: they match like a reference implementation, request everything that they match, and no value widens them.

use kvtyped::Filter;
use kvtyped::key::{Key, Pattern};
use kvtyped::prelude::*;

use super::texts;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "u-{tenant}-x.{id}")]
struct Member {
    tenant: String,
    id: u32,
}

/// A segment of a pattern in the reference implementation.
#[derive(Clone, Debug)]
enum Part {
    Is(String),
    Between(String, String),
}

/// Checks arbitrary bytes as two patterns, a key and a value.
///
/// # Panics
///
/// Panics if a property does not hold.
pub fn check(bytes: &[u8]) {
    let [one, other, key, value] = texts(bytes);
    let (one, other) = (parts(&one), parts(&other));
    let (a, b) = (pattern(&one, false), pattern(&other, true));
    for key in keys(&one, &other, &key) {
        matching(&a, &one, &key);
        matching(&b, &other, &key);
        both(&a, &b, &key);
    }
    typed(&value, &key);
}

/// Parses a pattern: segments separated by dots, with `*` for the open part.
fn parts(text: &str) -> Vec<Part> {
    let legal = |text: &str| text.chars().filter(|c| c.is_ascii_alphanumeric() || "-/_=".contains(*c)).collect();
    let part = |text: &str| match text.split_once('*') {
        Some((prefix, suffix)) => Part::Between(legal(prefix), legal(suffix)),
        None => Part::Is(match legal(text) {
            empty if String::is_empty(&empty) => "a".to_owned(),
            text => text,
        }),
    };
    text.split('.').take(6).map(part).collect()
}

/// Builds the same pattern. With `values`, a text without `=` is used as a field value, otherwise as a literal of the
/// template.
fn pattern(parts: &[Part], values: bool) -> Pattern {
    parts.iter().fold(Pattern::new(), |pattern, part| match part {
        Part::Is(text) if values && !text.contains('=') => pattern.segment(Some(text), "", ""),
        Part::Is(text) => pattern.literal(text),
        Part::Between(prefix, suffix) => pattern.segment::<String>(None, prefix, suffix),
    })
}

/// Returns keys that match, or that almost match.
fn keys(one: &[Part], other: &[Part], key: &str) -> Vec<String> {
    let filled = |parts: &[Part], with: &str| {
        let fill = |part: &Part| match part {
            Part::Is(text) => text.clone(),
            Part::Between(prefix, suffix) => format!("{prefix}{with}{suffix}"),
        };
        parts.iter().map(fill).collect::<Vec<_>>().join(".")
    };
    let mut keys = vec![key.to_owned(), format!("{}.{key}", Key::RESERVED), Key::RESERVED.to_owned()];
    for parts in [one, other] {
        keys.extend(["", "b", "=2E"].map(|with| filled(parts, with)));
        keys.push(filled(parts, key));
        keys.push(format!("{}.{key}", filled(parts, "b")));
    }
    keys.retain(|key| Key::new(key.as_str()).is_ok());
    keys
}

fn matching(pattern: &Pattern, parts: &[Part], key: &str) {
    let segments: Vec<_> = key.split('.').collect();
    let fits = |(part, segment): (&Part, &&str)| match part {
        Part::Is(text) => text == segment,
        Part::Between(prefix, suffix) => {
            let inner = segment.strip_prefix(&**prefix).and_then(|rest| rest.strip_suffix(&**suffix));
            inner.is_some_and(|inner| !inner.is_empty())
        }
    };
    let reserved = matches!(parts.first(), Some(Part::Between(..))) && segments[0] == Key::RESERVED;
    let plainly = parts.len() == segments.len() && parts.iter().zip(&segments).all(fits) && !reserved;
    assert_eq!(pattern.matches(key), plainly, "{pattern:?} and {key:?}");
    assert!(!plainly || server_delivers(&pattern.to_string(), key), "{pattern} leaves out {key:?}");
    if let Some(exact) = pattern.as_exact() {
        assert_eq!(pattern.matches(key), exact == key);
    }
    let exact = Pattern::exact(&Key::new(key).expect("only keys are tried"));
    assert!(exact.matches(key) && exact.as_exact().as_deref() == Some(key));
    assert_eq!(Pattern::all().matches(key), segments[0] != Key::RESERVED);
}

/// Returns whether NATS matches a subject with a filter.
fn server_delivers(filter: &str, subject: &str) -> bool {
    let (mut filter, mut subject) = (filter.split('.'), subject.split('.'));
    loop {
        match (filter.next(), subject.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(_)) => {}
            (Some(token), Some(other)) if token == other => {}
            _ => return false,
        }
    }
}

fn both(a: &Pattern, b: &Pattern, key: &str) {
    let (by_a, by_b) = (server_delivers(&a.to_string(), key), server_delivers(&b.to_string(), key));
    assert!(!(by_a && by_b) || a.overlaps(b), "{a} and {b} share {key:?}");
    assert!(!a.covers(b) || !by_b || by_a, "{a} covers {b}, and leaves out {key:?}");
    assert_eq!(a.overlaps(b), b.overlaps(a));
    let disjoint = Pattern::disjoint(&[a.clone(), b.clone(), a.clone()]);
    let sent = disjoint.iter().filter(|filter| server_delivers(&filter.to_string(), key)).count();
    assert!(sent <= 1, "{disjoint:?} ask twice for {key:?}");
    assert!(sent == 1 || !(by_a || by_b), "{disjoint:?} leave out {key:?}");
}

/// Checks that a filter with a field value matches exactly the keys with this value.
fn typed(value: &str, other: &str) {
    let filter: Filter<Member> = MemberKey::filter().tenant(value).into();
    for pattern in filter.patterns() {
        assert_eq!(pattern.tokens().len(), 2);
        for tenant in [value, other] {
            let key = MemberKey::new(tenant, 7_u32).to_string();
            assert_eq!(pattern.matches(&key), tenant == value, "{value:?} and {tenant:?}");
            assert_eq!(server_delivers(&pattern.to_string(), &key), tenant == value);
        }
    }
}
