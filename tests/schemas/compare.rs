//! Verdicts, against the results of serde on every pair of a zoo of types.

#![allow(dead_code, reason = "serde reads the fields")]

use std::collections::BTreeMap;

use kvtyped::codec::{Codec, Json, MsgPack};
use kvtyped::schema::{Compatibility, Schema, Verdict, compare};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const YES: Verdict = Verdict::Yes;
const DATA: Verdict = Verdict::DataDecides;
const NO: Verdict = Verdict::No;

/// A type with values that show what a reader must accept.
struct Kind {
    name: &'static str,
    formats: [Format; 2],
}

struct Format {
    schema: Schema,
    records: Vec<Vec<u8>>,
    reads: fn(&[u8]) -> bool,
}

fn kind<V: Serialize + DeserializeOwned>(name: &'static str, values: Vec<V>) -> Kind {
    fn format<C: Codec<V>, V>(values: &[V]) -> Format {
        let records = values.iter().map(|value| C::encode(value).unwrap()).collect();
        Format { schema: C::schema(), records, reads: |record| C::decode(record).is_ok() }
    }
    Kind { name, formats: [format::<Json, V>(&values), format::<MsgPack, V>(&values)] }
}

macro_rules! types {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field:meta])* $of:ident: $type:ty),* } = [$($value:expr),*];)*) => {
        $(
            #[derive(Serialize, Deserialize)]
            $(#[$meta])*
            struct $name { $($(#[$field])* $of: $type),* }
        )*

        fn structs() -> Vec<Kind> {
            vec![$(kind(stringify!($name), vec![$($value),*])),*]
        }
    };
}

types! {
    One { a: u8 } = [One { a: 0 }, One { a: u8::MAX }];
    Wide { a: u64 } = [Wide { a: 0 }, Wide { a: u64::MAX }];
    Signed { a: i8 } = [Signed { a: i8::MIN }, Signed { a: 1 }];
    Float { a: f64 } = [Float { a: 0.5 }, Float { a: -1e300 }];
    Text { a: String } = [Text { a: "x".to_owned() }, Text { a: String::new() }];
    Maybe { a: Option<u8> } = [Maybe { a: None }, Maybe { a: Some(1) }];
    Skipped { #[serde(skip_serializing_if = "Option::is_none")] a: Option<u8> } = [Skipped { a: None }, Skipped { a: Some(1) }];
    Double { a: Option<Option<u8>> } = [Double { a: None }, Double { a: Some(None) }, Double { a: Some(Some(1)) }];
    Two { a: u8, b: u8 } = [Two { a: 1, b: 2 }];
    TwoMaybe { a: u8, #[serde(skip_serializing_if = "Option::is_none")] b: Option<u8> } = [TwoMaybe { a: 1, b: None }, TwoMaybe { a: 1, b: Some(2) }];
    TwoDefault { a: u8, #[serde(default, skip_serializing_if = "is_zero")] b: u8 } = [TwoDefault { a: 1, b: 0 }, TwoDefault { a: 1, b: 2 }];
    TwoNull { a: u8, b: Option<u8> } = [TwoNull { a: 1, b: None }];
    #[serde(deny_unknown_fields)]
    Strict { a: u8 } = [Strict { a: 1 }];
    #[serde(deny_unknown_fields)]
    StrictTwo { a: u8, #[serde(skip_serializing_if = "Option::is_none")] b: Option<u8> } = [StrictTwo { a: 1, b: None }, StrictTwo { a: 1, b: Some(2) }];
    Renamed { c: u8 } = [Renamed { c: 1 }];
    Aliased { #[serde(alias = "a")] c: u8 } = [Aliased { c: 1 }];
    Empty {} = [Empty {}];
    Nested { a: One } = [Nested { a: One { a: 1 } }];
    NestedMore { a: Two } = [NestedMore { a: Two { a: 1, b: 2 } }];
    List { a: Vec<u8> } = [List { a: vec![] }, List { a: vec![1, 255] }];
    ListWide { a: Vec<u16> } = [ListWide { a: vec![] }, ListWide { a: vec![1, 256] }];
    ListMaybe { a: Vec<Option<u8>> } = [ListMaybe { a: vec![None, Some(1)] }];
    ListStructs { a: Vec<Two> } = [ListStructs { a: vec![] }, ListStructs { a: vec![Two { a: 1, b: 2 }] }];
    Pair { a: (u8, u8) } = [Pair { a: (1, 2) }];
    Triple { a: (u8, u8, u8) } = [Triple { a: (1, 2, 3) }];
    Keys { a: BTreeMap<String, u8> } = [Keys { a: BTreeMap::from([("k".to_owned(), 1)]) }, Keys { a: BTreeMap::new() }];
    Numbers { a: BTreeMap<u8, u8> } = [Numbers { a: BTreeMap::from([(1, 1)]) }];
    KeysWide { a: BTreeMap<String, i64> } = [KeysWide { a: BTreeMap::from([("k".to_owned(), -1)]) }];
    Unit { a: () } = [Unit { a: () }];
    Marker { a: Nothing } = [Marker { a: Nothing }];
    Char { a: char } = [Char { a: 'x' }, Char { a: 'é' }];
    Flag { a: bool } = [Flag { a: true }, Flag { a: false }];
    Big { a: u128 } = [Big { a: 0 }, Big { a: u128::MAX }];
    BigSigned { a: i128 } = [BigSigned { a: i128::MIN }, BigSigned { a: 1 }];
    Single { a: f32 } = [Single { a: 0.5 }];
    Enum1 { a: Ab } = [Enum1 { a: Ab::A }, Enum1 { a: Ab::B }];
    Enum2 { a: Abc } = [Enum2 { a: Abc::A }, Enum2 { a: Abc::B }, Enum2 { a: Abc::C }];
    Enum3 { a: Other } = [Enum3 { a: Other::A }];
    Enum4 { a: Contents } = [Enum4 { a: Contents::A }, Enum4 { a: Contents::B(1) }, Enum4 { a: Contents::C { c: 1 } }, Enum4 { a: Contents::D(1, 2) }];
    Enum5 { a: Contents2 } = [Enum5 { a: Contents2::A }, Enum5 { a: Contents2::B(1) }, Enum5 { a: Contents2::C(Renamed { c: 1 }) }, Enum5 { a: Contents2::D((1, 2)) }];
    Enum6 { a: Contents3 } = [Enum6 { a: Contents3::A(1) }, Enum6 { a: Contents3::B }];
    Enum7 { a: AliasedVariant } = [Enum7 { a: AliasedVariant::A }, Enum7 { a: AliasedVariant::Z }];
    Bytes { a: Blob } = [Bytes { a: Blob(vec![1, 2]) }];
    Address { a: std::net::IpAddr } = [Address { a: "127.0.0.1".parse().unwrap() }, Address { a: "::1".parse().unwrap() }];
    Chain { a: Option<Box<Chain>> } = [Chain { a: None }, Chain { a: Some(Box::new(Chain { a: None })) }];
    Dynamic { a: serde_json::Value } = [Dynamic { a: serde_json::json!(null) }, Dynamic { a: serde_json::json!({ "x": [1] }) }];
}

fn is_zero(number: &u8) -> bool {
    *number == 0
}

#[derive(Serialize, Deserialize)]
struct Nothing;

#[derive(Serialize, Deserialize)]
enum Ab {
    A,
    B,
}

#[derive(Serialize, Deserialize)]
enum Abc {
    A,
    B,
    C,
}

#[derive(Serialize, Deserialize)]
enum Other {
    A,
    #[serde(other, skip_serializing)]
    Other,
}

#[derive(Serialize, Deserialize)]
enum Contents {
    A,
    B(u8),
    C { c: u8 },
    D(u8, u8),
}

#[derive(Serialize, Deserialize)]
enum Contents2 {
    A,
    B(u16),
    C(Renamed),
    D((u8, u8)),
}

#[derive(Serialize, Deserialize)]
enum Contents3 {
    A(u8),
    B,
}

#[derive(Serialize, Deserialize)]
enum AliasedVariant {
    A,
    #[serde(alias = "B")]
    Z,
}

#[derive(Deserialize)]
#[serde(from = "Vec<u8>")]
struct Blob(Vec<u8>);

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}

#[test]
fn verdicts_match_serde_on_all_pairs() {
    let kinds = structs();
    let mut wrong = Vec::new();
    let mut counts = [0; 3];
    for stored_kind in &kinds {
        for program in &kinds {
            for (at, codec) in ["JSON", "MessagePack"].into_iter().enumerate() {
                let (from, to) = (&stored_kind.formats[at], &program.formats[at]);
                let report = compare(&from.schema, &to.schema);
                let reads = from.records.iter().filter(|record| (to.reads)(record)).count();
                // A stored record may come from an earlier program: any record that the stored type reads.
                let stored = kinds.iter().flat_map(|kind| &kind.formats[at].records);
                let is_right = match report.backward() {
                    Verdict::Yes => reads == from.records.len(),
                    Verdict::No => stored.filter(|record| (from.reads)(record)).any(|record| !(to.reads)(record)),
                    _ => true,
                };
                counts[report.backward() as usize] += 1;
                assert_eq!(report.backward(), compare(&to.schema, &from.schema).forward());
                if !is_right {
                    let pair = format!("{codec}, {} as {}", stored_kind.name, program.name);
                    wrong.push(format!("{pair}: {reads} records can be read\n{report}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} pairs: {}", wrong.len(), wrong.join("\n"));
    // Most verdicts are definite, although most pairs have nothing in common.
    assert!(counts[0] > 300 && counts[1] < 1_300 && counts[2] > 2_000, "{counts:?}");
}

fn report<Old: DeserializeOwned, New: DeserializeOwned>() -> Compatibility {
    compare(&Schema::probe::<Old>(), &Schema::probe::<New>())
}

fn verdicts<Old: DeserializeOwned, New: DeserializeOwned>() -> (Verdict, Verdict) {
    let report = report::<Old, New>();
    (report.backward(), report.forward())
}

#[test]
fn table_of_changes_holds() {
    assert_eq!(verdicts::<One, TwoMaybe>(), (YES, YES), "add an optional field");
    assert_eq!(verdicts::<One, TwoDefault>(), (YES, YES), "add a field with a default");
    assert_eq!(verdicts::<One, Two>(), (NO, YES), "add a required field");
    assert_eq!(verdicts::<Two, One>(), (YES, NO), "remove a required field");
    assert_eq!(verdicts::<TwoMaybe, One>(), (YES, YES), "remove an optional field");
    assert_eq!(verdicts::<One, Renamed>(), (NO, NO), "rename");
    assert_eq!(verdicts::<One, Aliased>(), (YES, NO), "rename with an alias");
    assert_eq!(verdicts::<One, Wide>(), (YES, DATA), "widen an integer");
    assert_eq!(verdicts::<Wide, One>(), (DATA, YES), "narrow an integer");
    assert_eq!(verdicts::<One, Signed>(), (DATA, DATA), "change the sign");
    assert_eq!(verdicts::<One, Text>(), (NO, NO), "change the kind");
    assert_eq!(verdicts::<Maybe, One>(), (NO, YES), "make an optional field required");
    assert_eq!(verdicts::<One, Maybe>(), (YES, NO), "make a required field optional");
    assert_eq!(verdicts::<Enum1, Enum2>(), (YES, NO), "add a variant");
    assert_eq!(verdicts::<Enum2, Enum1>(), (NO, YES), "remove a variant");
    assert_eq!(verdicts::<Enum3, Enum2>(), (NO, YES), "add a variant, read by `other`");
    assert_eq!(verdicts::<Strict, TwoMaybe>(), (YES, NO), "add a field to a program that denies unknown fields");
    assert_eq!(verdicts::<TwoMaybe, Strict>(), (NO, YES), "remove a field and deny unknown fields");
    assert_eq!(verdicts::<One, Strict>(), (YES, YES), "deny unknown fields");
    assert_eq!(verdicts::<Nested, NestedMore>(), (NO, YES), "add a nested required field");
    assert_eq!(verdicts::<One, Dynamic>(), (DATA, DATA), "open");
    assert_eq!(verdicts::<Chain, Chain>(), (YES, YES), "recursion");
}

#[test]
fn report_has_aligned_lines_and_advice() {
    #[derive(Deserialize)]
    struct Old {
        email: Option<String>,
        age: u32,
        role: Ab,
        tags: Vec<One>,
        gone: bool,
    }
    #[derive(Deserialize)]
    struct New {
        email: String,
        nick: Option<String>,
        age: u8,
        role: Abc,
        tags: Vec<Two>,
    }
    let report = report::<Old, New>();
    let expected = "
  age     u32 there              u8 here                   BACKWARD, data decides: numbers beyond u8 cannot be read
  email   text, optional there   text, required here       BACKWARD: stored records without `email` cannot be read
  gone    bool, required there   -                         BACKWARD: this program drops `gone` when it writes; FORWARD: new records without `gone` cannot be read
  nick    -                      text, optional here       FORWARD: programs without `nick` drop it when they write
  role    2 variants there       + `C` here                FORWARD: programs of the stored schema cannot read `C` without `#[serde(other)]`
  tags[].b  -  x
";
    let lines: Vec<_> = report.to_string().lines().map(str::to_owned).collect();
    for line in expected.lines().filter(|line| !line.is_empty() && !line.contains("tags")) {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert!(lines.iter().any(|found| words(found) == words(line)), "{line}\n{report}");
    }
    // The columns begin at the same place in every line.
    let column = lines[0].find("BACKWARD");
    assert!(lines.iter().take(3).all(|line| line.find("BACKWARD") == column), "{report}");
    assert_eq!(lines.last().unwrap(), "add a schema version with `upgrade_from`, or give `email`, `tags[].b` defaults");
    let paths: Vec<_> = report.findings().iter().map(|finding| finding.path()).collect();
    assert_eq!(paths, ["age", "email", "gone", "nick", "role", "tags[].b"]);
    assert!(!report.is_identical());
}

#[test]
fn worst_of_several_reports_is_chosen() {
    let reports = [report::<One, One>(), report::<One, Two>(), report::<One, Wide>()];
    assert_eq!(Compatibility::worst(reports).unwrap(), report::<One, Two>());
    assert_eq!(Compatibility::worst([]), None);
}
