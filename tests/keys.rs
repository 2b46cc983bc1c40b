//! Keys: escaping, validity, typed keys, and patterns.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use kvtyped::key::{
    Key, KeyBuilder, KeyError, KeyParser, KeySegment, ModelKey, Pattern, Patterns, SegmentError, Token, escape,
    unescape,
};
use proptest::prelude::*;
use proptest::sample::select;

/// Two adjacent texts after a literal, so that a text that leaks into the next segment is detected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct PairKey {
    tenant: String,
    name: String,
}

impl ModelKey for PairKey {
    const TEMPLATE: &'static str = "acct.{tenant}.{name}";

    fn write(&self, out: &mut KeyBuilder) {
        out.literal("acct.").segment(&self.tenant).literal(".").segment(&self.name);
    }

    fn parse(parser: &mut KeyParser<'_>) -> Result<Self, KeyError> {
        parser.literal("acct")?;
        Ok(Self { tenant: parser.segment("tenant", "", "")?, name: parser.segment("name", "", "")? })
    }

    fn pattern() -> Pattern {
        Pattern::new().literal("acct").segment::<String>(None, "", "").segment::<String>(None, "", "")
    }
}

/// Fields of several types, two of them between literals of their segment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct MixedKey {
    tenant: String,
    id: i64,
    open: bool,
    letter: char,
}

impl ModelKey for MixedKey {
    const TEMPLATE: &'static str = "t-{tenant}.n{id}/v1.{open}.{letter}";

    fn write(&self, out: &mut KeyBuilder) {
        out.literal("t-").segment(&self.tenant).literal(".n").segment(&self.id).literal("/v1.");
        out.segment(&self.open).literal(".").segment(&self.letter);
    }

    fn parse(parser: &mut KeyParser<'_>) -> Result<Self, KeyError> {
        Ok(Self {
            tenant: parser.segment("tenant", "t-", "")?,
            id: parser.segment("id", "n", "/v1")?,
            open: parser.segment("open", "", "")?,
            letter: parser.segment("letter", "", "")?,
        })
    }

    fn pattern() -> Pattern {
        let pattern = Pattern::new().segment::<String>(None, "t-", "").segment::<i64>(None, "n", "/v1");
        pattern.segment::<bool>(None, "", "").segment::<char>(None, "", "")
    }
}

macro_rules! text_of_key {
    ($($key:ty),*) => {$(
        impl fmt::Display for $key {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut out = KeyBuilder::new();
                self.write(&mut out);
                f.write_str(out.as_str())
            }
        }

        impl FromStr for $key {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                Self::decode(text)
            }
        }
    )*};
}

text_of_key!(PairKey, MixedKey);

/// Generates texts, with an increased share of characters that are special in keys, subjects and escapes.
fn text() -> impl Strategy<Value = String> {
    let special =
        select(vec!['.', '*', '>', '=', ' ', '\0', '_', '-', '/', '2', 'E', 'e', '\r', '\n', '$', 'ß', '\u{10FFFF}']);
    let character = prop_oneof![3 => special, 2 => proptest::char::range('0', 'z'), 1 => any::<char>()];
    proptest::collection::vec(character, 0..12).prop_map(String::from_iter)
}

/// Generates texts that resemble segments: with canonical, non-canonical and broken escapes.
fn segment() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => select(vec!["=2E", "=C3=9F", "=00", "=3D", "a", "Z", "7", "-", "/", "_"]),
        3 => select(vec!["=41", "=5F", "=2D", "=30", "=2e", "=c3=9f"]),
        1 => select(vec!["=", "=_", "=FF", "=E2=82", "=0", ".", "*", ">", " ", "ß", "+", "\0"]),
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn is_segment(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-/_=".contains(&byte))
}

/// Returns the segment that a builder writes for a value.
fn written<S: KeySegment>(value: &S) -> String {
    let mut out = KeyBuilder::new();
    out.segment(value);
    out.as_str().to_owned()
}

fn read_back<S: KeySegment>(value: &S) -> Result<S, SegmentError> {
    let segment = written(value);
    assert!(is_segment(&segment), "{segment:?}");
    S::parse_segment(&unescape(&segment)?)
}

