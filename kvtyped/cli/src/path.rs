//! Paths to a part of a JSON value.

use std::fmt;

use crate::fail::Failure;
use crate::json::Json;

/// A path in a value: `status.phase`, `items[0].id`, `labels["a.b"]`.
///
/// A `.` or `$` may come first. An item of a list is also `items.0`. A path that begins with `/` is a JSON pointer
/// (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path(Vec<Step>);

/// The characters that begin an operator after a path.
const OPERATORS: [char; 4] = ['=', '!', '<', '>'];

/// The characters of a name that is written in brackets.
const RESERVED: [char; 10] = ['.', '[', ']', '"', '$', '/', '=', '!', '<', '>'];

/// A step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// A field of an object. If the value is a list and the name is a number, an item.
    Name(String),
    /// An item of a list.
    Item(usize),
}

impl Path {
    /// Splits a condition into its path and the rest, which begins with an operator: `=`, `!`, `<` or `>`. The rest is
    /// empty if there is no operator. A path without steps is the whole value.
    pub(crate) fn split(text: &str) -> Result<(Self, &str), Failure> {
        if text.starts_with('/') {
            let (pointer, rest) = text.split_at(text.find(OPERATORS).unwrap_or(text.len()));
            let names = pointer.split('/').skip(1).map(|name| Step::Name(name.replace("~1", "/").replace("~0", "~")));
            return Ok((Self(names.collect()), rest));
        }
        let mut steps = Vec::new();
        // Otherwise, `$` is the first character of a field name.
        let is_root = |rest: &&str| rest.is_empty() || rest.starts_with(['.', '[']) || rest.starts_with(OPERATORS);
        let mut rest = text.strip_prefix('$').filter(is_root).unwrap_or(text);
        // A path may begin with a name, and each later name follows a dot.
        let (mut is_start, mut is_name) = (true, true);
        loop {
            rest = match rest.chars().next() {
                None => return Ok((Self(steps), rest)),
                Some(operator) if OPERATORS.contains(&operator) => return Ok((Self(steps), rest)),
                Some('[') => {
                    let (step, after) = bracket(text, &rest[1..])?;
                    steps.push(step);
                    is_name = false;
                    after
                }
                Some('.') => {
                    let after = &rest[1..];
                    let is_ended = after.is_empty() || after.starts_with(['.', '[']) || after.starts_with(OPERATORS);
                    // `.` alone is the whole value, and `.[0]` its first item.
                    if is_ended && (!is_start || after.starts_with('.')) {
                        return Err(invalid(text, "a name is missing after a dot"));
                    }
                    is_name = true;
                    after
                }
                Some(_) if !is_name => return Err(invalid(text, "a dot or a bracket is missing after `]`")),
                Some(_) => {
                    let is_end = |letter: char| ['.', '['].contains(&letter) || OPERATORS.contains(&letter);
                    let end = rest.find(is_end).unwrap_or(rest.len());
                    steps.push(Step::Name(rest[..end].to_owned()));
                    &rest[end..]
                }
            };
            is_start = false;
        }
    }

    /// Returns the part of the value at the path. Returns `None` if the value has no such part.
    pub(crate) fn find<'a>(&self, value: &'a Json) -> Option<&'a Json> {
        self.0.iter().try_fold(value, |value, step| match (value, step) {
            (Json::List(items), Step::Name(name)) => items.get(index(name)?),
            (Json::List(items), Step::Item(at)) => items.get(*at),
            (object, Step::Name(name)) => object.get(name),
            (_, Step::Item(_)) => None,
        })
    }
}

/// Writes the path in the syntax that [`Path::split`] parses.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("$");
        }
        for (place, step) in self.0.iter().enumerate() {
            match step {
                Step::Item(at) => write!(f, "[{at}]")?,
                Step::Name(name) if name.is_empty() || name.contains(RESERVED) => {
                    write!(f, "[{}]", Json::from(name).line())?;
                }
                Step::Name(name) if place == 0 => f.write_str(name)?,
                Step::Name(name) => write!(f, ".{name}")?,
            }
        }
        Ok(())
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
    fn paths_name_fields_and_items() {
        for (text, found) in [
            ("phase", "\"done\""),
            (".phase", "\"done\""),
            ("$.phase", "\"done\""),
            ("/phase", "\"done\""),
            ("deep.ok", "true"),
            ("/deep/ok", "true"),
            ("list[0].id", "7"),
            (".list[0].id", "7"),
            ("$.list[0][\"id\"]", "7"),
            ("list.0.id", "7"),
            ("/list/0/id", "7"),
            ("list[1][1]", "2"),
            ("[\"a.b\"][\"c=d\"]", "1"),
            ("x/y", "5"),
            ("/x~1y", "5"),
            ("[\"\"]", "6"),
            ("/", "6"),
            ("none", ""),
            ("list[2]", ""),
            ("list.01", ""),
            ("phase[0]", ""),
            ("deep[0]", ""),
            ("a.b", ""),
        ] {
            let (path, rest) = Path::split(text).unwrap();
            assert_eq!((path.find(&value()).map(Json::line).unwrap_or_default().as_str(), rest), (found, ""), "{text}");
        }
        let list = Json::parse(b"[1]").unwrap();
        for text in ["[0]", "$[0]", ".[0]", "/0"] {
            assert_eq!(Path::split(text).unwrap().0.find(&list), Some(&Json::Unsigned(1)), "{text}");
        }
        for text in ["", "$", "."] {
            assert_eq!(Path::split(text).unwrap().0.find(&list), Some(&list), "{text}");
        }
    }

    #[test]
    fn path_ends_at_an_operator() {
        for (text, path, rest) in [
            ("phase=done", "phase", "=done"),
            ("/phase=a/b", "phase", "=a/b"),
            ("list[0].id!=7", "list[0].id", "!=7"),
            ("[\"c=d\"]=1", "[\"c=d\"]", "=1"),
            ("tries>=3", "tries", ">=3"),
            ("$=1", "$", "=1"),
            ("a=b=c", "a", "=b=c"),
        ] {
            let (found, after) = Path::split(text).unwrap();
            assert_eq!((found.to_string().as_str(), after), (path, rest), "{text}");
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
            let (path, _) = Path::split(text).unwrap();
            assert_eq!(path.to_string(), shown);
            assert_eq!(Path::split(shown).unwrap().0, path);
        }
    }

    #[test]
    fn invalid_paths_are_refused() {
        for text in ["a[0", "a[x]", "a[-1]", "a[01]", "a[\"b]", "a[\"b\"", "a..b", "a.", "a.[0]", "..a", "a[0]b", "a[]"]
        {
            assert!(Path::split(text).is_err(), "{text}");
        }
    }
}
