//! A read returns a value equal to the written one. A value that would not be read back equal is refused before it is
//! sent.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::fmt::Debug;
use std::net::IpAddr;

use kvtyped::codec::{Codec, CodecError, Text};
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::shapes::{Peel, Shape, Tree, Untagged};
use crate::support::on_both_backends;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "json", key = "{id}")]
struct InJson<V> {
    id: u64,
    value: V,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "msgpack", key = "{id}", codec = MsgPack)]
struct InMsgPack<V> {
    id: u64,
    value: V,
}

trait Stored: Serialize + DeserializeOwned + Send + Sync + 'static {}
impl<V: Serialize + DeserializeOwned + Send + Sync + 'static> Stored for V {}

fn reason(result: Result<Revision, Error>) -> String {
    let error = result.expect_err("the value does not come back");
    assert_eq!(error.outcome(), Outcome::NotApplied);
    match error.kind() {
        ErrorKind::Encode { detail, .. } => detail.clone(),
        other => panic!("{other:?}"),
    }
}

async fn put_in_json<V: Stored>(value: V) -> Result<Revision, Error> {
    Store::memory().bucket::<InJson<V>>().await?.put(&InJson { id: 1, value }).await
}

async fn put_in_msgpack<V: Stored>(value: V) -> Result<Revision, Error> {
    Store::memory().bucket::<InMsgPack<V>>().await?.put(&InMsgPack { id: 1, value }).await
}

async fn comes_back<V: Stored + Clone + Debug + PartialEq>(value: V) {
    let store = Store::memory();
    let records = store.bucket::<InJson<V>>().await.unwrap();
    let record = InJson { id: 1, value: value.clone() };
    records.put(&record).await.unwrap();
    assert_eq!(records.get(&record.key()).await.unwrap().expect("it was put").into_value(), record);
    let records = store.bucket::<InMsgPack<V>>().await.unwrap();
    let record = InMsgPack { id: 1, value };
    records.put(&record).await.unwrap();
    assert_eq!(records.get(&record.key()).await.unwrap().expect("it was put").into_value(), record);
}

