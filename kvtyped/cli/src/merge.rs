//! A merge of two changes of one JSON value.

use crate::json::Json;

/// Applies the change from `before` to `after` to `newest`. Where both changed the same field, `after` wins.
pub(crate) fn merge(before: &Json, after: &Json, newest: &Json) -> Json {
    if after == before {
        return newest.clone();
    }
    let (Json::Object(old), Json::Object(changed), Json::Object(fields)) = (before, after, newest) else {
        return after.clone();
    };
    let field = |fields: &[(String, Json)], key: &str| {
        fields.iter().find(|(field, _)| field == key).map(|(_, value)| value.clone())
    };
    let mut merged = Vec::new();
    for (key, value) in fields {
        match (field(old, key), field(changed, key)) {
            (Some(old), Some(changed)) => merged.push((key.clone(), merge(&old, &changed, value))),
            // Both added the field.
            (None, Some(changed)) => merged.push((key.clone(), changed)),
            (Some(_), None) => {}
            (None, None) => merged.push((key.clone(), value.clone())),
        }
    }
    for (key, value) in changed {
        let was_removed = field(fields, key).is_none();
        let is_change = field(old, key).as_ref() != Some(value);
        if was_removed && is_change {
            merged.push((key.clone(), value.clone()));
        }
    }
    Json::Object(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_changes_are_kept() {
        let parse = |text: &str| Json::parse(text.as_bytes()).unwrap();
        for (before, after, newest, merged) in [
            (r#"{"a":1,"b":1}"#, r#"{"a":2,"b":1}"#, r#"{"a":1,"b":5,"c":1}"#, r#"{"a":2,"b":5,"c":1}"#),
            (r#"{"a":1,"b":1}"#, r#"{"b":1}"#, r#"{"a":1,"b":5}"#, r#"{"b":5}"#),
            (r#"{"a":1,"b":1}"#, r#"{"a":1,"b":2}"#, r#"{"b":1}"#, r#"{"b":2}"#),
            (r#"{"a":{"x":1,"y":1}}"#, r#"{"a":{"x":2,"y":1}}"#, r#"{"a":{"x":1,"y":3}}"#, r#"{"a":{"x":2,"y":3}}"#),
            (r#"{"a":1}"#, r#"{"a":null}"#, r#"{"a":1,"b":2}"#, r#"{"a":null,"b":2}"#),
            (r#"{"a":1}"#, r#"{"a":1,"n":1}"#, r#"{"a":9}"#, r#"{"a":9,"n":1}"#),
            ("1", "2", "3", "2"),
            ("1", "1", "3", "3"),
        ] {
            assert_eq!(merge(&parse(before), &parse(after), &parse(newest)).line(), merged);
        }
    }
}
