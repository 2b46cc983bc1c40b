//! The probe finds the shapes of a zoo of types.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroI64, NonZeroU8};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use kvtyped::codec::{Bytes, Codec, Json, MsgPack, Text};
use kvtyped::schema::Schema;
use serde::de::{
    DeserializeOwned, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde::{Deserialize, Serialize};

use super::{inner, shape};

#[test]
fn scalars_have_their_kinds() {
    assert_eq!(shape::<bool>(), r#""bool""#);
    assert_eq!(shape::<u8>(), r#""u8""#);
    assert_eq!(shape::<i16>(), r#""i16""#);
    assert_eq!(shape::<usize>(), r#""u64""#);
    assert_eq!(shape::<i128>(), r#""i128""#);
    assert_eq!(shape::<u128>(), r#""u128""#);
    assert_eq!(shape::<f32>(), r#""f32""#);
    assert_eq!(shape::<f64>(), r#""f64""#);
    assert_eq!(shape::<char>(), r#""char""#);
    assert_eq!(shape::<String>(), r#""text""#);
    assert_eq!(shape::<()>(), r#""unit""#);
    assert_eq!(shape::<PhantomData<u8>>(), r#""unit""#);
    assert_eq!(shape::<NonZeroU8>(), r#""u8""#);
    assert_eq!(shape::<NonZeroI64>(), r#""i64""#);
    assert_eq!(shape::<IgnoredAny>(), r#""open""#);
}

#[test]
fn wrappers_have_the_shape_of_their_content() {
    #[derive(Deserialize)]
    struct Meters(#[allow(dead_code)] f64);
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Name {
        #[allow(dead_code)]
        inner: Box<str>,
    }
    assert_eq!(shape::<Meters>(), r#""f64""#);
    assert_eq!(shape::<Name>(), r#""text""#);
    assert_eq!(shape::<Box<u32>>(), r#""u32""#);
    assert_eq!(shape::<Cow<'static, str>>(), r#""text""#);
    assert_eq!(shape::<std::cell::Cell<u8>>(), r#""u8""#);
    assert_eq!(shape::<std::sync::Mutex<u8>>(), r#""u8""#);
    let _ = Arc::new(());
}

#[test]
fn containers_nest() {
    assert_eq!(shape::<Option<Option<u8>>>(), r#"{"option":{"option":"u8"}}"#);
    assert_eq!(shape::<Vec<Vec<u8>>>(), r#"{"seq":{"seq":"u8"}}"#);
    assert_eq!(shape::<HashSet<String>>(), r#"{"seq":"text"}"#);
    assert_eq!(shape::<(u8, Option<String>)>(), r#"{"tuple":["u8",{"option":"text"}]}"#);
    assert_eq!(shape::<[u8; 3]>(), r#"{"tuple":["u8","u8","u8"]}"#);
    assert_eq!(shape::<HashMap<u32, Vec<bool>>>(), r#"{"map":["u32",{"seq":"bool"}]}"#);
    assert_eq!(shape::<BTreeMap<String, BTreeMap<u8, char>>>(), r#"{"map":["text",{"map":["u8","char"]}]}"#);
}

#[test]
fn struct_has_names_aliases_and_required_fields() {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    #[allow(dead_code)]
    struct User {
        #[serde(alias = "nick", alias = "handle")]
        user_name: String,
        last_seen: Option<u64>,
        #[serde(default)]
        tags: Vec<String>,
        #[serde(skip)]
        cached: u8,
        #[serde(rename = "x")]
        y: i8,
        #[serde(with = "as_text")]
        with: Option<u8>,
    }
    mod as_text {
        pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<u8>, D::Error> {
            let text: String = serde::Deserialize::deserialize(d)?;
            text.parse().map(Some).map_err(serde::de::Error::custom)
        }
    }
    assert_eq!(
        shape::<User>(),
        concat!(
            r#"{"struct":{"lastSeen":{"presence":"optional","type":{"option":"u64"}},"#,
            r#""tags":{"presence":"optional","type":{"seq":"text"}},"#,
            r#""userName":{"aliases":["handle","nick"],"type":"text"},"with":{"type":"parsed_text"},"x":{"type":"i8"}}}"#
        )
    );
}

#[test]
fn struct_settings_are_found() {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Strict {
        a: u8,
        b: Option<u8>,
    }
    assert_eq!(
        shape::<Strict>(),
        r#"{"struct":{"a":{"type":"u8"},"b":{"presence":"optional","type":{"option":"u8"}}},"deny_unknown_fields":true}"#
    );
    #[derive(Default, Deserialize)]
    #[serde(default)]
    #[allow(dead_code)]
    struct Defaults {
        a: u8,
    }
    assert_eq!(shape::<Defaults>(), r#"{"struct":{"a":{"presence":"optional","type":"u8"}}}"#);
    #[derive(Deserialize)]
    struct Empty {}
    assert_eq!(shape::<Empty>(), r#"{"struct":{}}"#);
    #[derive(Deserialize)]
    struct Unit;
    assert_eq!(shape::<Unit>(), r#""unit""#);
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Pair(u8, String);
    assert_eq!(shape::<Pair>(), r#"{"tuple":["u8","text"]}"#);
}

#[test]
fn order_of_fields_is_irrelevant() {
    mod one {
        #[derive(serde::Deserialize)]
        #[allow(dead_code)]
        pub(super) struct It {
            a: u8,
            b: Option<u8>,
        }
    }
    mod two {
        #[derive(serde::Deserialize)]
        #[allow(dead_code)]
        pub(super) struct Renamed {
            b: Option<u8>,
            a: u8,
        }
    }
    let (one, two) = (Schema::probe::<one::It>(), Schema::probe::<two::Renamed>());
    assert_eq!(one, two);
    assert_eq!(one.fingerprint(), two.fingerprint());
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(dead_code)]
enum Role {
    Admin,
    #[serde(alias = "visitor", alias = "aaa")]
    Guest,
    Named(String),
    Both(u8, Option<u8>),
    WithFields {
        a: u8,
        #[serde(default)]
        b: u16,
    },
    Nothing(()),
}

#[test]
fn enum_has_variants_with_content() {
    assert_eq!(
        shape::<Role>(),
        concat!(
            r#"{"enum":{"aaa":{"aliases":["guest","visitor"]},"admin":{},"both":{"content":{"tuple":["u8",{"option":"u8"}]}},"#,
            r#""named":{"content":"text"},"nothing":{"content":"unit"},"#,
            r#""with-fields":{"content":{"struct":{"a":{"type":"u8"},"b":{"presence":"optional","type":"u16"}}}}}}"#
        )
    );
}

#[test]
fn other_variant_is_found() {
    #[derive(Deserialize)]
    enum Color {
        #[allow(dead_code)]
        Red,
        #[serde(other)]
        Other,
    }
    assert_eq!(shape::<Color>(), r#"{"enum":{"Other":{},"Red":{}},"other":true}"#);
    assert_eq!(shape::<Result<u8, String>>(), r#"{"enum":{"Err":{"content":"text"},"Ok":{"content":"u8"}}}"#);
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Tree {
    children: Vec<Tree>,
    next: Option<Box<Tree>>,
    name: String,
}

#[derive(Deserialize)]
#[allow(dead_code)]
enum Expr {
    Add(Box<Expr>, Box<Expr>, u8),
    Block { body: Vec<Expr>, last: Box<Expr> },
    Lit(i64),
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Ping {
    pong: Option<Box<Pong>>,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Pong {
    ping: Vec<Ping>,
    count: u8,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Endless {
    a: Box<Endless>,
    b: Box<Endless>,
}

#[test]
fn recursion_ends() {
    assert_eq!(
        shape::<Tree>(),
        concat!(
            r#"{"struct":{"children":{"type":{"seq":{"again":2}}},"name":{"type":"text"},"#,
            r#""next":{"presence":"optional","type":{"option":{"again":2}}}}}"#
        )
    );
    assert_eq!(
        shape::<Expr>(),
        concat!(
            r#"{"enum":{"Add":{"content":{"tuple":[{"again":2},{"again":2},"u8"]}},"#,
            r#""Block":{"content":{"struct":{"body":{"type":{"seq":{"again":3}}},"last":{"type":{"again":2}}}}},"#,
            r#""Lit":{"content":"i64"}}}"#
        )
    );
    assert_eq!(
        shape::<Ping>(),
        concat!(
            r#"{"struct":{"pong":{"presence":"optional","type":{"option":{"struct":{"count":{"type":"u8"},"#,
            r#""ping":{"type":{"seq":{"again":4}}}}}}}}}"#
        )
    );
    // No value of this type exists.
    assert!(shape::<Endless>().starts_with(r#"{"struct":{"a":{"#));
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Page<T> {
    item: T,
    more: Option<Box<Page<T>>>,
}

#[test]
fn generic_types_are_no_recursion() {
    let page = |item| {
        format!(
            r#"{{"struct":{{"item":{{"type":{item}}},"more":{{"presence":"optional","type":{{"option":{{"again":2}}}}}}}}}}"#
        )
    };
    assert_eq!(shape::<Page<Page<u8>>>(), page(page(r#""u8""#.to_owned())));
}

#[test]
fn parsed_text_is_found() {
    assert_eq!(shape::<IpAddr>(), r#""parsed_text""#);
    assert_eq!(shape::<SocketAddr>(), r#""parsed_text""#);
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Event {
        from: IpAddr,
        id: Uuid,
        level: u8,
        code: Unguessable,
    }
    struct Uuid;
    impl<'de> Deserialize<'de> for Uuid {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            if text.len() == 36 { Ok(Self) } else { Err(D::Error::custom("no UUID")) }
        }
    }
    #[derive(Deserialize)]
    #[serde(try_from = "String")]
    struct Unguessable;
    impl TryFrom<String> for Unguessable {
        type Error = &'static str;
        fn try_from(text: String) -> Result<Self, &'static str> {
            if text == "kvtyped!" { Ok(Self) } else { Err("no") }
        }
    }
    // `code` is the last field, so the requirements of the others are known.
    let json = shape::<Event>();
    assert!(
        json.contains(r#""from":{"type":"parsed_text"},"id":{"type":"parsed_text"},"level":{"type":"u8"}"#),
        "{json}"
    );
    assert!(json.contains(r#""code":{"type":"parsed_text"}"#), "{json}");
}

#[test]
fn standard_types_have_their_fields() {
    let duration = r#"{"struct":{"nanos":{"type":"u32"},"secs":{"type":"u64"}},"deny_unknown_fields":true}"#;
    assert_eq!(shape::<Duration>(), duration);
    let time = shape::<SystemTime>();
    assert!(time.contains(r#""secs_since_epoch":{"type":"u64"}"#), "{time}");
    assert_eq!(
        shape::<std::ops::Range<u8>>(),
        r#"{"struct":{"end":{"type":"u8"},"start":{"type":"u8"}},"deny_unknown_fields":true}"#
    );
}

#[test]
fn values_without_fixed_shape_are_open() {
    #[derive(Deserialize)]
    #[serde(tag = "type")]
    #[allow(dead_code)]
    enum Tagged {
        A { a: u8, b: String },
        B,
    }
    #[derive(Deserialize)]
    #[serde(tag = "t", content = "c")]
    #[allow(dead_code)]
    enum Adjacent {
        A(u8),
        B { b: String },
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    #[allow(dead_code)]
    enum Untagged {
        A { a: u8 },
        B(String),
    }
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Flat {
        id: u8,
        #[serde(flatten)]
        rest: HashMap<String, u8>,
    }
    for open in [shape::<Tagged>(), shape::<Adjacent>(), shape::<Untagged>(), shape::<Flat>()] {
        assert_eq!(open, r#""open""#);
    }
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct All {
        tagged: Tagged,
        adjacent: Adjacent,
        untagged: Untagged,
        flat: Flat,
        after: Option<u8>,
    }
    assert_eq!(
        shape::<All>(),
        concat!(
            r#"{"struct":{"adjacent":{"type":"open"},"after":{"presence":"optional","type":{"option":"u8"}},"#,
            r#""flat":{"type":"open"},"tagged":{"type":"open"},"untagged":{"type":"open"}}}"#
        )
    );
}

#[test]
fn conversions_are_tried_until_one_works() {
    #[derive(Deserialize)]
    #[serde(from = "(u8, u8)")]
    struct From2;
    impl From<(u8, u8)> for From2 {
        fn from(_: (u8, u8)) -> Self {
            Self
        }
    }
    #[derive(Deserialize)]
    #[serde(try_from = "u16")]
    struct Even;
    impl TryFrom<u16> for Even {
        type Error = &'static str;
        fn try_from(number: u16) -> Result<Self, &'static str> {
            if number.is_multiple_of(2) { Ok(Self) } else { Err("odd") }
        }
    }
    #[derive(Deserialize)]
    #[serde(try_from = "Vec<u8>")]
    struct NonEmpty;
    impl TryFrom<Vec<u8>> for NonEmpty {
        type Error = &'static str;
        fn try_from(list: Vec<u8>) -> Result<Self, &'static str> {
            if list.is_empty() { Err("empty") } else { Ok(Self) }
        }
    }
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct All {
        from: From2,
        even: Even,
        list: NonEmpty,
        last: bool,
    }
    assert_eq!(
        shape::<All>(),
        concat!(
            r#"{"struct":{"even":{"type":"u16"},"from":{"type":{"tuple":["u8","u8"]}},"last":{"type":"bool"},"#,
            r#""list":{"type":{"seq":"u8"}}}}"#
        )
    );
}

/// A hand-written type that behaves in an unusual way.
macro_rules! unusual {
    ($name:ident, $request:ident, |$visitor:ident: $access:ident| $body:block) => {
        struct $name;
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visit;
                impl<'de> Visitor<'de> for Visit {
                    type Value = $name;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("something")
                    }
                    unusual!($access, $visitor, $body);
                }
                deserializer.$request(Visit)
            }
        }
    };
    (seq, $visitor:ident, $body:block) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut $visitor: A) -> Result<Self::Value, A::Error> $body
    };
    (map, $visitor:ident, $body:block) => {
        fn visit_map<A: MapAccess<'de>>(self, mut $visitor: A) -> Result<Self::Value, A::Error> $body
    };
}

unusual!(Greedy, deserialize_seq, |items: seq| {
    while items.next_element::<Vec<Greedy>>()?.is_some() {}
    Ok(Self::Value {})
});
unusual!(Keyed, deserialize_map, |entries: map| {
    let mut found = false;
    while let Some(key) = entries.next_key::<String>()? {
        found |= key == "must";
        entries.next_value::<u8>()?;
    }
    if found { Ok(Self::Value {}) } else { Err(A::Error::missing_field("must")) }
});
unusual!(Panics, deserialize_seq, |_items: seq| { panic!("a type that panics") });
unusual!(Refuses, deserialize_seq, |_items: seq| { Err(A::Error::custom("never")) });

#[test]
fn unusual_types_return() {
    assert_eq!(shape::<Greedy>(), r#"{"seq":{"seq":{"again":2}}}"#);
    assert_eq!(shape::<Keyed>(), r#""open""#);
    assert_eq!(shape::<Refuses>(), r#""open""#);
    assert!(Schema::probe::<(u8, Panics)>().is_open());
}

#[test]
fn large_types_stay_within_limits() {
    type Deep4<T> = Option<Vec<Option<Vec<T>>>>;
    type Deep16<T> = Deep4<Deep4<Deep4<Deep4<T>>>>;
    let json = shape::<Deep16<Deep16<Deep16<Deep16<u8>>>>>();
    assert!(
        json.contains("open") && Schema::from_json(&Schema::probe::<Deep16<Deep16<Deep16<u8>>>>().to_json()).is_ok()
    );

    type Wide<T> = [Box<T>; 8];
    let start = std::time::Instant::now();
    let wide = Schema::probe::<Wide<Wide<Wide<Wide<Wide<Option<Tree>>>>>>>();
    assert!(wide.to_json().len() < 1 << 20);
    assert_eq!(Schema::from_json(&wide.to_json()).unwrap(), wide);
    assert!(start.elapsed().as_secs() < 20, "the work is bounded: {:?}", start.elapsed());
}

#[test]
fn enum_with_many_variants_is_found() {
    struct Many;
    impl<'de> Deserialize<'de> for Many {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visit;
            impl<'de> Visitor<'de> for Visit {
                type Value = Many;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("a variant")
                }
                fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<Many, A::Error> {
                    let (name, content) = variant.variant::<String>()?;
                    match name.as_str() {
                        "v0" => content.unit_variant(),
                        name if NAMES.contains(&name) => content.newtype_variant::<Ping>().map(drop),
                        _ => Err(A::Error::custom("unknown")),
                    }?;
                    Ok(Many)
                }
            }
            deserializer.deserialize_enum("Many", &NAMES, Visit)
        }
    }
    static NAMES: LazyLock<Vec<&'static str>> =
        LazyLock::new(|| (0..300).map(|at| &*Box::leak(format!("v{at}").into_boxed_str())).collect());
    let json = shape::<Many>();
    assert!(json.contains(r#""v0":{},"#) && json.contains(r#""v299":{"content":{"struct":{"pong""#), "{json}");
    assert!(!json.contains("open") && !json.contains("unknown"), "{json}");
}

#[test]
fn codecs_have_schemas() {
    fn of<C: Codec<V>, V>() -> String {
        inner(&C::schema())
    }
    assert_eq!(of::<Text, u64>(), r#""text""#);
    assert_eq!(of::<Bytes, Vec<u8>>(), r#""bytes""#);
    assert_eq!(of::<Json, Vec<u8>>(), r#"{"seq":"u8"}"#);
    assert_eq!(of::<MsgPack, Vec<u8>>(), r#"{"seq":"u8"}"#);
    assert_eq!(of::<Json, IpAddr>(), r#""parsed_text""#);
    assert!(of::<MsgPack, IpAddr>().starts_with(r#"{"enum":{"V4":{"content":{"tuple":["u8","u8","u8","u8"]}}"#));
    enum Own {}
    impl Codec<u8> for Own {
        const NAME: &'static str = "own";
        fn encode(value: &u8) -> Result<Vec<u8>, kvtyped::codec::CodecError> {
            Ok(vec![*value])
        }
        fn decode(bytes: &[u8]) -> Result<u8, kvtyped::codec::CodecError> {
            bytes.first().copied().ok_or_else(|| kvtyped::codec::CodecError::new("own", "empty"))
        }
    }
    assert!(Own::schema().is_open());
}

/// Prints the duration of a probe: `cargo test --release .. -- --ignored --nocapture probe_duration`.
#[test]
#[ignore = "a measurement"]
fn probe_duration() {
    #[derive(Serialize, Deserialize)]
    struct Ten {
        a: u64,
        b: String,
        c: Option<String>,
        d: bool,
        e: u32,
        f: Vec<String>,
        g: Option<u64>,
        h: f64,
        i: String,
        j: i32,
    }
    #[derive(Serialize, Deserialize)]
    struct Nested {
        id: u64,
        one: Ten,
        two: Option<Ten>,
        list: Vec<Ten>,
    }
    fn time<V: DeserializeOwned>(name: &str) {
        let start = std::time::Instant::now();
        for _ in 0..1_000 {
            std::hint::black_box(Schema::probe::<V>());
        }
        println!("{name}: {:?}", start.elapsed() / 1_000);
    }
    time::<Ten>("10 fields");
    time::<Nested>("4 fields, 3 nested structs of 10");
    time::<Role>("6 variants");
}