// ---- Values that are not read back equal ----

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Flat<V> {
    a: u8,
    #[serde(flatten)]
    rest: V,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Number {
    number: u128,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t")]
enum Tagged<V> {
    One { value: V },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Either {
    Number(i64),
    Unsigned(u64),
    Address(IpAddr),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct NoDefault {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Pair(#[serde(skip_serializing)] u8, u8);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct NotRead {
    #[serde(skip_deserializing)]
    count: u8,
}

fn tree(depth: usize) -> Tree {
    (1..depth).fold(Tree { below: vec![] }, |tree, _| Tree { below: vec![tree] })
}

fn peel(depth: usize) -> Peel {
    (0..depth).fold(Peel::Core, |peel, _| Peel::Skin(Box::new(peel)))
}

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

#[tokio::test]
async fn values_that_no_read_accepts_are_refused() {
    let unreadable = "the value cannot be read back";
    let in_json = [
        reason(put_in_json(f64::NAN).await),
        reason(put_in_json(vec![1.0, f32::NEG_INFINITY]).await),
        reason(put_in_json(Flat { a: 1, rest: Number { number: u128::MAX } }).await),
        reason(put_in_json(Tagged::One { value: u128::MAX }).await),
        reason(put_in_json(Flat { a: 1, rest: HashMap::from([(7_u8, 1_u8)]) }).await),
        reason(put_in_json(Flat { a: 1, rest: BTreeMap::from([("a".to_owned(), 2)]) }).await),
        reason(put_in_json(NoDefault { tags: vec![] }).await),
        reason(put_in_json(Pair(1, 2)).await),
        reason(put_in_json(tree(70)).await),
        reason(put_in_json(peel(130)).await),
    ];
    for reason in in_json {
        assert!(reason.starts_with(unreadable), "{reason}");
    }
    let in_msgpack = [
        reason(put_in_msgpack(Flat { a: 1, rest: Number { number: u128::MAX } }).await),
        reason(put_in_msgpack(Tagged::One { value: ADDRESS }).await),
        reason(put_in_msgpack(Either::Address(ADDRESS)).await),
        reason(put_in_msgpack(Flat { a: 1, rest: BTreeMap::from([("a".to_owned(), 2)]) }).await),
        reason(put_in_msgpack(NoDefault { tags: vec![] }).await),
        reason(put_in_msgpack(Pair(1, 2)).await),
        reason(put_in_msgpack(tree(70)).await),
        reason(put_in_msgpack(peel(130)).await),
    ];
    for reason in in_msgpack {
        assert!(reason.starts_with(unreadable), "{reason}");
    }
}

#[tokio::test]
async fn values_that_change_on_the_way_are_refused_with_the_field() {
    let changed = "`value` differs when it is read back";
    assert_eq!(reason(put_in_json(Some(None::<u8>)).await), changed);
    assert_eq!(reason(put_in_json(Some(())).await), changed);
    assert_eq!(reason(put_in_json(Some(f64::INFINITY)).await), changed);
    assert_eq!(reason(put_in_json(Some(Value::Null)).await), changed);
    assert_eq!(reason(put_in_json(Either::Unsigned(5)).await), changed);
    assert_eq!(reason(put_in_json(vec![Some(()), None]).await), changed);
    assert_eq!(reason(put_in_json(HashMap::from([("secret".to_owned(), Some(()))])).await), changed);
    assert_eq!(reason(put_in_msgpack(Some(None::<u8>)).await), changed);
    assert_eq!(reason(put_in_msgpack(Some(())).await), changed);
    let inner = "`value.count` differs when it is read back";
    assert_eq!(reason(put_in_json(NotRead { count: 1 }).await), inner);
    assert_eq!(reason(put_in_msgpack(Some(NotRead { count: 1 })).await), inner);
}

#[tokio::test]
async fn values_deeper_than_a_stack_are_refused() {
    let depth = "it nests deeper than 127";
    assert_eq!(reason(put_in_json(tree(1_000)).await), depth);
    assert_eq!(reason(put_in_msgpack(peel(1_000)).await), depth);
}

#[tokio::test]
async fn values_similar_to_refused_ones_are_read_back_equal() {
    comes_back(Some(Some(1_u8))).await;
    comes_back((None::<Option<u8>>, ())).await;
    comes_back((f64::MAX, -0.0_f64, f32::MIN_POSITIVE)).await;
    comes_back((u128::MAX, i128::MIN)).await;
    comes_back(ADDRESS).await;
    comes_back(Flat { a: 1, rest: BTreeMap::from([("b".to_owned(), 2)]) }).await;
    comes_back(NoDefault { tags: vec!["a".to_owned()] }).await;
    comes_back(NotRead { count: 0 }).await;
    comes_back(Either::Number(5)).await;
    comes_back(Either::Unsigned(u64::MAX)).await;
    comes_back(Untagged::Many(vec![Untagged::Number(1)])).await;
    comes_back(tree(60)).await;
    comes_back(vec![Shape::Point, Shape::Circle(0.1)]).await;
    comes_back(serde_json::json!({ "a": [null, 1, -1, 0.5, "x", { "b": true }] })).await;
    put_in_msgpack(f64::NAN).await.unwrap();
    put_in_msgpack(Some(f64::INFINITY)).await.unwrap();
}

#[tokio::test]
async fn the_order_of_hash_maps_and_sets_is_ignored() {
    let numbers = 0..200_u32;
    comes_back(numbers.clone().collect::<HashSet<_>>()).await;
    comes_back(numbers.clone().map(|n| (n, n.to_string())).collect::<HashMap<_, _>>()).await;
    put_in_json(numbers.clone().rev().collect::<BinaryHeap<_>>()).await.unwrap();
    let records = Store::memory().bucket::<InHexadecimal>().await.unwrap();
    records.put(&InHexadecimal { id: 1, value: numbers.collect() }).await.unwrap();
}

// ---- Custom codecs ----

/// Numbers as hexadecimal text in any order. Decoding leaves out 13.
enum Hexadecimal {}

impl Codec<HashSet<u32>> for Hexadecimal {
    const NAME: &'static str = "hexadecimal";

    fn encode(value: &HashSet<u32>) -> Result<Vec<u8>, CodecError> {
        Ok(value.iter().map(|number| format!("{number:x} ")).collect::<String>().into_bytes())
    }

    fn decode(bytes: &[u8]) -> Result<HashSet<u32>, CodecError> {
        let text = std::str::from_utf8(bytes).map_err(|_| CodecError::new(Self::NAME, "no text"))?;
        let numbers = text.split_whitespace().map(|number| u32::from_str_radix(number, 16));
        let numbers = numbers.collect::<Result<HashSet<_>, _>>();
        numbers.map_err(|_| CodecError::new(Self::NAME, "no number"))
    }
}

#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(bucket = "hexadecimal", key = "{id}", codec = Hexadecimal)]
struct InHexadecimal {
    id: u64,
    #[kv(value)]
    value: HashSet<u32>,
}

/// Text that decoding trims.
#[derive(Clone, Debug, PartialEq)]
struct Trimmed(String);

impl std::fmt::Display for Trimmed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Trimmed {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.trim().to_owned()))
    }
}

#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(bucket = "words", key = "{id}", codec = Text)]
struct Word {
    id: u64,
    #[kv(value)]
    text: Trimmed,
}

/// A codec that caps numbers at 100, and compares with `==`.
enum Small {}

impl Codec<u64> for Small {
    const NAME: &'static str = "small";

    fn encode(value: &u64) -> Result<Vec<u8>, CodecError> {
        Ok(vec![u8::try_from(*value).unwrap_or(100).min(100)])
    }

    fn decode(bytes: &[u8]) -> Result<u64, CodecError> {
        bytes.first().map(|byte| u64::from(*byte)).ok_or_else(|| CodecError::new(Self::NAME, "no byte"))
    }

    fn verify(written: &u64, read: &u64) -> Result<(), CodecError> {
        if written == read { Ok(()) } else { Err(CodecError::new(Self::NAME, "it is above 100")) }
    }
}

#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(bucket = "small", key = "{id}", codec = Small)]
struct Score {
    id: u64,
    #[kv(value)]
    score: u64,
}

#[tokio::test]
async fn custom_codecs_are_verified_too() {
    let store = Store::memory();
    let words = store.bucket::<Word>().await.unwrap();
    words.put(&Word { id: 1, text: Trimmed("ada".to_owned()) }).await.unwrap();
    let reason_of_text = reason(words.put(&Word { id: 1, text: Trimmed(" ada".to_owned()) }).await);
    assert_eq!(reason_of_text, "the value differs when it is read back");
    let scores = store.bucket::<Score>().await.unwrap();
    scores.put(&Score { id: 1, score: 100 }).await.unwrap();
    assert_eq!(reason(scores.put(&Score { id: 1, score: 101 }).await), "it is above 100");
}

// ---- Every way to write ----

/// A record whose key changes when it is read back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "renamed", key = "{name}")]
struct Renamed {
    #[serde(deserialize_with = "lowercase")]
    name: String,
}

fn lowercase<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(|name| name.to_lowercase())
}

fn is_encode(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Encode { .. })
}

