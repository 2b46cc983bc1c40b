//! A check of values against a published schema.

use kvtyped::schema::Schema;

use crate::json::Json;

/// A schema, as the tree of its canonical JSON.
#[derive(Debug, Clone)]
pub(crate) struct Shape(Json);

impl Shape {
    /// Reads the canonical JSON of a schema.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Schema::from_json(text).map_err(|error| error.to_string())?;
        let json = Json::parse(text.as_bytes()).map_err(|error| error.to_string())?;
        json.get("shape").cloned().map(Self).ok_or_else(|| "the text contains no shape".to_owned())
    }

    /// Checks a value. The reason of a mismatch names the place and the kinds, and contains nothing of the value.
    pub(crate) fn check(&self, value: &Json) -> Result<(), String> {
        let mut place = Vec::new();
        check(&self.0, &mut Vec::new(), value, &mut place)
            .map_err(|reason| if place.is_empty() { reason } else { format!("`{}`: {reason}", place.join(".")) })
    }
}

/// Checks a value. If it does not fit, `place` is the path of the part that does not.
fn check<'a>(
    shape: &'a Json,
    enclosing: &mut Vec<&'a Json>,
    value: &Json,
    place: &mut Vec<String>,
) -> Result<(), String> {
    if let Some(kind) = shape.text() {
        return leaf(kind, value);
    }
    if let Some(distance) = shape.get("again").and_then(Json::unsigned) {
        let at = enclosing.len().saturating_sub(usize::try_from(distance).unwrap_or(usize::MAX));
        let Some(target) = enclosing.get(at).copied() else { return Ok(()) };
        let inner = enclosing.split_off(at);
        let checked = check(target, enclosing, value, place);
        enclosing.truncate(at);
        enclosing.extend(inner);
        return checked;
    }
    enclosing.push(shape);
    let checked = nested(shape, enclosing, value, place);
    enclosing.pop();
    checked
}

fn nested<'a>(
    shape: &'a Json,
    enclosing: &mut Vec<&'a Json>,
    value: &Json,
    place: &mut Vec<String>,
) -> Result<(), String> {
    let Json::Object(parts) = shape else { return Ok(()) };
    let setting = |name: &str| shape.get(name);
    let Some((kind, content)) =
        parts.iter().find(|(kind, _)| !matches!(kind.as_str(), "deny_unknown_fields" | "other" | "tag"))
    else {
        return Ok(());
    };
    match (kind.as_str(), content) {
        ("option", _) if *value == Json::Null => Ok(()),
        ("option", inner) => check(inner, enclosing, value, place),
        ("seq", item) => match value {
            Json::List(items) => each(items.iter().map(|value| (item, value)), enclosing, place),
            // A list of bytes.
            value if is_tagged(value) => Ok(()),
            value => Err(mismatch("a list", value)),
        },
        ("tuple", Json::List(shapes)) => match value {
            Json::List(items) if items.len() == shapes.len() => each(shapes.iter().zip(items), enclosing, place),
            Json::List(items) => Err(format!("expected a list of {}, found a list of {}", shapes.len(), items.len())),
            value => Err(mismatch("a list", value)),
        },
        ("map", Json::List(shapes)) => match (value, shapes.as_slice()) {
            (value, _) if is_tagged(value) => Ok(()),
            (Json::Object(fields), [key, item]) => fields.iter().try_for_each(|(name, value)| {
                map_key(key, name)?;
                below(name, place, |place| check(item, enclosing, value, place))
            }),
            (value, _) => Err(mismatch("a map", value)),
        },
        ("struct", Json::Object(fields)) => {
            let denies = setting("deny_unknown_fields").is_some_and(Json::is_true);
            structure(fields, denies, None, enclosing, value, place)
        }
        ("enum", variants) => {
            let others = setting("other").is_some_and(Json::is_true);
            variant(variants, setting("tag").and_then(Json::text), others, enclosing, value, place)
        }
        _ => Ok(()),
    }
}

/// Checks the items of a list, whose numbers are their places.
fn each<'a, 'v>(
    pairs: impl Iterator<Item = (&'a Json, &'v Json)>,
    enclosing: &mut Vec<&'a Json>,
    place: &mut Vec<String>,
) -> Result<(), String> {
    pairs.enumerate().try_for_each(|(number, (shape, value))| {
        below(&number.to_string(), place, |place| check(shape, enclosing, value, place))
    })
}

/// Checks a part. Its name stays in the place if it does not fit.
fn below(
    name: &str,
    place: &mut Vec<String>,
    check: impl FnOnce(&mut Vec<String>) -> Result<(), String>,
) -> Result<(), String> {
    place.push(name.to_owned());
    check(place)?;
    place.pop();
    Ok(())
}

