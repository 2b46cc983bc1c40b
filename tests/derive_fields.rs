//! The fields of a key: visibility, types, serde attributes, and the rest field.

use std::fmt;
use std::marker::PhantomData;

use kvtyped::codec::Text;
use kvtyped::key::{KeyError, SegmentError, SegmentWriter};
use kvtyped::prelude::*;
use kvtyped::{Filter, Key};

use super::{filters, round_trips};

// ---- `Self` ----

trait Owner {
    type Id: KeySegment;
}

/// The id of a record of `T`.
struct Id<T>(u32, PhantomData<fn() -> T>);

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        Self(self.0, PhantomData)
    }
}

impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({})", self.0)
    }
}

impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> Eq for Id<T> {}

impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl<T> std::hash::Hash for Id<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl<T: 'static> KeySegment for Id<T> {
    fn write_segment(&self, out: &mut SegmentWriter<'_>) -> fmt::Result {
        self.0.write_segment(out)
    }

    fn parse_segment(text: &str) -> Result<Self, SegmentError> {
        u32::parse_segment(text).map(|number| Self(number, PhantomData))
    }
}

#[derive(KvModel)]
#[kv(key = "{id}.{owner}", codec = Text)]
struct Plain {
    id: Id<Self>,
    owner: <Self as Owner>::Id,
    #[kv(value)]
    value: u8,
}

impl Owner for Plain {
    type Id = String;
}

#[test]
fn self_in_the_type_of_a_key_field_is_the_model() {
    let row = Plain { id: Id(7, PhantomData), owner: "ada".into(), value: 1 };
    assert_eq!(row.stored(), &1);
    round_trips(&row.key(), "7.ada");
    let key: PlainKey = PlainKey { id: Id::<Plain>(7, PhantomData), owner: "ada".to_owned() };
    assert_eq!(row.key(), key);
    filters::<Plain>(PlainKey::filter().owner("ada"), "*.ada");
}

#[test]
fn self_in_the_key_of_a_generic_model_is_the_model() {
    #[derive(KvModel)]
    #[kv(key = "{id}", codec = Text)]
    struct Generic<T: Send + Sync + 'static> {
        id: Id<Self>,
        #[kv(value)]
        value: PhantomText<T>,
    }

    struct PhantomText<T>(PhantomData<fn() -> T>);

    impl<T> fmt::Display for PhantomText<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("-")
        }
    }

    impl<T> std::str::FromStr for PhantomText<T> {
        type Err = fmt::Error;

        fn from_str(_: &str) -> Result<Self, fmt::Error> {
            Ok(Self(PhantomData))
        }
    }

    let row = Generic::<u8> { id: Id(7, PhantomData), value: PhantomText(PhantomData) };
    let key: GenericKey<u8> = row.key();
    round_trips(&key, "7");
    assert_eq!(row.stored().to_string(), "-");
}

// ---- Visibility and names ----

/// A public model with a private field.
pub mod hidden {
    use kvtyped::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, KeySegment)]
    struct Secret(u8);

    impl From<u8> for Secret {
        fn from(number: u8) -> Self {
            Self(number)
        }
    }

    /// The model.
    #[derive(Debug, Serialize, Deserialize, KvModel)]
    #[kv(key = "{tenant}.{secret}", key_name = "HiddenId", filter_name = "HiddenIds")]
    pub struct Hidden {
        /// The tenant.
        pub tenant: String,
        secret: Secret,
    }

    /// This name is in use, as is the name of its filter.
    #[derive(Debug)]
    pub struct HiddenKey;

    /// Taken.
    #[derive(Debug)]
    pub struct HiddenFilter;

    /// A model.
    pub fn hidden() -> Hidden {
        Hidden { tenant: "acme".into(), secret: Secret(3) }
    }
}

#[test]
fn names_of_the_generated_types_can_be_chosen() {
    let key: hidden::HiddenId = hidden::hidden().key();
    round_trips(&key, "acme.3");
    assert_eq!(key.tenant, "acme");
    let filter: hidden::HiddenIds = hidden::HiddenId::filter().tenant("acme");
    filters::<hidden::Hidden>(filter, "acme.*");
    assert_eq!(
        (format!("{:?}", hidden::HiddenKey), format!("{:?}", hidden::HiddenFilter)),
        ("HiddenKey".into(), "HiddenFilter".into())
    );
}