on_both_backends! {
    async fn every_write_refuses_a_value_that_does_not_come_back(world: World) {
        let records = world.bucket::<InJson<Option<Value>>>().await;
        let good = InJson { id: 1, value: Some(Value::Bool(true)) };
        let bad = InJson { id: 1, value: Some(Value::Null) };
        let (key, other) = (good.key(), InJson { id: 2, ..bad.clone() });
        let revision = records.put(&good).await.unwrap();
        reason(records.put(&bad).await);
        reason(records.create(&other).await);
        reason(records.update(&bad, revision).await);
        reason(records.put_many([&good, &bad]).await.map(|_| Revision::ZERO));
        let revision = records.get(&key).await.unwrap().expect("it was put").revision();
        let spoil = |record: &mut InJson<Option<Value>>| record.value = Some(Value::Null);
        reason(records.modify(&key, spoil).await.map(|entry| entry.revision()));
        reason(records.modify(&other.key(), spoil).or_insert_with(|| other.clone()).await.map(|entry| entry.revision()));
        let result = records.transform(&key, |_| Change::Put(bad.clone())).await;
        reason(result.map(|_| Revision::ZERO));
        let entry = records.get(&key).await.unwrap().expect("it was put");
        assert_eq!((entry.revision(), entry.into_value()), (revision, good));
        assert_eq!(records.get(&other.key()).await.unwrap(), None);
    }

    async fn a_change_to_another_value_with_the_same_bytes_is_refused(world: World) {
        let records = world.bucket::<InJson<Option<Value>>>().await;
        let none = InJson { id: 1, value: None };
        let revision = records.put(&none).await.unwrap();
        let spoil = |record: &mut InJson<Option<Value>>| record.value = Some(Value::Null);
        reason(records.modify(&none.key(), spoil).await.map(|entry| entry.revision()));
        let bad = InJson { id: 1, value: Some(Value::Null) };
        let result = records.transform(&none.key(), |_| Change::Put(bad.clone())).await;
        reason(result.map(|_| Revision::ZERO));
        // The control: a change to the stored value is accepted, and writes nothing.
        let entry = records.modify(&none.key(), |record| record.value = None).await.unwrap();
        assert_eq!((entry.revision(), entry.value()), (revision, &none));
    }

    async fn a_record_that_comes_back_under_another_key_is_refused(world: World) {
        let records = world.bucket::<Renamed>().await;
        records.put(&Renamed { name: "ada".to_owned() }).await.unwrap();
        reason(records.put(&Renamed { name: "Ada".to_owned() }).await);
        assert_eq!(records.count(..).await.unwrap(), 1);
    }
}

mod at_once {
    use super::*;

