//! Paths to a part of a JSON value, and conditions on that part.

use std::fmt;

use crate::fail::Failure;
use crate::json::Json;

/// A path in a value: `status.phase`, `items[0].id`, `labels["a.b"]`.
///
/// A `.` or `$` may come first. An item of a list is also `items.0`. A path that begins with `/` is a JSON pointer
/// (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Path(Vec<Step>);

/// A step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// A field of an object. If the value is a list and the name is a number, an item.
    Name(String),
    /// An item of a list.
    Item(usize),
}

impl Path {
    /// Parses a path. A path without steps is the whole value.
    #[cfg(test)]
    fn parse(text: &str) -> Result<Self, Failure> {
        match split(text)? {
            (path, None) => Ok(path),
            (_, Some(_)) => Err(invalid(text, "it has a `=`").hint("write such a name as `[\"a=b\"]`")),
        }
    }

    /// Returns the part of the value. `None` if the value has no such part.
    fn find<'a>(&self, value: &'a Json) -> Option<&'a Json> {
        self.0.iter().try_fold(value, |value, step| match (value, step) {
            (Json::List(items), Step::Name(name)) => items.get(index(name)?),
            (Json::List(items), Step::Item(at)) => items.get(*at),
            (object, Step::Name(name)) => object.get(name),
            (_, Step::Item(_)) => None,
        })
    }
}

/// Writes the path as `parse` reads it.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("$");
        }
        for (place, step) in self.0.iter().enumerate() {
            match step {
                Step::Item(at) => write!(f, "[{at}]")?,
                Step::Name(name) if name.is_empty() || name.contains(['.', '[', ']', '=', '"', '$', '/']) => {
                    write!(f, "[{}]", Json::from(name).line())?;
                }
                Step::Name(name) if place == 0 => f.write_str(name)?,
                Step::Name(name) => write!(f, ".{name}")?,
            }
        }
        Ok(())
    }
}

/// A condition on a value: `PATH=VALUE`, or `PATH` for a part that exists.
///
/// The value is JSON. A text that is not JSON is that text: `phase=done`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Condition {
    path: Path,
    wanted: Option<Json>,
}

impl Condition {
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let (path, wanted) = split(text)?;
        let wanted = wanted.map(|value| Json::parse(value.as_bytes()).unwrap_or_else(|_| Json::from(value)));
        Ok(Self { path, wanted })
    }

    /// Whether the value meets the condition.
    pub(crate) fn holds(&self, value: &Json) -> bool {
        match (self.path.find(value), &self.wanted) {
            (Some(found), Some(wanted)) => found == wanted,
            (found, None) => found.is_some(),
            (None, Some(_)) => false,
        }
    }
}

/// Writes the condition as `parse` reads it.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.wanted {
            Some(wanted) => write!(f, "{}={}", self.path, wanted.line()),
            None => write!(f, "{}", self.path),
        }
    }
}

/// Splits a text into a path and the text after the first `=` outside of brackets.
fn split(text: &str) -> Result<(Path, Option<&str>), Failure> {
    if text.starts_with('/') {
        let (pointer, value) = text.split_once('=').map_or((text, None), |(pointer, value)| (pointer, Some(value)));
        let names = pointer.split('/').skip(1).map(|name| Step::Name(name.replace("~1", "/").replace("~0", "~")));
        return Ok((Path(names.collect()), value));
    }
    let mut steps = Vec::new();
    // Else `$` begins the name of a field.
    let is_root = |rest: &&str| rest.is_empty() || rest.starts_with(['.', '[', '=']);
    let mut rest = text.strip_prefix('$').filter(is_root).unwrap_or(text);
    // A path may begin with a name, and each later name follows a dot.
    let (mut is_start, mut is_name) = (true, true);
    loop {
        rest = match rest.chars().next() {
            None => return Ok((Path(steps), None)),
            Some('=') => return Ok((Path(steps), Some(&rest[1..]))),
            Some('[') => {
                let (step, after) = bracket(text, &rest[1..])?;
                steps.push(step);
                is_name = false;
                after
            }
            Some('.') => {
                let is_ended = matches!(rest[1..].chars().next(), None | Some('.' | '['));
                // `.` alone is the whole value, and `.[0]` its first item.
                if is_ended && (!is_start || rest[1..].starts_with('.')) {
                    return Err(invalid(text, "a name is missing after a dot"));
                }
                is_name = true;
                &rest[1..]
            }
            Some(_) if !is_name => return Err(invalid(text, "a dot or a bracket is missing after `]`")),
            Some(_) => {
                let end = rest.find(['.', '[', '=']).unwrap_or(rest.len());
                steps.push(Step::Name(rest[..end].to_owned()));
                &rest[end..]
            }
        };
        is_start = false;
    }
}

