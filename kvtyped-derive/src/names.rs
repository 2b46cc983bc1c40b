//! The cases of names, and suggestions for misspelled names.

/// Returns the lower-case words of a name in `PascalCase` or `snake_case`. A sequence of capitals is one word
/// (`HTTPServer` is `http`, `server`).
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let characters: Vec<char> = name.chars().collect();
    let mut fresh = true;
    for (at, &character) in characters.iter().enumerate() {
        if character == '_' {
            fresh = true;
            continue;
        }
        let before = at.checked_sub(1).and_then(|at| characters.get(at)).copied().unwrap_or('_');
        let after = characters.get(at + 1).copied().unwrap_or('_');
        let begins = character.is_uppercase() && (!before.is_uppercase() || after.is_lowercase());
        match words.last_mut() {
            Some(word) if !fresh && !begins => word.extend(character.to_lowercase()),
            _ => words.push(character.to_lowercase().collect()),
        }
        fresh = false;
    }
    words
}

/// Converts `AppConfig` to `app_config`.
pub(crate) fn snake_case(name: &str) -> String {
    words(name).join("_")
}

/// A case of names, with the rules of serde.
#[derive(Clone, Copy)]
pub(crate) enum Case {
    Lower,
    Upper,
    Pascal,
    Camel,
    Snake,
    ScreamingSnake,
    Kebab,
    ScreamingKebab,
}

impl Case {
    /// All cases with their names.
    pub(crate) const ALL: [(&'static str, Self); 8] = [
        ("lowercase", Self::Lower),
        ("UPPERCASE", Self::Upper),
        ("PascalCase", Self::Pascal),
        ("camelCase", Self::Camel),
        ("snake_case", Self::Snake),
        ("SCREAMING_SNAKE_CASE", Self::ScreamingSnake),
        ("kebab-case", Self::Kebab),
        ("SCREAMING-KEBAB-CASE", Self::ScreamingKebab),
    ];

    /// Returns the name of a variant in this case, by the rules of serde.
    pub(crate) fn apply(self, variant: &str) -> String {
        match self {
            Self::Pascal => variant.to_owned(),
            Self::Lower => variant.to_ascii_lowercase(),
            Self::Upper => variant.to_ascii_uppercase(),
            Self::Camel => {
                let mut rest = variant.chars();
                rest.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(rest).collect()
            }
            Self::Snake => {
                let mut snake = String::new();
                for (at, character) in variant.char_indices() {
                    if at > 0 && character.is_uppercase() {
                        snake.push('_');
                    }
                    snake.push(character.to_ascii_lowercase());
                }
                snake
            }
            Self::ScreamingSnake => Self::Snake.apply(variant).to_ascii_uppercase(),
            Self::Kebab => Self::Snake.apply(variant).replace('_', "-"),
            Self::ScreamingKebab => Self::ScreamingSnake.apply(variant).replace('_', "-"),
        }
    }

    /// Applies the case to the name of a field, which is in `snake_case`.
    pub(crate) fn apply_to_field(self, field: &str) -> String {
        match self {
            Self::Lower | Self::Snake => field.to_owned(),
            Self::Upper | Self::ScreamingSnake => field.to_ascii_uppercase(),
            Self::Kebab => field.replace('_', "-"),
            Self::ScreamingKebab => field.to_ascii_uppercase().replace('_', "-"),
            Self::Camel => Self::Camel.apply(&Self::Pascal.apply_to_field(field)),
            Self::Pascal => {
                let word = |word: &str| {
                    let mut rest = word.chars();
                    let first = rest.next().map(|first| first.to_ascii_uppercase());
                    first.into_iter().chain(rest).collect::<String>()
                };
                field.split('_').map(word).collect()
            }
        }
    }
}

/// Returns the end of a message about an unknown name: the nearest valid name, or else all of them.
pub(crate) fn suggest<'a>(name: &str, valid: impl IntoIterator<Item = &'a str>) -> String {
    let valid: Vec<&str> = valid.into_iter().collect();
    let nearest = valid.iter().map(|valid| (distance(name, valid), *valid)).min();
    match nearest {
        Some((distance, nearest)) if distance <= nearest.len().max(3) / 3 => format!("did you mean `{nearest}`?"),
        Some(_) if valid.len() == 1 => format!("expected {}", list(valid)),
        Some(_) => format!("expected one of {}", list(valid)),
        None => "no name is valid here".into(),
    }
}

/// Formats names for a message: `` `a`, `b` ``.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Returns the number of characters to insert, drop, replace or swap with their neighbour. Ignores case.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    // The last two rows of the table, the newer one last.
    let mut older: Vec<usize> = Vec::new();
    let mut old: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut new = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (old[j] + usize::from(x != y)).min(old[j + 1] + 1).min(new[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *y && *x == b[j - 1] {
                best = best.min(older[j - 1] + 1);
            }
            new.push(best);
        }
        older = std::mem::replace(&mut old, new);
    }
    old.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Case, distance, snake_case, suggest};

    #[test]
    fn type_name_to_snake_case() {
        let cases = [("Session", "session"), ("AppConfig", "app_config"), ("HTTPServer", "http_server")];
        for (name, expected) in cases {
            assert_eq!(snake_case(name), expected);
        }
        assert_eq!(snake_case("Utf8Row"), "utf8_row");
        assert_eq!(snake_case("Already_Snake"), "already_snake");
    }

    #[test]
    fn each_case_is_applied() {
        let names: Vec<_> = Case::ALL.iter().map(|(_, case)| case.apply("EuWest")).collect();
        assert_eq!(names, ["euwest", "EUWEST", "EuWest", "euWest", "eu_west", "EU_WEST", "eu-west", "EU-WEST"]);
    }

    #[test]
    fn each_case_is_applied_to_fields() {
        let names: Vec<_> = Case::ALL.iter().map(|(_, case)| case.apply_to_field("eu_west")).collect();
        assert_eq!(names, ["eu_west", "EU_WEST", "EuWest", "euWest", "eu_west", "EU_WEST", "eu-west", "EU-WEST"]);
    }

    #[test]
    fn suggestion_is_nearest_name_or_list() {
        assert_eq!(distance("hsitory", "history"), 1);
        assert_eq!(suggest("histroy", ["history", "ttl"]), "did you mean `history`?");
        assert_eq!(suggest("timeout", ["history", "ttl"]), "expected one of `history`, `ttl`");
    }
}