proptest! {
    #[test]
    fn text_round_trips_through_segment(text in text()) {
        let segment = escape(&text);
        prop_assert_eq!(unescape(&segment).unwrap(), &*text);
    }

    #[test]
    fn arbitrary_string_round_trips_through_segment(text in any::<String>()) {
        let segment = escape(&text);
        prop_assert_eq!(unescape(&segment).unwrap(), &*text);
    }

    #[test]
    fn escaped_text_is_a_legal_segment(text in text()) {
        let segment = escape(&text);
        prop_assert!(is_segment(&segment), "{:?}", segment);
        prop_assert_eq!(Key::new(&*segment).unwrap().segments().count(), 1);
    }

    #[test]
    fn plain_text_is_not_escaped(text in "[-/_a-zA-Z0-9]{1,20}") {
        prop_assert_eq!(escape(&text), &*text);
        prop_assert_eq!(unescape(&text).unwrap(), &*text);
    }

    #[test]
    fn escape_is_injective(a in text(), b in text()) {
        prop_assert_eq!(a == b, escape(&a) == escape(&b));
    }

    #[test]
    fn unescape_accepts_only_canonical_segments(
        segment in prop_oneof![8 => segment(), 1 => text(), 1 => any::<String>()],
    ) {
        if let Ok(text) = unescape(&segment) {
            prop_assert_eq!(escape(&text), &*segment);
        }
    }

    #[test]
    fn unescape_never_panics(bytes in any::<Vec<u8>>()) {
        let segment = String::from_utf8_lossy(&bytes);
        if let Ok(text) = unescape(&segment) {
            prop_assert_eq!(escape(&text), &*segment);
        }
    }

    #[test]
    fn distinct_pairs_have_distinct_keys(a in (text(), text()), b in (text(), text())) {
        let (a, b) = (PairKey { tenant: a.0, name: a.1 }, PairKey { tenant: b.0, name: b.1 });
        prop_assert_eq!(a == b, a.to_string() == b.to_string());
    }

    #[test]
    fn moving_text_between_fields_changes_key(text in text(), cut in any::<prop::sample::Index>()) {
        let all = text.chars().collect::<Vec<_>>();
        let cut = cut.index(all.len() + 1);
        let pair = |at: usize| PairKey { tenant: all[..at].iter().collect(), name: all[at..].iter().collect() };
        for other in (0..=all.len()).filter(|other| *other != cut) {
            prop_assert_ne!(pair(cut).to_string(), pair(other).to_string());
        }
    }

    #[test]
    fn key_segment_count_matches_template(
        tenant in text(),
        name in text(),
        id: i64,
        open: bool,
        letter: char,
    ) {
        let pair = PairKey { tenant: tenant.clone(), name }.encode().unwrap();
        prop_assert_eq!(pair.segments().count(), 3);
        prop_assert_eq!(pair.segments().next(), Some("acct"));
        prop_assert_eq!(MixedKey { tenant, id, open, letter }.encode().unwrap().segments().count(), 4);
    }

    #[test]
    fn display_and_from_str_are_inverse(tenant in text(), name in text(), id: i64, open: bool, letter: char) {
        let pair = PairKey { tenant: tenant.clone(), name };
        prop_assert_eq!(pair.to_string().parse::<PairKey>().unwrap(), pair.clone());
        prop_assert_eq!(PairKey::decode(pair.encode().unwrap().as_str()).unwrap(), pair);
        let mixed = MixedKey { tenant, id, open, letter };
        prop_assert_eq!(mixed.to_string().parse::<MixedKey>().unwrap(), mixed.clone());
        prop_assert_eq!(MixedKey::decode(mixed.encode().unwrap().as_str()).unwrap(), mixed);
    }

    #[test]
    fn decoded_key_displays_as_input(
        segments in proptest::collection::vec(segment(), 0..5),
        head in 0..3_u8,
    ) {
        let text = match head {
            0 => segments.join("."),
            1 => format!("acct.{}", segments.join(".")),
            _ => format!("t-{}.n7/v1.true.{}", segments.join(""), segments.join("")),
        };
        if let Ok(key) = PairKey::decode(&text) {
            prop_assert_eq!(key.to_string(), &*text);
            prop_assert!(key.encode().is_ok());
        }
        if let Ok(key) = MixedKey::decode(&text) {
            prop_assert_eq!(key.to_string(), &*text);
            prop_assert!(key.encode().is_ok());
        }
    }

    #[test]
    fn integers_round_trip(
        (a, b, c, d, e, f) in any::<(u8, u16, u32, u64, u128, usize)>(),
        (g, h, i, j, k, l) in any::<(i8, i16, i32, i64, i128, isize)>(),
    ) {
        prop_assert_eq!(read_back(&a).unwrap(), a);
        prop_assert_eq!(read_back(&b).unwrap(), b);
        prop_assert_eq!(read_back(&c).unwrap(), c);
        prop_assert_eq!(read_back(&d).unwrap(), d);
        prop_assert_eq!(read_back(&e).unwrap(), e);
        prop_assert_eq!(read_back(&f).unwrap(), f);
        prop_assert_eq!(read_back(&g).unwrap(), g);
        prop_assert_eq!(read_back(&h).unwrap(), h);
        prop_assert_eq!(read_back(&i).unwrap(), i);
        prop_assert_eq!(read_back(&j).unwrap(), j);
        prop_assert_eq!(read_back(&k).unwrap(), k);
        prop_assert_eq!(read_back(&l).unwrap(), l);
    }

    #[test]
    fn strings_bools_and_characters_round_trip(text in text(), flag: bool, letter: char) {
        prop_assert_eq!(&read_back(&text).unwrap(), &text);
        let boxed: Box<str> = text.as_str().into();
        prop_assert_eq!(&*read_back(&boxed).unwrap(), &*text);
        let shared: Arc<str> = text.as_str().into();
        prop_assert_eq!(&*read_back(&shared).unwrap(), &*text);
        prop_assert_eq!(written(&boxed), written(&text));
        prop_assert_eq!(read_back(&flag).unwrap(), flag);
        prop_assert_eq!(read_back(&letter).unwrap(), letter);
    }

    #[test]
    fn parsed_integers_display_as_input(text in "[-+ ]?0{0,2}[0-9]{0,4}[ _.]?") {
        if let Ok(value) = i16::parse_segment(&text) {
            prop_assert_eq!(value.to_string(), &*text);
        }
        if let Ok(value) = u64::parse_segment(&text) {
            prop_assert_eq!(value.to_string(), &*text);
        }
    }

    #[test]
    fn key_parser_matches_grammar(text in prop_oneof![text(), "[-/_=.a-zA-Z0-9]{0,12}"]) {
        let legal = text.split('.').all(is_segment);
        prop_assert_eq!(Key::new(text.clone()).is_ok(), legal);
        if let Ok(key) = Key::new(text.clone()) {
            prop_assert_eq!(key.to_string(), text);
        }
    }
}

