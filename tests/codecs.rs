//! Codecs: values round-trip, and hostile input returns an error and has no other effect.

use std::collections::{BTreeMap, HashMap};
use std::error::Error as _;
use std::fmt;
use std::fmt::Debug;
use std::str::FromStr;
use std::time::Duration;

use kvtyped::codec::{Bytes, Codec, CodecError, Json, MsgPack, Text};
use proptest::collection::vec;
use proptest::prelude::*;
use serde::de::{self, DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};

use crate::shapes::{Chain, List, Peel, Record, Shape, Tagged, Tree, Untagged};

// ---- Round trips ----

fn float() -> impl Strategy<Value = f64> {
    proptest::num::f64::NORMAL | proptest::num::f64::ZERO | proptest::num::f64::SUBNORMAL
}

/// Texts that are short enough to cut a record at every byte.
fn word() -> impl Strategy<Value = String> {
    "\\PC{0,6}|[\0-\x7f]{0,6}"
}

fn words() -> impl Strategy<Value = Vec<String>> {
    vec(word(), 0..4)
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Point),
        float().prop_map(Shape::Circle),
        any::<(i32, i32)>().prop_map(|(from, to)| Shape::Segment(from, to)),
        (word(), words()).prop_map(|(name, tags)| Shape::Named { name, tags }),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    let scalars = (any::<(u64, i64, char, bool)>(), float(), word());
    let labels = proptest::collection::btree_map(word(), any::<i32>(), 0..4);
    let rest = (proptest::option::of(word()), vec(any::<u16>(), 0..20), labels, shape(), (any::<u8>(), word()));
    (scalars, rest).prop_map(|(((id, delta, letter, flag), ratio, name), (note, parts, labels, shape, pair))| Record {
        id,
        delta,
        ratio,
        name,
        letter,
        flag,
        note,
        parts,
        labels,
        shape,
        pair,
    })
}

fn round_trip<C: Codec<V>, V: PartialEq + Debug>(value: &V) {
    assert_eq!(&C::decode(&C::encode(value).unwrap()).unwrap(), value);
}

proptest! {
    #[test]
    fn record_round_trips_in_json_and_msgpack(record in record()) {
        round_trip::<Json, _>(&record);
        round_trip::<MsgPack, _>(&record);
    }

    #[test]
    fn text_round_trips(text: String, number: i64, flag: bool, letter: char, ratio in float()) {
        round_trip::<Text, _>(&text);
        round_trip::<Text, _>(&number);
        round_trip::<Text, _>(&flag);
        round_trip::<Text, _>(&letter);
        round_trip::<Text, _>(&ratio);
    }

    #[test]
    fn bytes_are_written_unchanged(bytes: Vec<u8>) {
        prop_assert_eq!(&<Bytes as Codec<Vec<u8>>>::encode(&bytes).unwrap(), &bytes);
        round_trip::<Bytes, _>(&bytes);
    }

    #[test]
    fn decoding_arbitrary_bytes_never_panics(bytes: Vec<u8>) {
        everything(&bytes);
    }

    #[test]
    fn decoding_corrupted_values_never_panics(record in record(), at: prop::sample::Index, byte: u8) {
        for mut bytes in [Json::encode(&record).unwrap(), MsgPack::encode(&record).unwrap()] {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            everything(&bytes);
        }
    }
}

/// Decodes the bytes as many types. Only checks that decoding returns.
fn everything(bytes: &[u8]) {
    fn both<V: Serialize + DeserializeOwned>(bytes: &[u8]) {
        let _ = <Json as Codec<V>>::decode(bytes);
        let _ = <MsgPack as Codec<V>>::decode(bytes);
    }
    both::<Record>(bytes);
    both::<Vec<Record>>(bytes);
    both::<Shape>(bytes);
    both::<Tree>(bytes);
    both::<Chain>(bytes);
    both::<Tagged>(bytes);
    both::<Untagged>(bytes);
    both::<HashMap<String, Vec<u64>>>(bytes);
    both::<(Option<i128>, Option<u128>, ())>(bytes);
    let _ = <Text as Codec<String>>::decode(bytes);
    let _ = <Text as Codec<f64>>::decode(bytes);
    let _ = <Bytes as Codec<Vec<u8>>>::decode(bytes);
}