    on_both_backends! {
        needs Transactions;

        async fn transactions_refuse_a_value_that_does_not_come_back(world: World) {
            let records = world.bucket::<InJson<Option<Value>>>().await;
            let bad = InJson { id: 1, value: Some(Value::Null) };
            let error = records.transaction().put(&bad).commit().await.unwrap_err();
            assert!(is_encode(&error), "{error}");
            let result = records.transact(|tx| {
                let bad = &bad;
                async move { Ok(tx.put(bad)?) }
            }).await;
            let Err(kvtyped::txn::TransactError::Kv(error)) = result else { panic!("{result:?}") };
            assert!(is_encode(&error), "{error}");
            assert_eq!(records.get(&bad.key()).await.unwrap(), None);
        }
    }
}

#[tokio::test]
async fn recipes_refuse_a_value_that_does_not_come_back() {
    let store = Store::memory();
    let election = store.election::<Option<()>>("leaders");
    assert!(is_encode(&election.campaign(&Some(())).await.unwrap_err()));
    let leadership = election.campaign(&None).await.unwrap();
    assert!(is_encode(&leadership.proclaim(&Some(())).await.unwrap_err()));
    let result = store.once::<f64>("once").run("key", async || f64::NAN).await;
    let Err(kvtyped::recipes::OnceError::Kv(error)) = result else { panic!("{result:?}") };
    assert!(is_encode(&error), "{error}");
}

#[tokio::test]
async fn leaders_may_be_units() {
    let election = Store::memory().election::<()>("leaders");
    let _leadership = election.campaign(&()).await.unwrap();
    assert!(election.leader().await.unwrap().is_some());
}

// ---- Property ----

/// A value of every kind that serde has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Any {
    Unit(()),
    Float(f64),
    Single(f32),
    Nested(Option<Option<u8>>),
    Json(Option<Value>),
    Units(Vec<Option<()>>),
    Wide(Flat<Number>),
    Keyed(Flat<BTreeMap<String, i32>>),
    Tagged(Tagged<i128>),
    Either(Either),
    Skipped(NoDefault),
    Set(BTreeSet<char>),
    Deep(Box<Any>),
}

fn json() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        Just(None),
        Just(Some(Value::Null)),
        any::<u64>().prop_map(|number| Some(number.into())),
        any::<i64>().prop_map(|number| Some(number.into())),
        any::<f64>().prop_map(|number| Some(number.into())),
        "\\PC{0,4}".prop_map(|text| Some(text.into())),
    ]
}

fn any_value() -> impl Strategy<Value = Any> {
    let float = prop_oneof![any::<f64>(), Just(f64::NAN), Just(f64::INFINITY)];
    let leaf = prop_oneof![
        Just(Any::Unit(())),
        float.prop_map(Any::Float),
        any::<f32>().prop_map(Any::Single),
        any::<Option<Option<u8>>>().prop_map(Any::Nested),
        json().prop_map(Any::Json),
        any::<Vec<Option<()>>>().prop_map(Any::Units),
        any::<(u8, u128)>().prop_map(|(a, number)| Any::Wide(Flat { a, rest: Number { number } })),
        (any::<u8>(), proptest::collection::btree_map("[ab]", any::<i32>(), 0..3))
            .prop_map(|(a, rest)| Any::Keyed(Flat { a, rest })),
        any::<i128>().prop_map(|value| Any::Tagged(Tagged::One { value })),
        prop_oneof![
            any::<i64>().prop_map(Either::Number),
            any::<u64>().prop_map(Either::Unsigned),
            any::<IpAddr>().prop_map(Either::Address),
        ]
        .prop_map(Any::Either),
        proptest::collection::vec("[a-z]", 0..2).prop_map(|tags| Any::Skipped(NoDefault { tags })),
        any::<BTreeSet<char>>().prop_map(Any::Set),
    ];
    (leaf, prop_oneof![0_usize..4, 100_usize..140])
        .prop_map(|(leaf, depth)| (0..depth).fold(leaf, |inner, _| Any::Deep(Box::new(inner))))
}

proptest! {
    #[test]
    fn what_a_put_accepts_a_get_returns_equal(value in any_value()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Store::memory();
            let records = store.bucket::<InJson<Any>>().await.unwrap();
            let record = InJson { id: 1, value: value.clone() };
            match records.put(&record).await {
                Ok(_) => assert_eq!(records.get(&record.key()).await.unwrap().expect("it was put").into_value(), record),
                Err(error) => assert!(is_encode(&error), "{error}"),
            }
            let records = store.bucket::<InMsgPack<Any>>().await.unwrap();
            let record = InMsgPack { id: 1, value };
            match records.put(&record).await {
                Ok(_) => {
                    let read = records.get(&record.key()).await.unwrap().expect("it was put").into_value();
                    // `NaN` is not equal to itself.
                    assert_eq!(format!("{read:?}"), format!("{record:?}"));
                }
                Err(error) => assert!(is_encode(&error), "{error}"),
            }
        });
    }
}