#[test]
fn empty_text_round_trips_through_segment() {
    assert_eq!(escape(""), "=_");
    assert_eq!(unescape("=_").unwrap(), "");
    assert_eq!(unescape(""), Err(SegmentError::Escape));
}

#[test]
fn noncanonical_segments_are_rejected() {
    let refused = [
        "=", "=2", "=2e", "=ZZ", "=41", "=5F", "=2D", "=2F", "=30", "a=", "a=_", "=_=_", "=_a", ".", "a.b", "*", ">",
        " ", "ß",
    ];
    for segment in refused {
        assert_eq!(unescape(segment), Err(SegmentError::Escape), "{segment:?}");
    }
    for segment in ["=FF", "=C3", "=E2=82", "=ED=A0=80", "=C0=AE", "=F4=90=80=80"] {
        assert_eq!(unescape(segment), Err(SegmentError::Utf8), "{segment:?}");
    }
}

#[test]
fn invalid_segment_values_are_rejected() {
    fn refused<S: KeySegment>(texts: &[&str]) {
        for text in texts {
            assert!(matches!(S::parse_segment(text), Err(SegmentError::Value { .. })), "{text:?}");
        }
    }
    refused::<u8>(&["", "+7", "007", "-0", "00", " 7", "7 ", "256", "-1", "7.0", "0x7", "٧"]);
    refused::<u64>(&["18446744073709551616", "1_000", "1e3"]);
    refused::<u128>(&["340282366920938463463374607431768211456"]);
    refused::<i8>(&["", "+7", "-0", "-07", "128", "-129", "--1", "−1"]);
    refused::<i64>(&["9223372036854775808", "-9223372036854775809"]);
    refused::<bool>(&["", "True", "TRUE", "1", "0", "yes", " true", "true\0"]);
    refused::<char>(&["", "ab", "e\u{301}"]);
}

