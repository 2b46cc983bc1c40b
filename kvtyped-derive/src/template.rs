//! The template of a key: `app.{tenant}.user-{id}`.

use proc_macro2::Span;
use syn::{Error, LitStr};

use crate::ctxt::Ctxt;

/// A parsed template.
pub(crate) struct Template {
    pub(crate) text: String,
    pub(crate) segments: Vec<Segment>,
}

/// The part of a template between two dots.
pub(crate) enum Segment {
    Literal(String),
    Field {
        prefix: String,
        name: Name,
        suffix: String,
    },
    /// `{name..}`: the rest of the key.
    Rest(Name),
}

/// A placeholder, without its braces.
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) span: Span,
}

/// Parses a template, and reports every invalid segment.
pub(crate) fn parse(literal: &LitStr, ctxt: &mut Ctxt) -> Template {
    let text = literal.value();
    let mut template = Template { text: text.clone(), segments: Vec::new() };
    if text.is_empty() {
        ctxt.error(literal, "the template is empty; write `{field}` for a field, or a literal for a single record");
        return template;
    }
    for (start, end) in segments(&text) {
        let part = LiteralPart { literal, start, end };
        match segment(text.get(start..end).unwrap_or_default(), &part) {
            Ok(Segment::Rest(name)) if end < text.len() => {
                let message =
                    format!("`{{{}..}}` takes the rest of the key; move it to the end of the template", name.text);
                ctxt.push(part.error(message));
            }
            Ok(segment) => template.segments.push(segment),
            Err(error) => ctxt.push(error),
        }
    }
    for (index, segment) in template.segments.iter().enumerate() {
        let Some(name) = segment.name() else { continue };
        let before = template.segments.iter().take(index);
        let mut before = before.filter_map(Segment::name);
        if before.any(|other| other.text == name.text) {
            ctxt.push(Error::new(name.span, format!("`{{{}}}` occurs twice in the template; remove one", name.text)));
        }
    }
    template
}

impl Segment {
    pub(crate) fn name(&self) -> Option<&Name> {
        match self {
            Self::Literal(_) => None,
            Self::Field { name, .. } | Self::Rest(name) => Some(name),
        }
    }
}

/// Returns the bounds of the segments. A dot in braces does not end a segment.
fn segments(text: &str) -> Vec<(usize, usize)> {
    let mut segments = Vec::new();
    let (mut start, mut open) = (0, false);
    for (at, character) in text.char_indices() {
        match character {
            '{' => open = true,
            '}' => open = false,
            // An unclosed brace ends with its segment, so that the other segments are still parsed.
            '.' if !open || !text.get(at..).is_some_and(next_brace_closes) => {
                segments.push((start, at));
                (start, open) = (at + 1, false);
            }
            _ => {}
        }
    }
    segments.push((start, text.len()));
    segments
}

/// Whether the next brace is a closing one.
fn next_brace_closes(rest: &str) -> bool {
    rest.chars().find(|c| matches!(c, '{' | '}')) == Some('}')
}

fn segment(text: &str, part: &LiteralPart<'_>) -> Result<Segment, Error> {
    let error = |message: String| Err(part.error(message));
    if text.is_empty() {
        return error("the template has an empty segment; remove the extra dot".into());
    }
    if text.contains("{{") || text.contains("}}") {
        return error(format!("a key cannot contain a brace, as in `{text}`; write `{{field}}` with single braces"));
    }
    let Some((prefix, rest)) = text.split_once('{') else {
        if text.contains('}') {
            return error(format!("unmatched `}}` in `{text}`; write `{{field}}`"));
        }
        check_literal(text, part)?;
        return Ok(Segment::Literal(text.into()));
    };
    let Some((name, suffix)) = rest.split_once('}') else {
        return error(format!("unclosed `{{` in `{text}`; write `{{field}}`"));
    };
    if prefix.contains('}') || name.contains('{') {
        return error(format!("unmatched braces in `{text}`; write `{{field}}`"));
    }
    if suffix.contains('{') {
        return error(format!(
            "two fields in one segment are ambiguous in `{text}`; separate them with a dot: `{}`",
            text.replace('{', ".{").replace("..", ".").trim_start_matches('.')
        ));
    }
    if suffix.contains('}') {
        return error(format!("unmatched `}}` in `{text}`; write `{{field}}`"));
    }
    let name = name.strip_prefix("r#").unwrap_or(name);
    if let Some(name) = name.strip_suffix("..").filter(|name| is_name(name)) {
        if !prefix.is_empty() || !suffix.is_empty() {
            return error(format!("`{{{name}..}}` takes whole segments; remove the literals around it in `{text}`"));
        }
        return Ok(Segment::Rest(Name { text: name.into(), span: part.span() }));
    }
    if !is_name(name) {
        return error(format!("`{{{name}}}` is not a field name; write only the name of a field between the braces"));
    }
    check_literal(prefix, part)?;
    check_literal(suffix, part)?;
    let name = Name { text: name.into(), span: part.span() };
    Ok(Segment::Field { prefix: prefix.into(), name, suffix: suffix.into() })
}

fn is_name(text: &str) -> bool {
    // Rustc decides what a valid identifier is. A later phase checks that the field exists.
    text.starts_with(|c: char| c == '_' || c.is_alphabetic()) && text.chars().all(|c| c == '_' || c.is_alphanumeric())
}

fn check_literal(text: &str, part: &LiteralPart<'_>) -> Result<(), Error> {
    let valid = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '/' | '_' | '=');
    match text.chars().find(|c| !valid(c)) {
        Some(character) => {
            Err(part
                .error(format!("invalid character {character:?} in the template; use `[-/_=a-zA-Z0-9]` in literals")))
        }
        None => Ok(()),
    }
}

/// A part of the literal.
struct LiteralPart<'a> {
    literal: &'a LitStr,
    start: usize,
    end: usize,
}

impl LiteralPart<'_> {
    /// Returns the span of the part if the compiler supports it (only nightly does), or else of the whole
    /// literal.
    fn span(&self) -> Span {
        let token = self.literal.token();
        let plain = token.to_string() == format!("\"{}\"", self.literal.value());
        let span = plain.then(|| token.subspan(self.start + 1..self.end + 1)).flatten();
        span.unwrap_or_else(|| self.literal.span())
    }

    fn error(&self, message: String) -> Error {
        Error::new(self.span(), message)
    }
}