#[test]
fn floats_round_trip_exactly() {
    for float in [3.677027846956851e49, 0.1, 5e-324, f64::MAX, f64::MIN_POSITIVE, -0.0] {
        round_trip::<Json, _>(&float);
        round_trip::<MsgPack, _>(&float);
        round_trip::<Text, _>(&float);
    }
}

#[test]
fn error_names_its_codec() {
    assert_eq!(<Json as Codec<u8>>::decode(b"").unwrap_err().codec(), <Json as Codec<u8>>::NAME);
    assert_eq!(<MsgPack as Codec<u8>>::decode(b"").unwrap_err().codec(), <MsgPack as Codec<u8>>::NAME);
    assert_eq!(<Text as Codec<u8>>::decode(b"").unwrap_err().codec(), <Text as Codec<u8>>::NAME);
}

#[test]
fn inexpressible_value_fails_to_encode() {
    /// A type whose `Display` implementation fails.
    struct Silent;
    impl fmt::Display for Silent {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            Err(fmt::Error)
        }
    }
    impl FromStr for Silent {
        type Err = fmt::Error;
        fn from_str(_: &str) -> Result<Self, fmt::Error> {
            Err(fmt::Error)
        }
    }
    assert_eq!(Text::encode(&Silent).unwrap_err().codec(), "text");
    let keyed_by_a_list = BTreeMap::from([(vec![1_u8], 1_u8)]);
    assert_eq!(<Json as Codec<_>>::encode(&keyed_by_a_list).unwrap_err().codec(), "json");
}

// ---- Hostile input ----

fn refused<C: Codec<V>, V>(bytes: &[u8]) {
    let error = C::decode(bytes).err().expect("these bytes are no value");
    assert_eq!(error.codec(), C::NAME);
}

