//! `UnknownFields`: a program with a narrower type changes a record and loses nothing.

use std::fmt::Debug;

use kvtyped::UnknownFields;
use kvtyped::codec::{Codec, Json, MsgPack};
use proptest::collection::vec;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use crate::shapes::{Record, Shape, Tree};

/// The type of the newer program. `B` is a number that only some codecs keep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Wide<B> {
    before: Option<Shape>,
    id: u64,
    between: Vec<Record>,
    name: String,
    small: f32,
    signed: (i8, i64, u64),
    numbers: B,
    tree: Tree,
    unit: (),
}

/// The type of the older program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Narrow {
    id: u64,
    name: String,
    #[serde(flatten)]
    rest: UnknownFields,
}

fn shape(float: BoxedStrategy<f64>) -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Point),
        float.prop_map(Shape::Circle),
        any::<(i32, i32)>().prop_map(|(from, to)| Shape::Segment(from, to)),
        (".*", vec(".*", 0..3)).prop_map(|(name, tags)| Shape::Named { name, tags }),
    ]
}

fn record(float: BoxedStrategy<f64>) -> impl Strategy<Value = Record> {
    let labels = proptest::collection::btree_map(".*", any::<i32>(), 0..4);
    let scalars = (any::<(u64, i64, char, bool)>(), float.clone(), ".*");
    (scalars, proptest::option::of(".*"), labels, shape(float)).prop_map(
        |(((id, delta, letter, flag), ratio, name), note, labels, shape)| {
            let (parts, pair) = (vec![letter as u16], (7, name.clone()));
            Record { id, delta, ratio, name, letter, flag, note, parts, labels, shape, pair }
        },
    )
}

fn wide<B: Debug>(float: BoxedStrategy<f64>, numbers: impl Strategy<Value = B>) -> impl Strategy<Value = Wide<B>> {
    let tree = Just(Tree { below: Vec::new() })
        .prop_recursive(5, 20, 3, |tree| vec(tree, 0..3).prop_map(|below| Tree { below }));
    let small = (proptest::num::f32::NORMAL | proptest::num::f32::ZERO).prop_filter("kept", |value| value.abs() < 9e18);
    let known = (any::<u64>(), ".*", small, any::<(i8, i64, u64)>());
    let unknown = (proptest::option::of(shape(float.clone())), vec(record(float), 0..3), numbers, tree);
    (known, unknown).prop_map(|((id, name, small, signed), (before, between, numbers, tree))| Wide {
        before,
        id,
        between,
        name,
        small,
        signed,
        numbers,
        tree,
        unit: (),
    })
}

