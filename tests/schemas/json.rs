//! Properties of the canonical JSON and of comparisons, on arbitrary schemas.

use kvtyped::schema::{Schema, SchemaError, Verdict, compare};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// The JSON of an arbitrary shape, in the canonical order.
fn shape() -> impl Strategy<Value = String> {
    let kinds = [
        "open",
        "bool",
        "u8",
        "i16",
        "u32",
        "i64",
        "u128",
        "i128",
        "f32",
        "f64",
        "char",
        "text",
        "parsed_text",
        "bytes",
        "unit",
    ];
    let leaf = prop::sample::select(kinds.to_vec()).prop_map(|kind| format!("\"{kind}\""));
    leaf.prop_recursive(4, 40, 4, |inner| {
        let name = "[a-d\"\u{e9}]{1,2}";
        let aliases = prop_oneof![
            3 => Just(String::new()),
            // The alias is made of the name, because a name belongs to one field or variant.
            1 => Just(r#""aliases":[ALIAS],"#.to_owned())
        ];
        let presence = prop::sample::select(vec!["", r#""presence":"optional","#, r#""presence":"unknown","#]);
        let field = (aliases.clone(), presence, inner.clone())
            .prop_map(|(aliases, presence, shape)| format!(r#"{{{aliases}{presence}"type":{shape}}}"#));
        let variant = (aliases, prop::option::of(inner.clone())).prop_map(|(aliases, content)| match content {
            Some(content) => format!(r#"{{{aliases}"content":{content}}}"#),
            None => format!("{{{}}}", aliases.trim_end_matches(',')),
        });
        let named = |entries: std::collections::BTreeMap<String, String>| {
            let quoted = |text: &str| serde_json::Value::from(text).to_string();
            let entries = entries
                .iter()
                .map(|(name, it)| format!("{}:{}", quoted(name), it.replace("ALIAS", &quoted(&format!("{name}~")))));
            entries.collect::<Vec<_>>().join(",")
        };
        let flag = |name: &'static str| prop::sample::select(vec![String::new(), format!(r#","{name}":true"#)]);
        prop_oneof![
            inner.clone().prop_map(|inner| format!(r#"{{"option":{inner}}}"#)),
            inner.clone().prop_map(|inner| format!(r#"{{"seq":{inner}}}"#)),
            Just(r#"{"option":{"again":1}}"#.to_owned()),
            vec(inner.clone(), 0..4).prop_map(|items| format!(r#"{{"tuple":[{}]}}"#, items.join(","))),
            (inner.clone(), inner).prop_map(|(key, value)| format!(r#"{{"map":[{key},{value}]}}"#)),
            (btree_map(name, field, 0..5), flag("deny_unknown_fields"))
                .prop_map(move |(fields, deny)| format!(r#"{{"struct":{{{}}}{deny}}}"#, named(fields))),
            (btree_map(name, variant, 0..4), flag("other"), prop::sample::select(vec!["", r#","tag":"t""#]))
                .prop_map(move |(variants, other, tag)| format!(r#"{{"enum":{{{}}}{other}{tag}}}"#, named(variants))),
        ]
    })
}

fn text() -> impl Strategy<Value = String> {
    shape().prop_map(|shape| format!(r#"{{"kvtyped_schema":1,"shape":{shape}}}"#))
}

proptest! {
    #[test]
    fn schema_round_trips_in_json(text in text()) {
        let schema = Schema::from_json(&text).unwrap();
        prop_assert_eq!(schema.to_json(), text);
    }

    #[test]
    fn schema_is_identical_to_itself(text in text()) {
        let schema = Schema::from_json(&text).unwrap();
        let report = compare(&schema, &schema.clone());
        prop_assert!(report.is_identical(), "{report}");
        prop_assert_eq!((report.backward(), report.forward()), (Verdict::Yes, Verdict::Yes));
    }

    #[test]
    fn comparison_is_symmetric(one in text(), two in text()) {
        let (one, two) = (Schema::from_json(&one).unwrap(), Schema::from_json(&two).unwrap());
        let (there, back) = (compare(&one, &two), compare(&two, &one));
        prop_assert_eq!(there.is_identical(), one == two);
        prop_assert_eq!(there.backward(), back.forward(), "{}\n{}", there, back);
        prop_assert_eq!(there.forward(), back.backward(), "{}\n{}", there, back);
        prop_assert!(there.to_string().lines().count() == there.findings().len() + 1);
    }

    #[test]
    fn corrupted_schema_never_panics(text in text(), at: prop::sample::Index, with in "[\"{}\\[\\],:a0-9]{0,3}") {
        let mut text: Vec<char> = text.chars().collect();
        let at = at.index(text.len());
        text.splice(at..=at, with.chars());
        if let Ok(schema) = Schema::from_json(&text.iter().collect::<String>()) {
            prop_assert_eq!(&Schema::from_json(&schema.to_json()).unwrap(), &schema);
        }
    }
}

#[test]
fn foreign_text_is_refused() {
    let foreign = |text: &str| matches!(Schema::from_json(text), Err(SchemaError::Foreign { .. }));
    for text in [
        "",
        "null",
        "{}",
        "\"text\"",
        r#"{"kvtyped_schema":1}"#,
        r#"{"kvtyped_schema":0,"shape":"text"}"#,
        r#"{"kvtyped_schema":"1","shape":"text"}"#,
        r#"{"kvtyped_schema":1,"shape":"texts"}"#,
        r#"{"kvtyped_schema":1,"shape":"u7"}"#,
        r#"{"kvtyped_schema":1,"shape":"é8"}"#,
        r#"{"kvtyped_schema":1,"shape":{}}"#,
        r#"{"kvtyped_schema":1,"shape":{"seq":"u8","option":"u8"}}"#,
        r#"{"kvtyped_schema":1,"shape":{"again":1}}"#,
        r#"{"kvtyped_schema":1,"shape":{"seq":{"again":0}}}"#,
        r#"{"kvtyped_schema":1,"shape":{"seq":{"again":2}}}"#,
        r#"{"kvtyped_schema":1,"shape":{"again":18446744073709551615}}"#,
        r#"{"kvtyped_schema":1,"shape":{"struct":{"a":{"type":"u8","presence":"maybe"}}}}"#,
        r#"{"kvtyped_schema":1,"shape":{"struct":{"a":{"type":"u8","new":1}}}}"#,
        r#"{"kvtyped_schema":1,"shape":{"enum":{"a":{"content":null}}}}"#,
    ] {
        assert!(foreign(text), "{text}");
    }
    let nested =
        |levels| format!(r#"{{"kvtyped_schema":1,"shape":{}"u8"{}}}"#, r#"{"seq":"#.repeat(levels), "}".repeat(levels));
    assert!(Schema::from_json(&nested(40)).is_ok());
    assert!(foreign(&nested(41)) && foreign(&nested(100_000)));
}

#[test]
fn newer_and_huge_schemas_are_refused() {
    let newer = Schema::from_json(r#"{"kvtyped_schema":2,"shape":{"new":1}}"#).unwrap_err();
    assert!(matches!(newer, SchemaError::Newer { found: 2, known: 1, .. }));
    assert_eq!(
        newer.to_string(),
        "the schema cannot be read: it has format 2, and this program reads format 1; update kvtyped"
    );
    let huge = Schema::from_json(&" ".repeat((1 << 20) + 1)).unwrap_err();
    assert!(matches!(huge, SchemaError::TooLarge { limit: 1_048_576, .. }));
}

#[test]
fn recursive_schemas_of_different_periods_compare() {
    let nested = |levels| {
        let open = r#"{"struct":{"a":{"type":"#.repeat(levels);
        format!(r#"{{"kvtyped_schema":1,"shape":{open}{{"again":{levels}}}{}}}"#, "}}}".repeat(levels))
    };
    let report = compare(&Schema::from_json(&nested(39)).unwrap(), &Schema::from_json(&nested(37)).unwrap());
    assert!(!report.is_identical());
    assert_eq!(report.backward(), Verdict::DataDecides);
    let report = compare(&Schema::from_json(&nested(2)).unwrap(), &Schema::from_json(&nested(3)).unwrap());
    assert_eq!(report.backward(), Verdict::Yes);
}

#[test]
fn fingerprint_is_stable() {
    assert_eq!(Schema::open().to_json(), r#"{"kvtyped_schema":1,"shape":"open"}"#);
    assert_eq!(Schema::text().fingerprint().len(), 16);
    assert_ne!(Schema::text().fingerprint(), Schema::bytes().fingerprint());
}

#[test]
fn large_schemas_compare_in_bounded_time() {
    let names = |kind: &str, name: &str, of: &str| {
        let entries: Vec<_> = (0..20_000).map(|at| format!(r#""{name}{at}":{of}"#)).collect();
        Schema::from_json(&format!(r#"{{"kvtyped_schema":1,"shape":{{"{kind}":{{{}}}}}}}"#, entries.join(","))).unwrap()
    };
    let start = std::time::Instant::now();
    let report = compare(&names("struct", "a", r#"{"type":"u8"}"#), &names("struct", "b", r#"{"type":"u8"}"#));
    assert_eq!((report.findings().len(), report.backward()), (40_000, Verdict::No));
    assert!(report.to_string().len() < 10_000_000);
    let report = compare(&names("enum", "a", "{}"), &names("enum", "b", "{}"));
    assert_eq!((report.findings().len(), report.backward()), (1, Verdict::No));
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}
