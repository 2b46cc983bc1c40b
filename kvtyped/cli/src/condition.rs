//! Conditions on the fields of values: `--where PATH=VALUE`.

use std::cmp::Ordering;
use std::str::FromStr;

use crate::codec::Codec;
use crate::entry::Shown;
use crate::json::Json;
use crate::path::Path;

/// The conditions of a command that selects records.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Where {
    /// Only records with this value in a field: PATH=VALUE, such as `user=ada`, `items[0].id=7` or `visits>=3`. Operators:
    /// `=`, `!=`, `<`, `<=`, `>`, `>=`. Several conditions must all hold. Reads every record of the filter
    #[arg(long = "where", value_name = "PATH=VALUE")]
    conditions: Vec<Condition>,
}

/// A condition on one field. A missing field counts as `null`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Condition {
    path: Path,
    operator: Operator,
    /// The value as it was given.
    text: String,
    /// The value as JSON, if it is a number, a text in quotes, `true`, `false` or `null`.
    json: Option<Json>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The operators. `<=` and `>=` come before `<` and `>`, because the first match is used.
const OPERATORS: [(&str, Operator); 6] = [
    ("!=", Operator::NotEqual),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("=", Operator::Equal),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

impl Where {
    /// Whether every record is selected.
    pub(crate) fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Returns whether a record is selected.
    ///
    /// # Errors
    ///
    /// Returns the reason if the value has no fields that the tool can read.
    pub(crate) fn selects(&self, shown: &Shown) -> Result<bool, String> {
        let Some(record) = shown.record.as_ref().filter(|_| !self.is_empty()) else { return Ok(self.is_empty()) };
        let value = record.decoded.value.as_ref().map_err(Clone::clone)?;
        match record.decoded.codec {
            Some(Codec::Bytes) => Err("the codec of the value is unknown".to_owned()),
            _ => Ok(self.conditions.iter().all(|condition| condition.holds(value))),
        }
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, rest) = Path::split(text).map_err(|failure| failure.message().to_owned())?;
        if rest.is_empty() {
            return Err("it has no operator; use one of = != < <= > >=".to_owned());
        }
        let found = OPERATORS.iter().find_map(|(sign, operator)| Some((*operator, rest.strip_prefix(sign)?)));
        let (operator, value) = found.ok_or("an exclamation mark begins only the operator !=")?;
        if value.starts_with('=') {
            return Err("`==` is not an operator; use `=`".to_owned());
        }
        let json = Json::parse(value.as_bytes()).ok().filter(|json| json.depth() == 0);
        Ok(Self { path, operator, text: value.to_owned(), json })
    }
}

impl Condition {
    fn holds(&self, value: &Json) -> bool {
        let found = self.path.find(value).unwrap_or(&Json::Null);
        match self.operator {
            Operator::Equal => self.equals(found),
            Operator::NotEqual => !self.equals(found),
            Operator::Less => self.order(found) == Some(Ordering::Less),
            Operator::LessOrEqual => self.order(found).is_some_and(Ordering::is_le),
            Operator::Greater => self.order(found) == Some(Ordering::Greater),
            Operator::GreaterOrEqual => self.order(found).is_some_and(Ordering::is_ge),
        }
    }

    fn equals(&self, found: &Json) -> bool {
        match (found, &self.json) {
            (Json::Null | Json::Bool(_), wanted) => wanted.as_ref() == Some(found),
            // A list or an object equals its JSON.
            (Json::List(_) | Json::Object(_), _) => Json::parse(self.text.as_bytes()).is_ok_and(|json| json == *found),
            _ => self.order(found) == Some(Ordering::Equal),
        }
    }

    /// Returns the order of a field and the value: numbers by size, and texts by their characters. Returns `None` if
    /// the two have different types, or are neither numbers nor texts.
    fn order(&self, found: &Json) -> Option<Ordering> {
        match (found, &self.json) {
            (Json::Text(found), Some(Json::Text(wanted))) => Some(found.as_str().cmp(wanted)),
            (Json::Text(found), _) => Some(found.as_str().cmp(&self.text)),
            (found, Some(wanted)) => order_of_numbers(found, wanted),
            _ => None,
        }
    }
}

fn order_of_numbers(a: &Json, b: &Json) -> Option<Ordering> {
    let integer = |json: &Json| match json {
        Json::Unsigned(number) => Some(i128::from(*number)),
        Json::Signed(number) => Some(i128::from(*number)),
        _ => None,
    };
    let float = |json: &Json| match json {
        Json::Float(number) => Some(*number),
        other => integer(other).map(|number| number as f64),
    };
    match (integer(a), integer(b)) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => float(a)?.partial_cmp(&float(b)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(condition: &str) -> bool {
        let value = r#"{"phase":"done","tries":3,"price":2.50,"big":18446744073709551615,"id":"7","at":"2026-11-30T05:42:10Z",
            "deep":{"ok":true,"none":null},"items":[{"id":1},{"id":22}],"quoted":"a=b","empty":""}"#;
        condition.parse::<Condition>().expect("a condition").holds(&Json::parse(value.as_bytes()).expect("JSON"))
    }

    #[test]
    fn fields_are_compared_by_their_type() {
        for condition in [
            "phase=done",
            r#"phase="done""#,
            "phase!=open",
            "phase<e",
            "tries=3",
            "tries=3.0",
            "tries!=4",
            "tries>2",
            "tries>=3",
            "tries<=3",
            "tries<10",
            "tries>-1",
            "price=2.5",
            "price<2.51",
            "big=18446744073709551615",
            "big>18446744073709551614",
            "id=7",
            r#"id="7""#,
            "at>2026-11-30",
            "at<2026-12",
            "deep.ok=true",
            "deep.none=null",
            "missing=null",
            "phase!=null",
            "missing!=1",
            "items[1].id=22",
            "items[1].id>3",
            "items.0.id=1",
            "$.items[0].id=1",
            "items[9].id!=1",
            r#"items[0]={"id":1}"#,
            "quoted=a=b",
            "empty=",
        ] {
            assert!(holds(condition), "{condition}");
        }
        for condition in [
            "phase=don",
            "phase!=done",
            "tries=x",
            "tries>x",
            "tries=",
            "tries<3",
            "big<18446744073709551615",
            // Texts are compared by their characters.
            "id<10",
            "deep.ok=1",
            "deep.ok>false",
            "missing<1",
            "missing=",
            "items[9].id=1",
            "deep=null",
        ] {
            assert!(!holds(condition), "{condition}");
        }
    }

    #[test]
    fn condition_without_operator_is_refused() {
        for text in ["phase", "phase==done", "phase!done", "items[0=1", ""] {
            assert!(text.parse::<Condition>().is_err(), "{text}");
        }
    }
}