fn structure<'a>(
    fields: &'a [(String, Json)],
    denies_unknown: bool,
    tag: Option<&str>,
    enclosing: &mut Vec<&'a Json>,
    value: &Json,
    place: &mut Vec<String>,
) -> Result<(), String> {
    let found = match value {
        Json::Object(found) => found,
        // The fields in the order of their declaration, which a schema does not contain.
        Json::List(_) => return Ok(()),
        value => return Err(mismatch("an object", value)),
    };
    for (name, field) in fields {
        let value = found.iter().find(|(key, _)| is_named(name, field, key)).map(|(_, value)| value);
        let is_required = field.get("presence").is_none();
        match (value, field.get("type")) {
            (Some(value), Some(shape)) => below(name, place, |place| check(shape, enclosing, value, place))?,
            (None, _) if is_required => return Err(format!("the field `{name}` is missing")),
            _ => {}
        }
    }
    let is_known = |key: &str| tag == Some(key) || fields.iter().any(|(name, field)| is_named(name, field, key));
    match found.iter().find(|(key, _)| denies_unknown && !is_known(key)) {
        Some((key, _)) => Err(format!("the field `{key}` is unknown")),
        None => Ok(()),
    }
}

/// Whether a name or one of its aliases is this one.
fn is_named(name: &str, described: &Json, key: &str) -> bool {
    let Some(Json::List(aliases)) = described.get("aliases") else { return name == key };
    name == key || aliases.iter().any(|alias| alias.text() == Some(key))
}

fn variant<'a>(
    variants: &'a Json,
    tag: Option<&str>,
    others: bool,
    enclosing: &mut Vec<&'a Json>,
    value: &Json,
    place: &mut Vec<String>,
) -> Result<(), String> {
    let (name, content) = match (value, tag) {
        (value, Some(tag)) => match value.get(tag).and_then(Json::text) {
            Some(name) => (name, Some(value)),
            None => return Err(format!("the field `{tag}` with the name of the variant is missing")),
        },
        (Json::Text(name), None) => (name.as_str(), None),
        (Json::Object(fields), None) if fields.len() == 1 => (fields[0].0.as_str(), Some(&fields[0].1)),
        (value, None) => return Err(mismatch("a variant", value)),
    };
    let Json::Object(variants) = variants else { return Ok(()) };
    let found = variants.iter().find(|(variant, described)| is_named(variant, described, name));
    let Some((_, described)) = found else {
        return if others { Ok(()) } else { Err("the variant is unknown".to_owned()) };
    };
    match (described.get("content"), content) {
        (None, None | Some(Json::Null)) => Ok(()),
        (None, Some(_)) if tag.is_some() => Ok(()),
        (None, Some(_)) => Err("the variant has no content".to_owned()),
        (Some(_), None) => Err("the content of the variant is missing".to_owned()),
        (Some(shape), Some(value)) => {
            let fields = shape.get("struct");
            match (tag, fields) {
                (Some(tag), Some(Json::Object(fields))) => {
                    let denies = shape.get("deny_unknown_fields").is_some_and(Json::is_true);
                    enclosing.push(shape);
                    let checked = structure(fields, denies, Some(tag), enclosing, value, place);
                    enclosing.pop();
                    checked
                }
                (Some(_), _) => Ok(()),
                (None, _) => below(name, place, |place| check(shape, enclosing, value, place)),
            }
        }
    }
}

fn leaf(kind: &str, value: &Json) -> Result<(), String> {
    let fits = match (kind, value) {
        ("open", _) => true,
        // JSON shows what it cannot express under a name with `$`.
        (_, value) if is_tagged(value) => !matches!(kind, "bool" | "char" | "text" | "parsed_text" | "unit"),
        ("bool", Json::Bool(_)) | ("text" | "parsed_text", Json::Text(_)) | ("unit", Json::Null) => true,
        ("unit", Json::List(items)) => items.is_empty(),
        ("char", Json::Text(text)) => text.chars().count() == 1,
        ("bytes", Json::Text(_)) => true,
        ("bytes", Json::List(items)) => items.iter().all(|item| item.unsigned().is_some_and(|byte| byte < 256)),
        ("f32" | "f64", Json::Float(_) | Json::Unsigned(_) | Json::Signed(_)) => true,
        (kind, Json::Unsigned(number)) => holds(kind, i128::from(*number)),
        (kind, Json::Signed(number)) => holds(kind, i128::from(*number)),
        // 128-bit integers that `u64` and `i64` do not hold.
        ("u128" | "i128", Json::Float(_)) => true,
        _ => false,
    };
    match fits {
        true => Ok(()),
        false => Err(mismatch(kind, value)),
    }
}

