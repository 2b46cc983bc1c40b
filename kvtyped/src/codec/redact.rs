//! What a deserializer says, without the content that it quotes.

/// Keeps of a serde message what the type says (expected kinds, names of fields) and drops what the value says.
pub(super) fn message(text: &str) -> String {
    for fixed in ["missing field `", "duplicate field `"] {
        if let Some(name) = text.strip_prefix(fixed).and_then(|rest| rest.split_once('`')) {
            return format!("{fixed}{}`", name.0);
        }
    }
    // `invalid type: string "secret", expected u32`: what comes before the first quote is the kind of what was found,
    // what comes behind the last `, expected ` is said by the type.
    let known = ["invalid type: ", "invalid value: ", "invalid length ", "unknown variant ", "unknown field "];
    if known.iter().any(|start| text.starts_with(start))
        && let Some((found, expected)) = text.rsplit_once(", expected ")
    {
        let kind = found.split(['"', '`', '\'']).next().unwrap_or_default().trim_end();
        return format!("{kind}, expected {expected}");
    }
    "the value does not fit the type".to_owned()
}

#[cfg(test)]
mod tests {
    use super::message;

    #[test]
    fn a_message_keeps_the_type_and_drops_the_content() {
        let cases = [
            ("invalid type: string \"s3cret\", expected u32", "invalid type: string, expected u32"),
            ("invalid type: string \"s3cret, expected x\", expected u32", "invalid type: string, expected u32"),
            ("unknown variant `s3cret`, expected `a` or `b`", "unknown variant, expected `a` or `b`"),
            ("missing field `user`", "missing field `user`"),
            ("no such user: s3cret", "the value does not fit the type"),
        ];
        for (text, expected) in cases {
            assert_eq!(message(text), expected);
        }
    }
}
