//! The keys of index entries and claims, in the index key space of a bucket.
//!
//! * entry: `<model>.<index>.<value segments..>.<record key..>`, without a body
//! * claim of a unique value: `<model>.<index>.<value segments..>`, with a [`Claim`](super::Claim)
//!
//! The number of value segments is fixed, and the record key is last and complete. So `<model>.<index>.*.<key>` finds
//! the entries of a record without its value. The record key is the escaped one, whatever the key codec of the bucket.

use super::IndexInfo;
use crate::key::{Key, KeyError, Pattern, unescape};

/// Returns the key of the entry of a record.
///
/// # Errors
///
/// Returns [`KeyError::EntryTooLong`] if value and key together are too long for a subject.
pub fn entry_key(model: &str, index: &IndexInfo, value: &str, key: &Key) -> Result<Key, KeyError> {
    build(format!("{model}.{}.{value}.{key}", index.name), index)
}

/// Returns the key of the claim of a unique value.
///
/// # Errors
///
/// Returns [`KeyError::EntryTooLong`] if the value is too long for a subject.
pub fn claim_key(model: &str, index: &IndexInfo, value: &str) -> Result<Key, KeyError> {
    build(format!("{model}.{}.{value}", index.name), index)
}

fn build(text: String, index: &IndexInfo) -> Result<Key, KeyError> {
    if text.len() > Key::MAX_BYTES {
        return Err(KeyError::EntryTooLong { index: index.name, bytes: text.len() });
    }
    Key::new(text)
}

/// Returns the value and the record key of an entry. `None` if it is no entry of this index.
pub fn parse_entry<'a>(model: &str, index: &IndexInfo, entry: &'a str) -> Option<(&'a str, &'a str)> {
    let rest = after_index(model, index, entry)?;
    let dot = rest.match_indices('.').nth(index.segments.checked_sub(1)?)?.0;
    let (value, key) = (rest.get(..dot)?, rest.get(dot.checked_add(1)?..)?);
    (!key.is_empty()).then_some((value, key))
}

/// Returns the value of a claim. `None` if it is no claim of this index.
pub fn parse_claim<'a>(model: &str, index: &IndexInfo, claim: &'a str) -> Option<&'a str> {
    let value = after_index(model, index, claim)?;
    let segments = value.split('.');
    (segments.clone().count() == index.segments && segments.clone().all(|text| unescape(text).is_ok())).then_some(value)
}

fn after_index<'a>(model: &str, index: &IndexInfo, text: &'a str) -> Option<&'a str> {
    text.strip_prefix(model)?.strip_prefix('.')?.strip_prefix(index.name)?.strip_prefix('.')
}

/// Returns the pattern of all entries of an index.
pub fn entries(model: &str, index: &IndexInfo) -> Pattern {
    claims(model, index).open()
}

/// Returns the pattern of all claims of a unique index.
pub fn claims(model: &str, index: &IndexInfo) -> Pattern {
    (0..index.segments).fold(of_index(model, index), |pattern, _| pattern.any())
}

/// Returns the pattern of the entries of one record in an index.
pub fn entries_of_record(model: &str, index: &IndexInfo, key: &Key) -> Pattern {
    key.segments().fold(claims(model, index), Pattern::literal)
}

/// Returns the pattern of an index, without the segments of the value.
pub(super) fn of_index(model: &str, index: &IndexInfo) -> Pattern {
    Pattern::new().literal(model).literal(index.name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::IndexKind;
    use super::*;

    const ROLE: IndexInfo = IndexInfo::new("by_role", IndexKind::Many, "{team}.{role}").segments(2);
    const EMAIL: IndexInfo = IndexInfo::new("email", IndexKind::Unique, "{email}");

    #[test]
    fn entry_key_is_read_back() {
        let key = Key::new("acme.7").unwrap();
        let entry = entry_key("user", &ROLE, "core.Admin", &key).unwrap();
        assert_eq!(entry.as_str(), "user.by_role.core.Admin.acme.7");
        assert_eq!(parse_entry("user", &ROLE, entry.as_str()), Some(("core.Admin", "acme.7")));
        let pattern = entries_of_record("user", &ROLE, &key);
        assert_eq!(pattern.to_string(), "user.by_role.*.*.acme.7");
        assert!(pattern.matches(entry.as_str()) && entries("user", &ROLE).matches(entry.as_str()));
        assert_eq!(entries("user", &ROLE).to_string(), "user.by_role.*.*.>");
    }

    #[test]
    fn claim_key_is_read_back() {
        let claim = claim_key("user", &EMAIL, "ada=40x=2Eorg").unwrap();
        assert_eq!(claim.as_str(), "user.email.ada=40x=2Eorg");
        assert_eq!(parse_claim("user", &EMAIL, claim.as_str()), Some("ada=40x=2Eorg"));
        assert!(claims("user", &EMAIL).matches(claim.as_str()));
    }

    #[test]
    fn foreign_keys_are_no_entries() {
        for text in ["user.by_role.core", "user.by_role.core.Admin", "user.by_rol.a.b.c", "users.by_role.a.b.c", "user"]
        {
            assert_eq!(parse_entry("user", &ROLE, text), None, "{text}");
        }
        for text in ["user.email.a.b", "user.email", "user.email.", "user.mail.a"] {
            assert_eq!(parse_claim("user", &EMAIL, text), None, "{text}");
        }
    }

    #[test]
    fn too_long_entry_names_its_index() {
        let value = "a".repeat(1000);
        let key = |bytes| Key::new("k".repeat(bytes)).unwrap();
        // `user.email.`, the value and a dot have 1,012 bytes.
        assert_eq!(entry_key("user", &EMAIL, &value, &key(12)).unwrap().as_str().len(), 1024);
        let error = entry_key("user", &EMAIL, &value, &key(13)).unwrap_err();
        assert_eq!(error, KeyError::EntryTooLong { index: "email", bytes: 1025 });
        assert!(claim_key("user", &EMAIL, &value).is_ok());
    }
}