#[test]
fn integer_bounds_round_trip() {
    macro_rules! ends {
        ($($type:ty),*) => {$(
            for value in [<$type>::MIN, <$type>::MAX, 0] {
                assert_eq!(read_back(&value), Ok(value));
            }
        )*};
    }
    ends!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize);
}

#[test]
fn legal_keys_are_accepted() {
    for text in ["a", "a.b", "a.b.c", "-", "/", "_", "=", "=_", "_kv.x", "a/b-c_d=e.7", "0", "-.-"] {
        assert_eq!(Key::new(text).map(|key| key.to_string()), Ok(text.to_owned()));
        assert_eq!(text.parse::<Key>().unwrap().as_str(), text);
    }
    assert_eq!(Key::new("a".repeat(1024)).unwrap().as_str().len(), Key::MAX_BYTES);
}

#[test]
fn key_displays_its_text() {
    let key = Key::new("acme.7").unwrap();
    assert_eq!((key.as_str(), key.as_ref(), &*key.to_string()), ("acme.7", "acme.7", "acme.7"));
    assert_eq!(format!("{key:?}"), "Key(\"acme.7\")");
}

#[test]
fn illegal_keys_are_rejected() {
    let empty_segment = |at| KeyError::EmptySegment { at };
    let illegal = |character, at| KeyError::IllegalCharacter { character, at };
    let cases = [
        ("", KeyError::Empty),
        (".", empty_segment(0)),
        ("..", empty_segment(0)),
        (".a", empty_segment(0)),
        ("a.", empty_segment(2)),
        ("a..b", empty_segment(2)),
        ("a.b..", empty_segment(4)),
        ("*", illegal('*', 0)),
        ("a.*", illegal('*', 2)),
        ("a.>", illegal('>', 2)),
        ("a b", illegal(' ', 1)),
        ("a\0", illegal('\0', 1)),
        ("a\r\nPUB", illegal('\r', 1)),
        ("a\tb", illegal('\t', 1)),
        ("$KV", illegal('$', 0)),
        ("a+b", illegal('+', 1)),
        ("a:b", illegal(':', 1)),
        ("aß", illegal('ß', 1)),
    ];
    for (text, error) in cases {
        assert_eq!(Key::new(text), Err(error), "{text:?}");
    }
    assert_eq!(Key::new("a".repeat(1025)), Err(KeyError::TooLong { bytes: 1025 }));
}

#[test]
fn overlong_typed_key_neither_encodes_nor_decodes() {
    let key = |length: usize| PairKey { tenant: "a".repeat(length), name: "b".to_owned() };
    assert_eq!(key(1017).encode().unwrap().as_str().len(), 1024);
    assert_eq!(key(1018).encode(), Err(KeyError::TooLong { bytes: 1025 }));
    assert_eq!(PairKey::decode(&key(1017).to_string()), Ok(key(1017)));
    assert_eq!(PairKey::decode(&key(1018).to_string()), Err(KeyError::TooLong { bytes: 1025 }));
    assert!(matches!(PairKey { tenant: "*".repeat(400), name: String::new() }.encode(), Err(KeyError::TooLong { .. })));
}

