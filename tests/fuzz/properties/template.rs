//! Key templates: a parsed template reproduces its text, and every invalid template is reported.

#[path = "../../../kvtyped-derive/src/template.rs"]
#[allow(dead_code, reason = "the derive reads more of it")]
mod read;

use proc_macro2::Span;
use syn::LitStr;

use self::read::Segment;
use crate::ctxt::Ctxt;

/// Checks arbitrary bytes.
///
/// # Panics
///
/// Panics if a property does not hold.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut ctxt = Ctxt::default();
    let template = read::parse(&LitStr::new(&text, Span::call_site()), &mut ctxt);
    let taken = ctxt.end_of_phase();
    assert_eq!(taken.is_ok(), is_template(&text), "{text:?}: {taken:?}");
    assert_eq!(template.text, text);
    if taken.is_err() {
        return;
    }
    let together = template.segments.iter().map(|segment| match segment {
        Segment::Literal(text) => text.clone(),
        Segment::Field { prefix, name, suffix } => format!("{prefix}{{{}}}{suffix}", name.text),
        Segment::Rest(name) => format!("{{{}..}}", name.text),
    });
    assert_eq!(together.collect::<Vec<_>>().join("."), text.replace("{r#", "{"));
    // Empty and non-empty fields produce keys with the same number of segments.
    for (field, segments) in [("=_", template.segments.len()), ("x", template.segments.len())] {
        let key = template.segments.iter().map(|segment| match segment {
            Segment::Literal(text) => text.clone(),
            Segment::Field { prefix, suffix, .. } => format!("{prefix}{field}{suffix}"),
            Segment::Rest(_) => field.to_owned(),
        });
        let key = key.collect::<Vec<_>>().join(".");
        assert_eq!(key.split('.').count(), segments);
        assert!(key.len() > 1024 || kvtyped::Key::new(key.as_str()).is_ok(), "{text:?} makes {key:?}");
    }
}

/// Checks a template against the grammar: segments of legal characters with at most one field, and no repeated field. A
/// last segment `{field..}` follows the rules of `{field}`.
fn is_template(text: &str) -> bool {
    let rest = text.strip_suffix("..}").and_then(|text| text.rsplit_once('{'));
    match rest.filter(|(before, name)| (before.is_empty() || before.ends_with('.')) && !name.contains('.')) {
        Some((before, name)) => has_segments(&format!("{before}{{{name}}}")),
        None => has_segments(text),
    }
}

fn has_segments(text: &str) -> bool {
    let mut names = Vec::new();
    let segment = |text: &str| {
        let (prefix, rest) = text.split_once('{').unwrap_or((text, ""));
        let (name, suffix) = match rest.split_once('}') {
            Some((name, suffix)) => (Some(name), suffix),
            None => (None, rest),
        };
        let legal = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-/_=".contains(&byte));
        let name = name.map(|name| name.strip_prefix("r#").unwrap_or(name));
        let fresh = name.is_none_or(|name| !names.contains(&name.to_owned()));
        names.extend(name.map(str::to_owned));
        let closed = name.is_some() == text.contains('{');
        let named = name.is_none_or(|name| {
            name.starts_with(|c: char| c == '_' || c.is_alphabetic())
                && name.chars().all(|c| c == '_' || c.is_alphanumeric())
        });
        !text.is_empty() && closed && named && fresh && legal(prefix) && legal(suffix)
    };
    text.split('.').all(segment)
}
