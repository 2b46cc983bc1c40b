//! Untrusted text, displayed on one line.

use std::fmt::{self, Write};

/// Displays a value and escapes the characters that end a line, move the cursor or change the direction of a text. A
/// name can therefore not forge a line of a log. The escapes have the syntax of Rust: `\\n` and `\\u{1b}`.
pub(crate) struct Escaped<D>(pub(crate) D);

impl<D: fmt::Display> fmt::Display for Escaped<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// Escapes the text that is written to it.
struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(is_unsafe) {
            self.0.write_str(&rest[..at])?;
            let mut after = rest[at..].chars();
            if let Some(character) = after.next() {
                write!(self.0, "{}", character.escape_default())?;
            }
            rest = after.as_str();
        }
        self.0.write_str(rest)
    }
}

/// Whether a character must be escaped.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

#[cfg(test)]
mod tests {
    use super::Escaped;

    #[test]
    fn escaped_text_is_one_line() {
        let shown = |text: &str| Escaped(text).to_string();
        assert_eq!(shown("a\r\nERROR forged\u{1b}[2K\u{202e}\u{85}"), r"a\r\nERROR forged\u{1b}[2K\u{202e}\u{85}");
        assert_eq!(shown("Zürich `日本` \\ 'x'"), "Zürich `日本` \\ 'x'");
        assert_eq!(shown(""), "");
    }
}