#[test]
fn key_not_matching_template_is_rejected() {
    for text in ["", "acct", "acct.a", "acct.a.b.c", "Acct.a.b", "acct.a.b.", ".acct.a.b", "acc.t.a.b"] {
        assert_eq!(PairKey::decode(text), Err(KeyError::Shape { template: PairKey::TEMPLATE }), "{text:?}");
    }
    for text in ["acct..b", "acct.a.", "acct.*.b", "acct.a.>", "acct.a.=2e"] {
        assert!(
            matches!(PairKey::decode(text), Err(KeyError::Segment { error: SegmentError::Escape, .. })),
            "{text:?}"
        );
    }
    for text in ["x-a.n1/v1.true.c", "t-a.n1.true.c", "t-a.1/v1.true.c", "t-a.n1/v1.true"] {
        assert_eq!(MixedKey::decode(text), Err(KeyError::Shape { template: MixedKey::TEMPLATE }), "{text:?}");
    }
    for (text, field) in [
        ("t-.n1/v1.true.c", "tenant"),
        ("t-a.n/v1.true.c", "id"),
        ("t-a.n+1/v1.true.c", "id"),
        ("t-a.n1/v1.True.c", "open"),
        ("t-a.n1/v1.true.cc", "letter"),
    ] {
        assert!(matches!(MixedKey::decode(text), Err(KeyError::Segment { field: at, .. }) if at == field), "{text:?}");
    }
}

/// Returns whether NATS matches a subject with a filter.
fn nats_matches(filter: &str, subject: &str) -> bool {
    let (filter, subject) = (filter.split('.').collect::<Vec<_>>(), subject.split('.').collect::<Vec<_>>());
    for (index, token) in filter.iter().enumerate() {
        match (*token, subject.get(index)) {
            (_, None) => return false,
            (">", Some(_)) => return index + 1 == filter.len(),
            ("*", Some(_)) => {}
            (token, Some(other)) if token == *other => {}
            _ => return false,
        }
    }
    filter.len() == subject.len()
}

const DEPTH: u32 = 5;

/// Returns every key of one to five segments over a small alphabet.
fn keys(alphabet: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    let mut last = vec![String::new()];
    for _ in 0..DEPTH {
        last = last
            .iter()
            .flat_map(|head| {
                alphabet
                    .iter()
                    .map(move |tail| if head.is_empty() { (*tail).to_owned() } else { format!("{head}.{tail}") })
            })
            .collect();
        all.extend(last.iter().cloned());
    }
    all
}

/// A segment of a pattern: a literal, open, or half open.
#[derive(Clone, Debug)]
enum Part {
    Literal(&'static str),
    Value(&'static str),
    Any,
    Between(&'static str, &'static str),
}

fn build(parts: &[Part]) -> Pattern {
    parts.iter().fold(Pattern::new(), |pattern, part| match part {
        Part::Literal(text) => pattern.literal(text),
        Part::Value(text) => pattern.segment(Some(&(*text).to_owned()), "", ""),
        Part::Any => pattern.segment::<String>(None, "", ""),
        Part::Between(prefix, suffix) => pattern.segment::<String>(None, prefix, suffix),
    })
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let part = prop_oneof![
        2 => select(vec!["a", "b"]).prop_map(Part::Literal),
        1 => select(vec!["a", "b"]).prop_map(Part::Value),
        2 => Just(Part::Any),
    ];
    let parts = proptest::collection::vec(part, 1..4).prop_map(|parts| build(&parts));
    prop_oneof![19 => parts, 1 => Just(Pattern::all())]
}

fn half_open_pattern() -> impl Strategy<Value = Pattern> {
    let part = prop_oneof![
        1 => select(vec!["ax", "bx"]).prop_map(Part::Literal),
        1 => Just(Part::Any),
        2 => (select(vec!["", "a", "b"]), select(vec!["", "x", "y"])).prop_map(|ends| Part::Between(ends.0, ends.1)),
    ];
    let parts = proptest::collection::vec(part, 1..4).prop_map(|parts| build(&parts));
    prop_oneof![19 => parts, 1 => Just(Pattern::all())]
}

/// Generates patterns, including results of `disjoint`, which may have an open end where the inputs had none.
fn tailed_pattern() -> impl Strategy<Value = Pattern> {
    proptest::collection::vec(pattern(), 1..5).prop_flat_map(|patterns| {
        let all = patterns.iter().cloned().chain(Pattern::disjoint(&patterns)).collect::<Vec<_>>();
        select(all)
    })
}

fn matched<'k>(pattern: &Pattern, keys: &'k [String]) -> BTreeSet<&'k str> {
    keys.iter().map(String::as_str).filter(|key| pattern.matches(key)).collect()
}