/// Fields whose setters look like methods of the standard library, written directly and by a macro.
#[test]
fn setters_may_have_any_name() {
    macro_rules! model {
        ($name:ident { $($field:ident: $type:ty),* $(,)? }) => {
            #[derive(Debug, Serialize, Deserialize, KvModel)]
            struct $name {
                $(#[kv(key)] $field: $type,)*
            }
        };
    }
    model!(Made {
        is_active: bool,
        to_user: u8,
        into_group: u8,
        as_text: char,
        from_where: u8,
        add: u8,
        not: u8,
        next: u8
    });

    #[derive(Debug, Serialize, Deserialize, KvModel)]
    #[kv(key = "{is_active}.{to_user}.{from_where}.{add}.{neg}.{mul}.{default}.{from_str}")]
    struct Written {
        is_active: bool,
        to_user: u8,
        from_where: u8,
        add: u8,
        neg: u8,
        mul: u8,
        default: u8,
        from_str: u8,
    }

    filters::<Made>(MadeKey::filter().is_active(true).add(1), "true.*.*.*.*.1.*.*");
    filters::<Written>(WrittenKey::filter().to_user(1).default(2), "*.1.*.*.*.*.2.*");
}

// ---- The cases of variants ----

#[test]
fn rename_all_is_the_rule_of_serde() {
    macro_rules! same_as_serde {
        ($($case:tt)*) => {$({
            #[allow(clippy::upper_case_acronyms, non_camel_case_types)]
            #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, KeySegment)]
            #[kv(rename_all = $case)]
            #[serde(rename_all = $case)]
            enum Variant { EuWest, HTTPServer, A, Utf8Row, Io2, XY, Snake_case, NeuÄnder }

            use Variant::{A, EuWest, HTTPServer, Io2, Snake_case, Utf8Row, XY, NeuÄnder};
            for variant in [EuWest, HTTPServer, A, Utf8Row, Io2, XY, Snake_case, NeuÄnder] {
                let mut key = kvtyped::key::KeyBuilder::new();
                let text = kvtyped::key::unescape(key.segment(&variant).as_str()).unwrap().into_owned();
                assert_eq!(serde_json::to_string(&variant).unwrap(), format!("{text:?}"), "{}", $case);
            }
        })*};
    }
    same_as_serde!(
        "lowercase" "UPPERCASE" "PascalCase" "camelCase" "snake_case" "SCREAMING_SNAKE_CASE" "kebab-case"
        "SCREAMING-KEBAB-CASE"
    );
}

// ---- Serde attributes of key fields ----

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "{a}.{b}.{c}.{d}.{e}")]
struct Attributed {
    #[serde(skip_serializing, default)]
    a: String,
    #[serde(rename(serialize = "bee"), alias = "bee")]
    b: u8,
    #[serde(rename(serialize = "see", deserialize = "see"), alias = "sea")]
    c: u8,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    d: String,
    #[serde(skip)]
    e: char,
}

/// The default of the struct fills the missing fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KvModel)]
#[serde(default, rename_all = "camelCase")]
#[kv(key = "{the_id}")]
struct Filled {
    #[serde(skip_serializing)]
    the_id: u8,
    the_rest: u8,
}

#[tokio::test]
async fn serde_attributes_of_key_fields_work() {
    let store = Store::memory();
    let records = store.bucket::<Attributed>().await.unwrap();
    for d in ["", "d"] {
        let record = Attributed { a: "a".into(), b: 2, c: 3, d: d.into(), e: 'e' };
        assert!(records.put(&record).await.is_ok());
        assert_eq!(records.get(&record.key()).await.unwrap().expect("it was put").into_value(), record);
    }
    let records = store.bucket::<Filled>().await.unwrap();
    let record = Filled { the_id: 7, the_rest: 8 };
    assert!(records.put(&record).await.is_ok());
    assert_eq!(records.get(&record.key()).await.unwrap().expect("it was put").into_value(), record);
}

// ---- The rest of a key ----

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "files.{owner}.{path..}")]
struct File {
    owner: u8,
    path: String,
}

#[test]
fn the_last_field_takes_the_rest_of_the_key() {
    for (path, text) in [
        ("usr", "files.1.usr"),
        ("usr.lib.x", "files.1.usr.lib.x"),
        ("a b.*.>", "files.1.a=20b.=2A.=3E"),
        ("", "files.1.=_"),
        (".", "files.1.=_.=_"),
        ("a..b", "files.1.a.=_.b"),
    ] {
        round_trips(&FileKey::new(1, path), text);
    }
    let error = "files.1.a=2Eb".parse::<FileKey>().unwrap_err();
    assert_eq!(error, KeyError::Segment { field: "path", error: SegmentError::Escape });
    assert!(matches!("files.1".parse::<FileKey>(), Err(KeyError::Shape { .. })));
}

#[test]
fn a_filter_of_the_rest_is_exact_or_all_below() {
    filters::<File>(.., "files.*.>");
    filters::<File>(FileKey::filter().owner(1), "files.1.>");
    filters::<File>(FileKey::filter().path("usr.lib"), "files.*.usr.lib");
    filters::<File>(FileKey::filter().path_below("usr.l*"), "files.*.usr.l=2A.>");
    filters::<File>(FileKey::filter().path_below("usr").path("usr"), "files.*.usr");
    let below: Filter<File> = FileKey::filter().owner(1).path_below("usr").into();
    assert!(below.matches(&FileKey::new(1, "usr.lib.x")));
    assert!(!below.matches(&FileKey::new(1, "usr")));
    assert!(!below.matches(&FileKey::new(1, "usrx.lib")));
    assert!(!below.matches(&FileKey::new(2, "usr.lib")));
}

#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(bucket = "foreign", key = "{key..}", codec = kvtyped::codec::Bytes)]
struct Foreign {
    key: Key,
    #[kv(value)]
    bytes: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "foreign", key = "{id}")]
struct Typed {
    id: String,
}

#[tokio::test]
async fn a_key_of_another_client_is_read_and_written_verbatim() {
    let store = Store::memory();
    let foreign = store.bucket::<Foreign>().await.unwrap();
    for text in ["a=b", "YQ==", "a.b=2e.c", "plain"] {
        let key = Key::new(text).unwrap();
        round_trips(&ForeignKey::new(key.clone()), text);
        round_trips(&key, text);
        assert!(foreign.put(&Foreign { key, bytes: vec![1] }).await.is_ok());
    }
    assert_eq!(foreign.count(..).await.unwrap(), 4);
    let key = ForeignKey::new(Key::new("YQ==").unwrap());
    assert_eq!(foreign.get(&key).await.unwrap().expect("it was put").key, key.key);
    let below = ForeignKey::filter().key_below(Key::new("a").unwrap());
    filters::<Foreign>(below, "a.>");
    let typed = store.bucket::<Typed>().await.unwrap();
    let mut keys = std::pin::pin!(typed.keys(..).await.unwrap());
    let mut refused = Vec::new();
    while let Some(key) = keys.next().await {
        refused.extend(key.err().and_then(|error| error.key().map(str::to_owned)));
    }
    refused.sort();
    assert_eq!(refused, ["YQ==", "a=b"]);
}