/// Whether an integer type holds a number.
fn holds(kind: &str, number: i128) -> bool {
    let Ok(bits) = kind.get(1..).unwrap_or_default().parse::<u32>() else { return false };
    match kind.as_bytes().first() {
        Some(b'u') => number >= 0 && (bits >= 127 || number < 1 << bits),
        Some(b'i') => bits >= 127 || (-(1 << (bits - 1))..1 << (bits - 1)).contains(&number),
        _ => false,
    }
}

fn map_key(shape: &Json, name: &str) -> Result<(), String> {
    match shape.text() {
        Some("text" | "parsed_text" | "open" | "bool") | None => Ok(()),
        Some("char") => leaf("char", &Json::from(name)),
        Some(kind) => match name.parse() {
            Ok(number) if holds(kind, number) => Ok(()),
            _ => Err(format!("expected keys of the type {kind}, found another key")),
        },
    }
}

/// Whether the value is one that JSON cannot express, such as `{"$bin":"…"}`.
fn is_tagged(value: &Json) -> bool {
    matches!(value, Json::Object(fields) if fields.len() == 1 && fields[0].0.starts_with('$'))
}

fn mismatch(expected: &str, found: &Json) -> String {
    let found = match found {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Unsigned(_) | Json::Signed(_) => "a number that does not fit",
        Json::Float(_) => "a fraction",
        Json::Text(_) => "a text",
        Json::List(_) => "a list",
        Json::Object(_) => "an object",
    };
    format!("expected {expected}, found {found}")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is used")]
    struct Account {
        #[serde(alias = "ident")]
        id: u8,
        name: Option<String>,
        kind: Kind,
        tags: Vec<String>,
        limits: std::collections::BTreeMap<u16, (i8, bool)>,
        parent: Option<Box<Account>>,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is used")]
    enum Kind {
        Free,
        Paid { since: u64 },
    }

    fn check(text: &str) -> Result<(), String> {
        let shape = Shape::parse(&Schema::probe::<Account>().to_json()).unwrap();
        shape.check(&Json::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn value_of_the_type_fits() {
        let inner = r#"{"ident":1,"name":"a","kind":{"Paid":{"since":9}},"tags":["x"],"limits":{"7":[-1,true]}}"#;
        assert_eq!(check(inner), Ok(()));
        let outer = format!(r#"{{"id":255,"name":null,"kind":"Free","tags":[],"limits":{{}},"parent":{inner}}}"#);
        assert_eq!(check(&outer), Ok(()));
    }

    #[test]
    fn mismatch_names_its_place_and_not_its_value() {
        let of = |field: &str, value: &str| {
            let mut fields = vec![("id", "1"), ("kind", "\"Free\""), ("tags", "[]"), ("limits", "{}")];
            fields.retain(|(name, _)| *name != field);
            fields.push((field, value));
            let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            check(&format!("{{{}}}", fields.join(","))).unwrap_err()
        };
        assert_eq!(of("id", "256"), "`id`: expected u8, found a number that does not fit");
        assert_eq!(of("id", "\"secret\""), "`id`: expected u8, found a text");
        assert_eq!(of("kind", "\"Other\""), "`kind`: the variant is unknown");
        assert_eq!(of("kind", r#"{"Paid":{}}"#), "`kind.Paid`: the field `since` is missing");
        assert_eq!(of("tags", r#"["a",7]"#), "`tags.1`: expected text, found a number that does not fit");
        assert_eq!(of("limits", r#"{"7":[200,true]}"#), "`limits.7.0`: expected i8, found a number that does not fit");
        assert!(of("limits", r#"{"x":[1,true]}"#).contains("keys of the type u16"));
        assert_eq!(of("parent", r#"{"id":"x"}"#), "`parent.id`: expected u8, found a text");
        assert!(check("[]").is_ok(), "a schema contains no order of fields");
        assert_eq!(check("7").unwrap_err(), "expected an object, found a number that does not fit");
    }

    #[test]
    fn integers_have_their_ranges() {
        for (kind, number, fits) in [
            ("u8", 255, true),
            ("u8", 256, false),
            ("u8", -1, false),
            ("i64", i128::from(i64::MIN), true),
            ("u64", i128::from(u64::MAX), true),
            ("i8", -129, false),
            ("u128", i128::MAX, true),
        ] {
            assert_eq!(holds(kind, number), fits, "{kind} {number}");
        }
    }
}