fn filtered<'k>(pattern: &Pattern, keys: &'k [String]) -> BTreeSet<&'k str> {
    let filter = pattern.to_string();
    keys.iter().map(String::as_str).filter(|key| nats_matches(&filter, key)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn pattern_matches_like_subject_filter(pattern in tailed_pattern()) {
        let keys = keys(&["a", "b", "c"]);
        prop_assert_eq!(matched(&pattern, &keys), filtered(&pattern, &keys));
    }

    #[test]
    fn half_open_pattern_matches_subset_of_filter(pattern in half_open_pattern()) {
        let keys = keys(&["ax", "a", "b-y", "bx"]);
        prop_assert!(matched(&pattern, &keys).is_subset(&filtered(&pattern, &keys)));
    }

    #[test]
    fn covers_agrees_with_matched_keys(a in tailed_pattern(), b in tailed_pattern()) {
        let keys = keys(&["a", "b", "c"]);
        prop_assert_eq!(a.covers(&b), filtered(&b, &keys).is_subset(&filtered(&a, &keys)), "{} {}", a, b);
    }

    #[test]
    fn overlaps_agrees_with_shared_keys(a in tailed_pattern(), b in tailed_pattern()) {
        let keys = keys(&["a", "b", "c"]);
        prop_assert_eq!(a.overlaps(&b), !filtered(&a, &keys).is_disjoint(&filtered(&b, &keys)), "{} {}", a, b);
        prop_assert_eq!(a.overlaps(&b), b.overlaps(&a));
    }

    #[test]
    fn disjoint_filters_cover_all_keys_once(patterns in proptest::collection::vec(tailed_pattern(), 0..7)) {
        let keys = keys(&["a", "b", "c"]);
        let disjoint = Pattern::disjoint(&patterns);
        prop_assert!(disjoint.len() <= patterns.len());
        for (index, a) in disjoint.iter().enumerate() {
            for b in &disjoint[index + 1..] {
                prop_assert!(!a.overlaps(b), "{} {}", a, b);
                prop_assert!(filtered(a, &keys).is_disjoint(&filtered(b, &keys)), "{} {}", a, b);
            }
        }
        for key in &keys {
            let wanted = patterns.iter().any(|pattern| pattern.matches(key));
            prop_assert!(!wanted || disjoint.iter().any(|pattern| pattern.matches(key)), "{}", key);
        }
    }

    #[test]
    fn disjoint_half_open_patterns_cover_all_keys(patterns in proptest::collection::vec(half_open_pattern(), 0..6)) {
        let disjoint = Pattern::disjoint(&patterns);
        for key in keys(&["ax", "a", "b-y", "bx"]) {
            let wanted = patterns.iter().any(|pattern| pattern.matches(&key));
            prop_assert!(!wanted || disjoint.iter().any(|pattern| pattern.matches(&key)), "{}", key);
            prop_assert!(!wanted || disjoint.iter().any(|pattern| nats_matches(&pattern.to_string(), &key)), "{}", key);
        }
        for (index, a) in disjoint.iter().enumerate() {
            prop_assert!(disjoint[index + 1..].iter().all(|b| !a.overlaps(b)));
        }
    }

    #[test]
    fn disjoint_patterns_are_unchanged(a in pattern(), b in pattern()) {
        if !a.overlaps(&b) {
            prop_assert_eq!(Pattern::disjoint(&[a.clone(), b.clone()]), vec![a, b]);
        }
    }

    #[test]
    fn pattern_value_stays_within_its_segment(value in text(), prefix in "[a-z-]{0,3}", suffix in "[a-z/]{0,3}") {
        let pattern = Pattern::new().literal("acct").segment(Some(&value), &prefix, &suffix).literal("end");
        prop_assert_eq!(pattern.tokens().len(), 3);
        prop_assert!(pattern.tokens().iter().all(|token| matches!(token, Token::Literal(_))));
        let exact = pattern.as_exact().unwrap();
        let key = Key::new(exact.clone()).unwrap();
        prop_assert_eq!(key.segments().count(), 3);
        prop_assert!(pattern.matches(&exact));
        prop_assert_eq!(Pattern::exact(&key), pattern);
    }

    #[test]
    fn value_pattern_matches_only_keys_of_value(tenant in text(), other in text(), name in text()) {
        let of_tenant = Pattern::new().literal("acct").segment(Some(&tenant), "", "").segment::<String>(None, "", "");
        let key = |tenant: &String| PairKey { tenant: tenant.clone(), name: name.clone() }.to_string();
        prop_assert!(of_tenant.matches(&key(&tenant)));
        prop_assert_eq!(of_tenant.matches(&key(&other)), tenant == other);
        prop_assert!(nats_matches(&of_tenant.to_string(), &key(&tenant)));
    }

    #[test]
    fn model_pattern_matches_all_its_keys(
        tenant in text(),
        name in text(),
        id: i64,
        open: bool,
        letter: char,
    ) {
        let mixed = MixedKey { tenant: tenant.clone(), id, open, letter };
        prop_assert!(MixedKey::pattern().matches(&mixed.to_string()));
        let pair = PairKey { tenant, name };
        prop_assert!(PairKey::pattern().matches(&pair.to_string()));
        prop_assert!(!PairKey::pattern().matches(&mixed.to_string()));
        prop_assert!(Pattern::all().matches(&mixed.to_string()));
    }
}

