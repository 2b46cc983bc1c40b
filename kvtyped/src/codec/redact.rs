//! Messages of deserializers, without the content that they quote.

/// The names that serde and its formats use for kinds of values.
const KINDS: [&str; 17] = [
    "Option value",
    "boolean",
    "byte array",
    "character",
    "enum",
    "floating point",
    "integer",
    "map",
    "newtype struct",
    "newtype variant",
    "null",
    "sequence",
    "string",
    "struct variant",
    "tuple variant",
    "unit value",
    "unit variant",
];

/// Keeps the parts of a serde message that come from the type (expected kinds, names of fields), and drops the parts
/// that come from the value.
///
/// A message with another wording is a custom one and may contain anything, so this function drops it. A custom message
/// with exactly serde's wording passes as serde's.
pub(super) fn message(text: &str) -> String {
    known(text).unwrap_or_else(|| "the value does not fit the type".to_owned())
}

fn known(text: &str) -> Option<String> {
    for start in ["missing field `", "duplicate field `"] {
        if let Some(name) = text.strip_prefix(start) {
            return name.strip_suffix('`').filter(|name| !name.contains('`')).map(|_| text.to_owned());
        }
    }
    for (start, what) in [("unknown field `", "field"), ("unknown variant `", "variant")] {
        let Some(rest) = text.strip_prefix(start) else { continue };
        // A type without fields or variants expects none, and the content may contain the words that the code below
        // searches for.
        if rest.ends_with(&format!("`, there are no {what}s")) {
            return Some(format!("unknown {what}, there are no {what}s"));
        }
        let (_, expected) = rest.rsplit_once("`, expected ")?;
        return Some(format!("unknown {what}, expected {expected}"));
    }
    // `invalid type: string "secret", expected u32`: the text before the first quote is the kind of the found value,
    // and the text after the last `, expected ` comes from the type.
    let (found, expected) = text.rsplit_once(", expected ")?;
    if let Some(length) = found.strip_prefix("invalid length ") {
        return length.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.to_owned());
    }
    let (start, found) = ["invalid type: ", "invalid value: "]
        .into_iter()
        .find_map(|start| found.strip_prefix(start).map(|found| (start, found)))?;
    let kind = found.split(['"', '`', '\'']).next().unwrap_or_default().trim_end();
    KINDS.contains(&kind).then(|| format!("{start}{kind}, expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::message;

    #[test]
    fn message_keeps_type_and_drops_content() {
        let nothing = "the value does not fit the type";
        let cases = [
            ("invalid type: string \"s3cret\", expected u32", "invalid type: string, expected u32"),
            ("invalid type: string \"s3cret, expected x\", expected u32", "invalid type: string, expected u32"),
            ("invalid type: null, expected u32", "invalid type: null, expected u32"),
            ("invalid length 3, expected a pair", "invalid length 3, expected a pair"),
            ("unknown variant `s3cret`, expected `a` or `b`", "unknown variant, expected `a` or `b`"),
            ("unknown field `, expected s3cret`, there are no fields", "unknown field, there are no fields"),
            ("unknown field ``, expected s3cret`, there are no fields", "unknown field, there are no fields"),
            ("missing field `user`", "missing field `user`"),
            ("missing field `user` of `s3cret`", nothing),
            ("no such user: s3cret", nothing),
            ("invalid value: s3cret", nothing),
            ("invalid value: s3cret, expected a user", nothing),
            ("invalid type: string s3cret, expected a user", nothing),
            ("invalid length s3cret, expected a user", nothing),
            ("unknown variant s3cret, expected a user", nothing),
        ];
        for (text, expected) in cases {
            assert_eq!(message(text), expected);
        }
    }
}
