//! What a deserializer says, without the content that it quotes.

/// What serde and its formats call the things that a value can be.
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

/// Keeps of a serde message what the type says (expected kinds, names of fields) and drops what the value says.
///
/// A message that serde does not word exactly so was written by hand and may say anything: nothing of it is kept. One
/// that imitates serde's words to the letter is taken for serde's.
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
        // A type without any has nothing to expect, and the content may hold the words that are looked for below.
        if rest.ends_with(&format!("`, there are no {what}s")) {
            return Some(format!("unknown {what}, there are no {what}s"));
        }
        let (_, expected) = rest.rsplit_once("`, expected ")?;
        return Some(format!("unknown {what}, expected {expected}"));
    }
    // `invalid type: string "secret", expected u32`: what comes before the first quote is the kind of what was found,
    // what comes behind the last `, expected ` is said by the type.
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
    fn a_message_keeps_the_type_and_drops_the_content() {
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