fn every_truncation_is_refused<C: Codec<Record>>(record: &Record) {
    let bytes = C::encode(record).unwrap();
    for end in 0..bytes.len() {
        refused::<C, Record>(&bytes[..end]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn truncated_value_is_an_error(record in record()) {
        every_truncation_is_refused::<Json>(&record);
        every_truncation_is_refused::<MsgPack>(&record);
    }

    #[test]
    fn trailing_bytes_are_an_error(record in record(), more in vec(any::<u8>(), 1..9)) {
        refused::<MsgPack, Record>(&[MsgPack::encode(&record).unwrap(), more.clone()].concat());
        // JSON ignores trailing white space.
        if !more.iter().all(|byte| b" \t\r\n".contains(byte)) {
            refused::<Json, Record>(&[Json::encode(&record).unwrap(), more].concat());
        }
    }

    #[test]
    fn trailing_second_value_is_an_error(record in record(), number: u64) {
        refused::<MsgPack, Record>(&MsgPack::encode(&record).unwrap().repeat(2));
        refused::<Json, Record>(&Json::encode(&record).unwrap().repeat(2));
        refused::<MsgPack, u64>(&MsgPack::encode(&number).unwrap().repeat(2));
        refused::<MsgPack, Option<u64>>(&MsgPack::encode(&number).unwrap().repeat(2));
        refused::<MsgPack, IgnoredAnyValue>(&MsgPack::encode(&number).unwrap().repeat(2));
    }
}

/// Accepts any single value.
struct IgnoredAnyValue;

impl<'de> Deserialize<'de> for IgnoredAnyValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl Serialize for IgnoredAnyValue {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

// ---- The wrong codec ----

#[derive(Debug, Serialize, Deserialize)]
struct Small {
    n: u64,
}

#[test]
fn bytes_of_another_codec_are_an_error() {
    let text = Text::encode(&"hello".to_owned()).unwrap();
    refused::<MsgPack, u64>(&text);
    refused::<MsgPack, String>(&text);
    refused::<MsgPack, Option<u64>>(&text);
    refused::<MsgPack, Small>(&text);
    refused::<Json, u64>(&text);
    refused::<Json, String>(&text);
    refused::<Json, Option<u64>>(&text);
    refused::<Text, u64>(&text);

    let json = Json::encode(&Small { n: 5 }).unwrap();
    refused::<MsgPack, u64>(&json);
    refused::<MsgPack, String>(&json);
    refused::<MsgPack, bool>(&json);
    refused::<MsgPack, Small>(&json);
    refused::<MsgPack, Vec<u64>>(&json);
    refused::<Text, u64>(&json);
    refused::<Text, bool>(&json);

    let json = Json::encode(&"hello".to_owned()).unwrap();
    refused::<MsgPack, String>(&json);
    refused::<MsgPack, u64>(&json);

    let json = Json::encode(&vec![1, 2, 3]).unwrap();
    refused::<MsgPack, Vec<u64>>(&json);
    refused::<MsgPack, u64>(&json);

    let msgpack = MsgPack::encode(&Small { n: 5 }).unwrap();
    refused::<Json, Small>(&msgpack);
    refused::<Json, u64>(&msgpack);
    refused::<Json, String>(&msgpack);
    refused::<Text, String>(&msgpack);
    refused::<Text, u64>(&msgpack);

    for number in [200_u64, 300, 70_000, u64::MAX] {
        let msgpack = MsgPack::encode(&number).unwrap();
        refused::<Json, u64>(&msgpack);
        refused::<Text, u64>(&msgpack);
    }
    let msgpack = MsgPack::encode(&"hello".to_owned()).unwrap();
    refused::<Json, String>(&msgpack);
    refused::<Text, String>(&msgpack);
}

#[test]
fn msgpack_reads_a_text_digit_as_a_number() {
    // This cannot be detected: a number below 128 is one byte in MessagePack. A new codec needs a new bucket.
    assert_eq!(<MsgPack as Codec<u64>>::decode(b"7").unwrap(), 0x37);
}

#[test]
fn wrong_type_is_an_error() {
    let number = 5_u64;
    refused::<Json, String>(&Json::encode(&number).unwrap());
    refused::<MsgPack, String>(&MsgPack::encode(&number).unwrap());
    refused::<Json, u8>(&Json::encode(&300).unwrap());
    refused::<MsgPack, u8>(&MsgPack::encode(&300).unwrap());
    refused::<Text, u8>(&Text::encode(&300).unwrap());
    refused::<Json, u64>(&Json::encode(&-1).unwrap());
    refused::<MsgPack, u64>(&MsgPack::encode(&-1).unwrap());
    refused::<Json, Small>(b"{}");
    refused::<MsgPack, Small>(b"\x80");
    refused::<Json, Small>(b"{\"n\":1,\"n\":2}");
    refused::<MsgPack, Small>(b"\x82\xa1n\x01\xa1n\x02");
    refused::<Json, Shape>(b"\"Square\"");
    refused::<MsgPack, Shape>(b"\xa6Square");
    refused::<Text, String>(b"\xff");
    refused::<Json, String>(b"\"\xff\"");
    refused::<MsgPack, String>(b"\xa1\xff");
}

#[test]
fn msgpack_uses_the_non_human_readable_form() {
    let address = std::net::Ipv4Addr::new(10, 0, 0, 7);
    assert_eq!(MsgPack::encode(&address).unwrap(), b"\x94\x0a\x00\x00\x07");
    round_trip::<MsgPack, _>(&address);
    assert_eq!(Json::encode(&address).unwrap(), b"\"10.0.0.7\"");
    round_trip::<Json, _>(&address);
}

#[test]
fn unit_variant_decodes_from_both_msgpack_forms() {
    assert_eq!(<MsgPack as Codec<Shape>>::decode(b"\xa5Point").unwrap(), Shape::Point);
    assert_eq!(<MsgPack as Codec<Shape>>::decode(b"\x81\xa5Point\xc0").unwrap(), Shape::Point);
    refused::<MsgPack, Shape>(b"\x81\xa5Point\x07");
}

#[test]
fn error_names_expectation_and_position() {
    fn says<C: Codec<V>, V>(bytes: &[u8], text: &str) {
        let Err(error) = C::decode(bytes) else { panic!("{bytes:?} is read") };
        assert_eq!(error.to_string(), text);
        assert_eq!(format!("{error:?}"), format!("CodecError({text})"));
    }
    says::<Json, Small>(b"{}", "json: missing field `n` at line 1 column 2");
    says::<Json, Small>(b"{\"n\":\n\"s3cret\"}", "json: invalid type: string, expected u64 at line 2 column 8");
    says::<Json, Small>(b"{\"n\":1", "json: the value ends too early at line 1 column 6");
    says::<Json, Small>(b"{\"n\":1}}", "json: trailing characters at line 1 column 8");
    says::<MsgPack, Small>(b"\x80", "msgpack: missing field `n`");
    says::<MsgPack, Small>(b"\x81\xa1n\xa6s3cret", "msgpack: the bytes are not MessagePack of this type");
    says::<MsgPack, List>(b"\xa6s3cret", "msgpack: invalid type: string, expected a sequence");
    says::<MsgPack, Small>(b"\x81\xa1n", "msgpack: the value ends too early");
    says::<MsgPack, Small>(b"\x81\xa1n\x01\xc0", "msgpack: 1 bytes follow the value");
    says::<MsgPack, String>(b"\xa1\xff", "msgpack: a string is not UTF-8");
    says::<MsgPack, List>(&[0x91].repeat(200), "msgpack: it nests deeper than 127");
    says::<Text, u8>(b"x", "text: the text is not a value of `u8`");
    says::<Text, String>(b"\xff", "text: the bytes are not UTF-8");
}

#[test]
fn non_finite_float_in_json_fails_to_decode() {
    refused::<Json, f64>(&Json::encode(&f64::NAN).unwrap());
    refused::<Json, f64>(&Json::encode(&f64::INFINITY).unwrap());
    assert!(<MsgPack as Codec<f64>>::decode(&MsgPack::encode(&f64::NAN).unwrap()).unwrap().is_nan());
}

// ---- Errors show no content ----

/// Error messages of a hand-written type that contain the content.
const WORDINGS: [fn(&str) -> String; 12] = [
    |content| content.to_owned(),
    |content| format!("no such user: {content}"),
    |content| format!("invalid value: {content}"),
    |content| format!("invalid value: {content}, expected a user"),
    |content| format!("invalid type: string {content}, expected a user"),
    |content| format!("invalid length {content}, expected 3"),
    |content| format!("unknown variant {content}, expected a user"),
    |content| format!("unknown field {content}, expected a user"),
    |content| format!("missing field {content}"),
    |content| format!("missing field `user` in `{content}`"),
    |content| format!("{content}, expected a user"),
    |content| format!("{content} at line 1 column 1"),
];

/// A type that refuses every text with a message that quotes it.
#[derive(Debug)]
struct Quoting<const WORDING: usize>;

impl<'de, const WORDING: usize> Deserialize<'de> for Quoting<WORDING> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let content = String::deserialize(deserializer)?;
        Err(de::Error::custom(WORDINGS[WORDING](&content)))
    }
}

impl<const WORDING: usize> Serialize for Quoting<WORDING> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The serialization error quotes its content, too.
        let _ = serializer;
        Err(serde::ser::Error::custom(WORDINGS[WORDING](WRITTEN)))
    }
}

