//! The stored value of a counter (ADR-49).

use serde::Deserialize;

use crate::error::{Error, Result};

/// Parses the stored value of a counter: `{"val":"7"}`.
pub(crate) fn parse_total(payload: &[u8]) -> Result<i128> {
    #[derive(Deserialize)]
    struct CounterRecord {
        val: String,
    }
    let stored = serde_json::from_slice::<CounterRecord>(payload).ok();
    stored.and_then(|stored| parse_number(&stored.val)).ok_or_else(missing_total)
}

/// Parses a number of any length. Returns `i128::MIN` or `i128::MAX` for a number that is out of range.
pub(crate) fn parse_number(text: &str) -> Option<i128> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let end = if text.starts_with('-') { i128::MIN } else { i128::MAX };
    Some(text.parse().unwrap_or(end))
}

/// Creates the error of a reply or a stored value without a total.
pub(crate) fn missing_total() -> Error {
    Error::backend("the reply to an increment lacks the total")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_value_parses_and_saturates() {
        for (text, read) in [
            ("0", Some(0)),
            ("+7", Some(7)),
            ("-7", Some(-7)),
            ("18446744073709551616", Some(1 << 64)),
            ("9".repeat(60).as_str(), Some(i128::MAX)),
            (format!("-{}", "9".repeat(60)).as_str(), Some(i128::MIN)),
            ("", None),
            ("-", None),
            ("+-7", None),
            ("7x", None),
        ] {
            assert_eq!(parse_number(text), read, "{text}");
        }
    }
}