#[test]
fn pattern_displays_as_subject_filter() {
    let text = "a.*".to_owned();
    assert_eq!(Pattern::all().to_string(), ">");
    assert_eq!(PairKey::pattern().to_string(), "acct.*.*");
    assert_eq!(MixedKey::pattern().to_string(), "*.*.*.*");
    assert_eq!(Pattern::new().segment(Some(&text), "u-", "").segment::<u8>(None, "", "").to_string(), "u-a=2E=2A.*");
    assert_eq!(Pattern::new().segment(Some(&String::new()), "u-", "-x").to_string(), "u-=_-x");
}

#[test]
fn exact_pattern_matches_only_its_key() {
    let key = Key::new("acct.a=2Eb.7").unwrap();
    let pattern = Pattern::exact(&key);
    assert_eq!(pattern.as_exact().as_deref(), Some(key.as_str()));
    assert!(pattern.matches(key.as_str()));
    assert!(!pattern.matches("acct.a=2Eb"));
    assert!(!pattern.matches("acct.a=2Eb.7.8"));
    assert_eq!(PairKey::pattern().as_exact(), None);
    assert_eq!(Pattern::all().as_exact(), None);
}

#[test]
fn half_open_patterns_with_same_filter_are_merged() {
    let a = Pattern::new().segment::<u8>(None, "a-", "");
    let b = Pattern::new().segment::<u8>(None, "b-", "");
    let disjoint = Pattern::disjoint(&[a, b]);
    assert_eq!(disjoint.len(), 1);
    assert!(disjoint[0].matches("a-1") && disjoint[0].matches("b-1"));
}