const WRITTEN: &str = "QXZ-written-QXZ";

/// A type whose parse error quotes the input.
struct Parsed;

impl fmt::Display for Parsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("parsed")
    }
}

impl FromStr for Parsed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Err(format!("{text} is not what it is parsed from"))
    }
}

#[derive(Serialize, Deserialize)]
enum Never {}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoFields {}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Strict {
    user: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    One(u32),
}

#[derive(Serialize, Deserialize)]
struct Flat {
    #[serde(flatten)]
    rest: HashMap<String, u32>,
}

/// Returns all visible text of an error and its causes.
fn shown(error: &CodecError) -> String {
    let mut shown = format!("{error}\n{error:?}\n{error:#?}");
    let mut source = error.source();
    while let Some(error) = source {
        shown += &format!("\n{error}\n{error:?}");
        source = error.source();
    }
    shown
}

fn shows_nothing<C: Codec<V>, V>(bytes: &[u8], content: &str) {
    if let Err(error) = C::decode(bytes) {
        let shown = shown(&error);
        assert!(!shown.contains(content), "{content:?} in {shown}");
        assert!(!shown.contains("QXZ"), "a part of {content:?} in {shown}");
    }
}

fn json_string(text: &str) -> String {
    String::from_utf8(Json::encode(&text.to_owned()).unwrap()).unwrap()
}