/// Changes a known field through the narrower type.
fn changed<C: Codec<Wide<B>> + Codec<Narrow>, B: Clone + PartialEq + Debug>(wide: &Wide<B>) {
    let bytes = <C as Codec<Wide<B>>>::encode(wide).unwrap();
    let mut narrow = <C as Codec<Narrow>>::decode(&bytes).unwrap();
    assert_eq!(narrow.rest.len(), 7);
    narrow.name.push_str(" (changed)");

    let written = <C as Codec<Narrow>>::encode(&narrow).unwrap();
    let read = <C as Codec<Narrow>>::decode(&written).unwrap();
    <C as Codec<Narrow>>::verify(&narrow, &read).unwrap();
    assert_eq!(read, narrow);
    let expected = Wide { name: narrow.name, ..wide.clone() };
    assert_eq!(<C as Codec<Wide<B>>>::decode(&written).unwrap(), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn narrower_json_program_loses_nothing(wide in wide((-9e18_f64..9e18).boxed(), any::<(u64, i64)>())) {
        changed::<Json, _>(&wide);
    }

    #[test]
    fn narrower_msgpack_program_loses_nothing(
        wide in wide((proptest::num::f64::NORMAL | proptest::num::f64::ZERO).boxed(), any::<(u128, i128)>()),
    ) {
        changed::<MsgPack, _>(&wide);
    }

    #[test]
    fn any_json_value_is_written_back_as_it_was(value in json(), name in "[a-z]{1,8}") {
        let record = format!(r#"{{"id":1,"name":"a","x{name}":{value}}}"#);
        assert_eq!(rewritten::<Json>(record.as_bytes()), record.as_bytes());
    }
}

/// Texts of JSON values in the form that `serde_json` writes.
fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e18_f64..1e18).prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::hash_map(".*", inner, 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn rewritten<C: Codec<Narrow>>(bytes: &[u8]) -> Vec<u8> {
    let narrow = C::decode(bytes).unwrap();
    let written = C::encode(&narrow).unwrap();
    C::verify(&narrow, &C::decode(&written).unwrap()).unwrap();
    written
}

#[test]
fn order_and_repeated_fields_are_kept() {
    let record = br#"{"z":1,"id":1,"b":{"y":[],"y":{},"x":null},"name":"a","z":-0.0,"a":1.5}"#;
    let expected = br#"{"id":1,"name":"a","z":1,"b":{"y":[],"y":{},"x":null},"z":-0.0,"a":1.5}"#;
    assert_eq!(rewritten::<Json>(record), expected);
    let narrow: Narrow = Json::decode(record).unwrap();
    assert_eq!(narrow.rest.names().collect::<Vec<_>>(), ["z", "b", "z", "a"]);
}

#[test]
fn msgpack_values_without_a_json_form_are_kept() {
    let values: [&[u8]; 8] = [
        b"\xc4\x03\x00\xff\x01",                 // bytes
        b"\xd6\xff\x65\x00\x00\x01",             // a timestamp, which is an extension of four bytes
        b"\xc7\x03\x05abc",                      // an extension of three bytes
        b"\xca\x7f\x80\x00\x00",                 // infinity in 32 bits
        b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x01", // a NaN with a payload
        b"\xcb\x7e\x37\xe4\x3c\x88\x00\x75\x9c", // 1e300
        b"\x83\x01\xc0\xc3\xa1b\xc4\x01k\x90",   // a map with keys of other types
        b"\x92\x05\xc4\x01a",                    // a list that looks like an extension
    ];
    for value in values {
        let record = [b"\x83\xa2id\x01\xa4name\xa1a\xa1x", value].concat();
        let written = rewritten::<MsgPack>(&record);
        assert!(written.ends_with(&[b"\xa1x", value].concat()), "{value:x?} is {written:x?}");
    }
    // A field without a text as its name.
    let record = b"\x83\xa2id\x01\xa4name\xa1a\x07\x08";
    assert_eq!(rewritten::<MsgPack>(record), record);
    let narrow: Narrow = MsgPack::decode(record).unwrap();
    assert_eq!((narrow.rest.len(), narrow.rest.names().count()), (1, 0));
}

#[test]
fn integer_in_a_longer_form_is_written_back() {
    // A positive number in the form of a signed one.
    let record = b"\x83\xa2id\x01\xa4name\xa1a\xa1x\xd3\x00\x00\x00\x00\x00\x00\x00\x05";
    assert_eq!(rewritten::<MsgPack>(record), b"\x83\xa2id\x01\xa4name\xa1a\xa1x\x05");
}

#[test]
fn number_that_json_cannot_keep_is_not_written() {
    for number in ["18446744073709551616", "-9223372036854775809", "1e300", "-1e19"] {
        for record in [
            format!(r#"{{"id":1,"name":"a","x":{number}}}"#),
            format!(r#"{{"id":1,"name":"a","x":[{{"y":{number}}}]}}"#),
        ] {
            let narrow: Narrow = Json::decode(record.as_bytes()).unwrap();
            let error = Json::encode(&narrow).unwrap_err().to_string();
            assert!(error.contains("too large to be kept exactly"), "{error}");
            assert!(!error.contains(&number[..3]), "{error}");
        }
    }
    for number in ["18446744073709551615", "-9223372036854775808", "1.8446744073709550e19", "0.1"] {
        let record = format!(r#"{{"id":1,"name":"a","x":{number}}}"#);
        let narrow: Narrow = Json::decode(record.as_bytes()).unwrap();
        assert_eq!(Json::decode(&Json::encode(&narrow).unwrap()), Ok(narrow), "{number}");
    }
}

#[test]
fn record_without_unknown_fields_is_unchanged() {
    fn is_unchanged<C: Codec<Narrow> + Codec<Known>>() {
        let known = Known { id: 1, name: "a".into() };
        let bytes = <C as Codec<Known>>::encode(&known).unwrap();
        let narrow = <C as Codec<Narrow>>::decode(&bytes).unwrap();
        assert!(narrow.rest.is_empty());
        assert_eq!(narrow.rest, UnknownFields::default());
        assert_eq!(<C as Codec<Narrow>>::encode(&narrow).unwrap(), bytes);
    }

    #[derive(Serialize, Deserialize)]
    struct Known {
        id: u64,
        name: String,
    }

    is_unchanged::<Json>();
    is_unchanged::<MsgPack>();
}

#[test]
fn flattened_struct_before_the_rest_keeps_its_fields() {
    #[derive(Serialize, Deserialize)]
    struct Outer {
        #[serde(flatten)]
        inner: Inner,
        #[serde(flatten)]
        rest: UnknownFields,
    }

    #[derive(Serialize, Deserialize)]
    struct Inner {
        a: u8,
    }

    let outer: Outer = Json::decode(br#"{"b":2,"a":1}"#).unwrap();
    assert_eq!(outer.inner.a, 1);
    assert_eq!(Json::encode(&outer).unwrap(), br#"{"a":1,"b":2}"#);
}

#[test]
fn debug_shows_no_content() {
    let narrow: Narrow = Json::decode(br#"{"id":1,"name":"a","secret":"hunter2"}"#).unwrap();
    assert_eq!(format!("{:?}", narrow.rest), "UnknownFields { len: 1, .. }");
}

#[test]
fn equal_fields_in_another_order_differ() {
    let rest = |record: &[u8]| <Json as Codec<UnknownFields>>::decode(record).unwrap();
    let [one, same, other] = [&br#"{"a":1,"b":2}"#[..], br#"{"a":1,"b":2}"#, br#"{"b":2,"a":1}"#].map(rest);
    assert_eq!(one, same);
    assert_ne!(one, other);
}
