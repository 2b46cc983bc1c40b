//! Key templates of model cards, such as `{tenant}.{id}`.

/// A key template.
#[derive(Debug, Clone)]
pub(crate) struct Template(Vec<Segment>);

#[derive(Debug, Clone)]
enum Segment {
    Literal(String),
    /// `order-{id}`: any text between a prefix and a suffix.
    Field(String, String),
    /// `{path..}`: one or more segments.
    Rest,
}

impl Template {
    /// Parses the template of a card.
    pub(crate) fn parse(text: &str) -> Self {
        let (mut segments, mut start, mut in_field) = (Vec::new(), 0, false);
        for (at, letter) in text.char_indices() {
            match letter {
                '{' => in_field = true,
                '}' => in_field = false,
                '.' if !in_field => {
                    segments.push(Segment::parse(&text[start..at]));
                    start = at + 1;
                }
                _ => {}
            }
        }
        segments.push(Segment::parse(&text[start..]));
        Self(segments)
    }

    /// Returns the number of literal bytes of the template, if it matches the key.
    pub(crate) fn matches(&self, key: &str) -> Option<usize> {
        let mut parts = key.split('.');
        let mut literals = 0;
        for segment in &self.0 {
            let part = parts.next()?;
            match segment {
                Segment::Literal(text) if text == part => literals += text.len(),
                Segment::Field(prefix, suffix) => {
                    part.strip_prefix(prefix.as_str())?.strip_suffix(suffix.as_str())?;
                    literals += prefix.len() + suffix.len();
                }
                Segment::Rest => return Some(literals),
                Segment::Literal(_) => return None,
            }
        }
        parts.next().is_none().then_some(literals)
    }
}

impl Segment {
    fn parse(text: &str) -> Self {
        let Some((prefix, rest)) = text.split_once('{') else { return Self::Literal(text.to_owned()) };
        match rest.split_once('}') {
            Some((name, "")) if name.ends_with("..") => Self::Rest,
            Some((_, suffix)) => Self::Field(prefix.to_owned(), suffix.to_owned()),
            None => Self::Literal(text.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_matches_its_keys() {
        for (template, key, matches) in [
            ("{tenant}.{id}", "acme.7", true),
            ("{tenant}.{id}", "acme", false),
            ("{tenant}.{id}", "acme.7.x", false),
            ("doc.{name}", "doc.a", true),
            ("doc.{name}", "other.a", false),
            ("order-{id}.total", "order-7.total", true),
            ("order-{id}.total", "7.total", false),
            ("files.{path..}", "files.a.b.c", true),
            ("files.{path..}", "files", false),
            ("app", "app", true),
        ] {
            assert_eq!(Template::parse(template).matches(key).is_some(), matches, "{template} {key}");
        }
    }
}