/// Generates secrets with a unique marker and with fragments that separate the parts of error messages.
fn secret() -> impl Strategy<Value = String> {
    let around =
        "[`'\", :a-z0-9]{0,6}|[`\"]?, expected |`, there are no (fields|variants)| at line 1 column 2|\\PC{0,4}";
    (around, around).prop_map(|(before, proxied)| format!("QXZ{before}QXZ{proxied}QXZ"))
}

fn decode_as_every_type(json: &str, msgpack: &[u8], secret: &str) {
    fn both<V: Serialize + DeserializeOwned>(json: &str, msgpack: &[u8], secret: &str) {
        shows_nothing::<Json, V>(json.as_bytes(), secret);
        shows_nothing::<MsgPack, V>(msgpack, secret);
        shows_nothing::<Json, V>(msgpack, secret);
        shows_nothing::<MsgPack, V>(json.as_bytes(), secret);
    }
    macro_rules! each {
        ($($type:ty),* $(,)?) => {$( both::<$type>(json, msgpack, secret); )*};
    }
    each![
        (), bool, u8, u32, i64, i128, u128, f64, char, String, Option<u32>, Vec<u32>, Vec<String>, [u8; 3], (u32, u32),
        Small, Record, Shape, Peel, Tagged, Untagged, Adjacent, Never, NoFields, Strict, Flat, HashMap<String, u32>,
        HashMap<u32, u32>, HashMap<char, String>, BTreeMap<String, NoFields>, BTreeMap<bool, u8>, Vec<Never>, Duration,
        std::net::IpAddr, std::num::NonZeroU8, std::ops::Range<u8>, std::time::SystemTime, std::path::PathBuf,
    ];
    each![
        Quoting<0>, Quoting<1>, Quoting<2>, Quoting<3>, Quoting<4>, Quoting<5>, Quoting<6>, Quoting<7>, Quoting<8>,
        Quoting<9>, Quoting<10>, Quoting<11>, Vec<Quoting<2>>, Option<Quoting<3>>, HashMap<String, Quoting<6>>,
        (Quoting<11>,),
    ];
    for bytes in [json.as_bytes(), msgpack, secret.as_bytes()] {
        shows_nothing::<Text, u32>(bytes, secret);
        shows_nothing::<Text, bool>(bytes, secret);
        shows_nothing::<Text, Parsed>(bytes, secret);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn decode_error_omits_the_value(secret in secret(), length in 0..4_usize) {
        let text = json_string(&secret);
        let mp = MsgPack::encode(&secret).unwrap();
        let pairs = |key: &[u8], value: &[u8]| [b"\x81", key, value].concat();
        let word = |word: &str| MsgPack::encode(&word.to_owned()).unwrap();
        // As the value itself, an item, a key, a field, a variant, the content of a variant, and a tag.
        decode_as_every_type(&text, &mp, &secret);
        decode_as_every_type(&format!("[{text}]"), &[b"\x91", &*mp].concat(), &secret);
        decode_as_every_type(&format!("{{{text}:{text}}}"), &pairs(&mp, &mp), &secret);
        for name in ["n", "user", "id", "t", "c", "below", "Circle", "Named", "One", "start", "secs", "V4", "Unix"] {
            decode_as_every_type(&format!("{{\"{name}\":{text}}}"), &pairs(&word(name), &mp), &secret);
            decode_as_every_type(&format!("{{{text}:\"{name}\"}}"), &pairs(&mp, &word(name)), &secret);
        }
        // As bytes, and truncated.
        let bytes = [&[0xc4, u8::try_from(secret.len()).unwrap()], secret.as_bytes()].concat();
        decode_as_every_type(&text[..text.len() - 1], &bytes, &secret);
        decode_as_every_type(&format!("[{text}"), &mp[..mp.len().saturating_sub(length)], &secret);
    }

    #[test]
    fn decode_error_omits_numbers(number in 1_000_000_007_u64..=u64::MAX) {
        fn both<V: Serialize + DeserializeOwned>(number: u64) {
            shows_nothing::<Json, V>(&Json::encode(&number).unwrap(), &number.to_string());
            shows_nothing::<MsgPack, V>(&MsgPack::encode(&number).unwrap(), &number.to_string());
            shows_nothing::<Json, V>(number.to_string().as_bytes(), &number.to_string());
        }
        both::<u8>(number);
        both::<i8>(number);
        both::<bool>(number);
        both::<String>(number);
        both::<Strict>(number);
        both::<Never>(number);
        both::<Shape>(number);
        both::<Untagged>(number);
        shows_nothing::<Text, u8>(number.to_string().as_bytes(), &number.to_string());
    }
}

#[test]
fn encode_error_omits_the_value() {
    let errors = [Json::encode(&Quoting::<0>).unwrap_err(), MsgPack::encode(&Quoting::<1>).unwrap_err()];
    for error in errors {
        assert!(!shown(&error).contains(WRITTEN));
    }
}

// ---- Stable formats ----

fn golden() -> Record {
    Record {
        id: 18_446_744_073_709_551_615,
        delta: -70_000,
        ratio: 0.1,
        name: "Grüße, \"NATS\"\n\0".to_owned(),
        letter: 'ß',
        flag: true,
        note: None,
        parts: vec![0, 127, 128, 255, 256, 65_535],
        labels: BTreeMap::from([(String::new(), -1), ("a".to_owned(), 1)]),
        shape: Shape::Named { name: "box".to_owned(), tags: vec!["x".to_owned()] },
        pair: (7, "seven".to_owned()),
    }
}

fn stays<C: Codec<V>, V: PartialEq + Debug>(value: &V, golden: &[u8]) {
    assert_eq!(C::encode(value).unwrap(), golden);
    assert_eq!(&C::decode(golden).unwrap(), value);
}

#[test]
fn json_matches_the_golden_file() {
    stays::<Json, _>(&golden(), include_bytes!("golden/record.json"));
}

#[test]
fn msgpack_matches_the_golden_file() {
    stays::<MsgPack, _>(&golden(), include_bytes!("golden/record.msgpack"));
}

#[test]
fn text_matches_the_golden_file() {
    stays::<Text, _>(&-70_000_i64, include_bytes!("golden/number.text"));
}

#[test]
fn bytes_match_the_golden_file() {
    stays::<Bytes, _>(&vec![0_u8, 255, b'\n', b'k', 0xc3], include_bytes!("golden/some.bytes"));
}

#[test]
fn type_with_changed_fields_reads_golden_record() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Less {
        flag: bool,
        #[serde(default)]
        added: u8,
    }
    let less = Less { flag: true, added: 0 };
    assert_eq!(<Json as Codec<Less>>::decode(include_bytes!("golden/record.json")).unwrap(), less);
    assert_eq!(<MsgPack as Codec<Less>>::decode(include_bytes!("golden/record.msgpack")).unwrap(), less);
}
