//! Schema versions: the chain of upgrades, the conversions back, and the attributes of a model.

use kvtyped::codec::Codec;
use kvtyped::config::WriteEpochs;
use kvtyped::model::DecodeError;
use kvtyped::prelude::*;
use kvtyped::{KvVersion, UnknownFields};

// ---- A chain of three versions ----

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "users", key = "{id}", version = 3, upgrade_from = UserV2, writes = 1)]
struct User {
    id: u64,
    first: String,
    last: String,
    email: Option<String>,
}

#[derive(Clone, Serialize, Deserialize, KvVersion)]
#[kv(version = 2, upgrade_from = UserV1, writes = 1)]
struct UserV2 {
    id: u64,
    first: String,
    last: String,
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 1, codec = MsgPack)]
struct UserV1 {
    id: u64,
    name: String,
}

impl From<UserV2> for User {
    fn from(UserV2 { id, first, last }: UserV2) -> Self {
        Self { id, first, last, email: None }
    }
}

impl From<User> for UserV2 {
    fn from(User { id, first, last, .. }: User) -> Self {
        Self { id, first, last }
    }
}

impl TryFrom<UserV1> for UserV2 {
    type Error = String;

    fn try_from(UserV1 { id, name }: UserV1) -> Result<Self, String> {
        let (first, last) = name.split_once(' ').ok_or("a name has two words")?;
        Ok(Self { id, first: first.into(), last: last.into() })
    }
}

impl From<UserV2> for UserV1 {
    fn from(UserV2 { id, first, last }: UserV2) -> Self {
        Self { id, name: format!("{first} {last}") }
    }
}

fn ada() -> User {
    User { id: 7, first: "Ada".into(), last: "Lovelace".into(), email: None }
}

#[test]
fn each_version_is_decoded_and_upgraded() {
    let v1 = MsgPack::encode(&UserV1 { id: 7, name: "Ada Lovelace".into() }).unwrap();
    let v2 = br#"{"id":7,"first":"Ada","last":"Lovelace"}"#;
    let v3 = br#"{"id":7,"first":"Ada","last":"Lovelace","email":null}"#;
    for (version, bytes) in [(1, &*v1), (2, v2), (3, v3)] {
        assert_eq!(User::decode(version, bytes).unwrap(), ada(), "version {version}");
    }
    assert_eq!((User::VERSION, User::OLDEST, User::WRITES), (3, 1, 1));
    assert_eq!((UserV2::VERSION, UserV2::OLDEST, UserV2::WRITES), (2, 1, 1));
    assert_eq!((UserV1::VERSION, UserV1::OLDEST, UserV1::WRITES), (1, 1, 1));
}

#[test]
fn each_written_version_is_read_back() {
    for version in 1..=3 {
        let bytes = ada().encode(version).unwrap();
        assert_eq!(User::decode(version, &bytes).unwrap(), ada(), "version {version}");
    }
    assert!(ada().encode(4).is_err());
    assert!(ada().encode(0).is_err());
}

#[test]
fn version_outside_of_the_chain_is_refused() {
    assert!(matches!(User::decode(4, b"{}"), Err(DecodeError::Newer { found: 4, knows: 3 })));
    assert!(matches!(User::decode(0, b"{}"), Err(DecodeError::Codec(_))));
    assert!(matches!(Late::decode(4, b"{}"), Err(DecodeError::TooOld { found: 4, oldest: 5 })));
}

#[test]
fn failed_upgrade_names_both_versions_and_no_content() {
    let v1 = MsgPack::encode(&UserV1 { id: 7, name: "Ada".into() }).unwrap();
    let error = User::decode(1, &v1).unwrap_err();
    assert!(matches!(error, DecodeError::Upgrade { from: 1, to: 2, .. }));
    assert_eq!(error.to_string(), "a record of schema version 1 cannot be upgraded to version 2");
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 5)]
struct Late {}

// ---- Shapes ----

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 1)]
struct Pair(u32, String);

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 2, upgrade_from = Pair)]
enum Shape {
    Unit,
    Named { at: u32, text: String },
}

impl From<Pair> for Shape {
    fn from(Pair(at, text): Pair) -> Self {
        if text.is_empty() { Self::Unit } else { Self::Named { at, text } }
    }
}