/// Reads the step after an opening bracket, and returns the text after the closing one.
fn bracket<'a>(text: &str, rest: &'a str) -> Result<(Step, &'a str), Failure> {
    let unclosed = || invalid(text, "a bracket is not closed");
    if rest.starts_with('"') {
        let mut names = serde_json::Deserializer::from_str(rest).into_iter::<String>();
        let name = names.next().and_then(Result::ok).ok_or_else(|| invalid(text, "a name in brackets is not JSON"))?;
        let after = rest[names.byte_offset()..].strip_prefix(']').ok_or_else(unclosed)?;
        return Ok((Step::Name(name), after));
    }
    let (number, after) = rest.split_once(']').ok_or_else(unclosed)?;
    match index(number) {
        Some(at) => Ok((Step::Item(at), after)),
        None => Err(invalid(text, "brackets contain a number or a quoted name")),
    }
}

/// Returns the number of an item. A sign and leading zeros are not allowed.
fn index(text: &str) -> Option<usize> {
    let is_plain = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| is_plain)
}

fn invalid(path: &str, reason: &str) -> Failure {
    Failure::usage(format!("invalid path `{path}`: {reason}"))
        .hint("a path names fields and items: `status.phase`, `items[0].id`, `labels[\"a.b\"]`, `/status/phase`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value() -> Json {
        let text =
            br#"{"phase":"done","tries":3,"deep":{"ok":true},"list":[{"id":7},[1,2]],"a.b":{"c=d":1},"x/y":5,"":6}"#;
        Json::parse(text).unwrap()
    }

    #[test]
    fn conditions_compare_json_values() {
        for (condition, holds) in [
            (".phase=done", true),
            ("phase=\"done\"", true),
            ("$.phase=done", true),
            ("/phase=done", true),
            ("tries=3", true),
            ("tries=\"3\"", false),
            ("tries=4", false),
            ("deep.ok=true", true),
            ("/deep/ok=true", true),
            ("deep={\"ok\":true}", true),
            ("deep", true),
            ("none", false),
            ("none=1", false),
            ("list[0].id=7", true),
            (".list[0].id=7", true),
            ("$.list[0][\"id\"]=7", true),
            ("list.0.id=7", true),
            ("/list/0/id=7", true),
            ("list[1][1]=2", true),
            ("list[2]", false),
            ("list[01]", false),
            ("list.01", false),
            ("phase[0]", false),
            ("deep[0]", false),
            ("[\"a.b\"][\"c=d\"]=1", true),
            ("a.b", false),
            ("x/y=5", true),
            ("/x~1y=5", true),
            ("[\"\"]=6", true),
            ("/=6", true),
        ] {
            let holds_now = Condition::parse(condition).is_ok_and(|condition| condition.holds(&value()));
            assert_eq!(holds_now, holds, "{condition}");
        }
        let list = Json::parse(b"[1]").unwrap();
        for condition in ["[0]=1", "$[0]=1", ".[0]=1", "/0=1", "=[1]", "$=[1]", ".=[1]"] {
            assert!(Condition::parse(condition).is_ok_and(|condition| condition.holds(&list)), "{condition}");
        }
    }

    #[test]
    fn paths_are_written_as_they_are_read() {
        for (text, shown) in [
            ("$.status.phase", "status.phase"),
            ("/status/phase", "status.phase"),
            ("list[0][\"id\"]", "list[0].id"),
            ("[\"a.b\"].c", "[\"a.b\"].c"),
            ("$", "$"),
            ("/a~1b", "[\"a/b\"]"),
        ] {
            let path = Path::parse(text).unwrap();
            assert_eq!(path.to_string(), shown);
            assert_eq!(Path::parse(shown).unwrap(), path);
        }
        assert_eq!(Condition::parse(".phase=done").unwrap().to_string(), "phase=\"done\"");
    }

    #[test]
    fn invalid_paths_are_refused() {
        for text in ["a[0", "a[x]", "a[-1]", "a[01]", "a[\"b]", "a[\"b\"", "a..b", "a.", "a.[0]", "..a", "a[0]b", "a[]"]
        {
            assert!(Path::parse(text).is_err(), "{text}");
        }
        assert!(Path::parse("a=1").is_err());
    }
}