#[test]
fn half_open_segment_requires_prefix_and_suffix() {
    let pattern = Pattern::new().segment::<String>(None, "ab", "yz");
    for segment in ["ab-yz", "ab=_yz", "abyzabyz"] {
        assert!(pattern.matches(segment), "{segment}");
    }
    for segment in ["abyz", "abz", "ab-y", "b-yz", "ab------", "------yz", "------", "ab-yz.c", ""] {
        assert!(!pattern.matches(segment), "{segment}");
    }
    assert!(Pattern::new().segment::<String>(None, "a", "").matches("a-"));
    assert!(!Pattern::new().segment::<String>(None, "a", "").matches("a"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn union_matches_keys_of_any_pattern(
        patterns in proptest::collection::vec(prop_oneof![tailed_pattern(), half_open_pattern()], 0..9),
    ) {
        let union = Patterns::new(patterns.clone());
        let mut all = keys(&["ax", "a", "b-y", "bx"]);
        all.extend([Key::RESERVED.to_owned(), format!("{}.a", Key::RESERVED), format!("a.{}", Key::RESERVED)]);
        for key in all {
            prop_assert_eq!(union.matches(&key), patterns.iter().any(|pattern| pattern.matches(&key)), "{}", key);
        }
    }
}

#[test]
fn many_patterns_merge_into_few_filters() {
    let exact = |tenant: usize, id: usize| Pattern::exact(&Key::new(format!("tenant-{tenant}.s.{id}")).unwrap());
    let of_one: Vec<_> = (0..200_000).map(|id| exact(7, id)).collect();
    let of_many: Vec<_> = (0..200_000).map(|number| exact(number % 400, number)).collect();
    let of_all: Vec<_> = (0..200_000).map(|number| exact(number, number)).collect();
    let long: Vec<_> = (0..200).map(|id| exact(7, id).literal(&"x".repeat(900))).collect();
    let text = |patterns: &[Pattern]| Pattern::disjoint(patterns).iter().map(Pattern::to_string).collect::<Vec<_>>();
    assert_eq!(text(&of_one[..512]).len(), 512, "this many are requested by name");
    assert_eq!(text(&of_one), ["tenant-7.s.*"]);
    assert_eq!(text(&of_many), (0..400).map(|tenant| format!("tenant-{tenant}.s.*")).collect::<Vec<_>>());
    assert_eq!(text(&of_all), ["*.s.*"]);
    assert_eq!(text(&long), [format!("tenant-7.s.*.{}", "x".repeat(900))]);
    for patterns in [of_one, of_many, of_all, long] {
        let union = Patterns::new(patterns.clone());
        for pattern in &patterns {
            assert!(union.filters().iter().any(|filter| filter.covers(pattern)), "{pattern}");
            assert!(union.matches(&pattern.to_string()), "{pattern}");
        }
        assert!(!union.matches("tenant-7.s.x") && !union.matches("tenant-7.s") && !union.matches("tenant-7.s.1.2"));
    }
}

#[test]
fn only_reserved_pattern_matches_reserved_keys() {
    let reserved = format!("{}.lock.a", Key::RESERVED);
    assert!(!Pattern::all().matches(&reserved) && !Pattern::all().matches(Key::RESERVED));
    assert!(Pattern::reserved().matches(&reserved) && !Pattern::reserved().matches("a.lock.a"));
    let both = Patterns::new(vec![Pattern::all(), Pattern::reserved()]);
    assert!(both.matches(&reserved) && both.matches("a"));
    assert_eq!(both.filters().iter().map(Pattern::to_string).collect::<Vec<_>>(), [">"]);
}

#[test]
fn disjoint_patterns_are_minimal() {
    let text = |patterns: &[&[Part]]| {
        let patterns: Vec<_> = patterns.iter().map(|parts| build(parts)).collect();
        Pattern::disjoint(&patterns).iter().map(Pattern::to_string).collect::<Vec<_>>()
    };
    let (a, b, any) = (Part::Literal("a"), Part::Literal("b"), Part::Any);
    assert_eq!(text(&[&[a.clone(), any.clone()], &[any.clone(), b.clone()]]), ["*.*"]);
    assert_eq!(text(&[&[a.clone(), any.clone()], &[a.clone(), b.clone()]]), ["a.*"]);
    assert_eq!(text(&[&[a.clone(), b.clone()], &[a.clone(), any.clone()], &[b, any]]), ["a.*", "b.*"]);
}

#[test]
fn disjoint_terminates_on_overlapping_patterns() {
    let literals = ["a", "b"];
    let mut patterns = Vec::new();
    for round in 0..2_000_usize {
        let parts = (0..6).map(|bit| match (round >> bit) % 3 {
            0 => Part::Any,
            n => Part::Literal(literals[n - 1]),
        });
        patterns.push(build(&parts.collect::<Vec<_>>()));
    }
    let disjoint = Pattern::disjoint(&patterns);
    assert!(!disjoint.is_empty());
    assert!(disjoint.iter().enumerate().all(|(index, a)| disjoint[index + 1..].iter().all(|b| !a.overlaps(b))));
}
