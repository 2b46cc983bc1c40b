//! Texts that are safe for a terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a terminal may act on a character, or show it in another place: control characters, and marks that change
/// the direction of the text.
pub(crate) fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// Escapes the unsafe characters of a text: `\u{1b}`.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    escape_except(text, "")
}

/// Escapes the unsafe characters of a text, except line feeds.
pub(crate) fn escape_lines(text: &str) -> Cow<'_, str> {
    escape_except(text, "\n")
}

fn escape_except<'a>(text: &'a str, kept: &str) -> Cow<'a, str> {
    let is_escaped = |character: char| is_unsafe(character) && !kept.contains(character);
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\n' if is_escaped('\n') => out.push_str("\\n"),
            '\t' if is_escaped('\t') => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            character if is_escaped(character) => _ = write!(out, "\\u{{{:x}}}", character as u32),
            character => out.push(character),
        }
    }
    Cow::Owned(out)
}

/// Escapes the unsafe characters that `serde_json` leaves in a text of JSON. They only occur within strings, so the
/// result is the same JSON value. Line feeds of an indented text stay.
pub(crate) fn escape_json(json: String) -> String {
    let is_escaped = |character: char| character != '\n' && is_unsafe(character);
    if !json.contains(is_escaped) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        match is_escaped(character) {
            true => character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| _ = write!(out, "\\u{unit:04x}")),
            false => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_escapes_are_escaped() {
        assert_eq!(escape("a\u{1b}[31m\u{9b}2J\tb\r\n"), "a\\u{1b}[31m\\u{9b}2J\\tb\\r\\n");
        assert_eq!(escape("\u{202e}gpj"), "\\u{202e}gpj");
        assert_eq!(escape("plain ü 漢"), "plain ü 漢");
        assert_eq!(escape_lines("a\nb\u{7f}"), "a\nb\\u{7f}");
    }

    #[test]
    fn escaped_json_is_the_same_value() {
        let json = serde_json::to_string("\u{1b}\u{9b}\u{7f}\u{2066}ü").unwrap();
        let escaped = escape_json(json.clone());
        assert!(!escaped.contains(is_unsafe) && escaped.contains("\\u009b"), "{escaped}");
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), serde_json::from_str::<String>(&json).unwrap());
    }
}