#[test]
fn tuple_structs_and_enums_are_versions() {
    assert!(matches!(Shape::decode(1, br#"[1,""]"#).unwrap(), Shape::Unit));
    assert!(matches!(Shape::decode(1, br#"[1,"a"]"#).unwrap(), Shape::Named { at: 1, text } if text == "a"));
    assert!(matches!(Shape::decode(2, br#""Unit""#).unwrap(), Shape::Unit));
}

// ---- A model of a bare value ----

#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(key = "limit.{name}", version = 2, upgrade_from = LimitV1, writes = 1)]
struct Limit {
    name: String,
    #[kv(value)]
    value: LimitValue,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct LimitValue {
    soft: u32,
    hard: u32,
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 1)]
struct LimitV1(u32);

impl From<LimitV1> for LimitValue {
    fn from(LimitV1(hard): LimitV1) -> Self {
        Self { soft: hard, hard }
    }
}

impl From<LimitValue> for LimitV1 {
    fn from(value: LimitValue) -> Self {
        Self(value.hard)
    }
}

#[test]
fn version_of_a_value_model_is_that_of_its_value() {
    let schema = format!("{:?}", Limit::SCHEMA);
    assert_eq!(schema, r#"ModelSchema { name: "limit", version: 2, oldest: 1, writes: 1, .. }"#);
}

// ---- Generic models ----

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", version = 2, upgrade_from = BoxedV1<T>, writes = 1)]
#[serde(bound = "T: Serialize + serde::de::DeserializeOwned")]
struct Boxed<T> {
    id: u64,
    content: Vec<T>,
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 1)]
#[serde(bound = "T: Serialize + serde::de::DeserializeOwned")]
struct BoxedV1<T> {
    id: u64,
    content: T,
}

impl<T> From<BoxedV1<T>> for Boxed<T> {
    fn from(old: BoxedV1<T>) -> Self {
        Self { id: old.id, content: vec![old.content] }
    }
}

impl<T: Default> From<Boxed<T>> for BoxedV1<T> {
    fn from(mut new: Boxed<T>) -> Self {
        Self { id: new.id, content: new.content.pop().unwrap_or_default() }
    }
}

#[test]
fn generic_models_have_versions() {
    let boxed = Boxed { id: 1, content: vec![5_u8] };
    assert_eq!(Boxed::<u8>::decode(1, br#"{"id":1,"content":5}"#).unwrap(), boxed);
    assert_eq!(boxed.encode(1).unwrap(), br#"{"id":1,"content":5}"#);
    assert_eq!(<Boxed<u8> as KvVersion>::OLDEST, 1);
}

// ---- Other attributes ----

#[test]
fn model_without_a_version_is_version_1_of_its_snake_case_name() {
    let schema = format!("{:?}", super::AppConfig::SCHEMA);
    assert_eq!(schema, r#"ModelSchema { name: "app_config", version: 1, oldest: 1, writes: 1, .. }"#);
    assert_eq!(super::AppConfig::VERSION, 1);
}

#[test]
fn every_version_attribute_compiles_together() {
    #[derive(Clone, Serialize, Deserialize, KvModel)]
    #[kv(key = "{id}", name = "note-2", version = 2, upgrade_from = NoteV1, writes = 1, unversioned = 2)]
    #[kv(newer = "keep", write_epochs = "closed")]
    #[serde(rename_all = "camelCase")]
    struct Note {
        id: u64,
        #[kv(version)]
        schema_version: u32,
        #[serde(flatten)]
        rest: UnknownFields,
    }

    #[derive(Serialize, Deserialize, KvVersion)]
    #[kv(version = 1)]
    struct NoteV1 {
        id: u64,
        #[kv(version)]
        #[serde(rename = "schemaVersion")]
        version: u32,
    }

    impl From<NoteV1> for Note {
        fn from(old: NoteV1) -> Self {
            Self { id: old.id, schema_version: old.version + 1, rest: UnknownFields::default() }
        }
    }

    impl From<Note> for NoteV1 {
        fn from(new: Note) -> Self {
            Self { id: new.id, version: 1 }
        }
    }

    let schema = format!("{:?}", Note::SCHEMA);
    assert_eq!(schema, r#"ModelSchema { name: "note-2", version: 2, oldest: 1, writes: 1, .. }"#);
    assert_eq!(Note::settings().write_epochs, Some(WriteEpochs::Closed));
    assert_eq!(Note::decode(1, br#"{"id":1,"schemaVersion":1}"#).unwrap().schema_version, 2);
}
