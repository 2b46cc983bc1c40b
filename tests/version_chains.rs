//! Properties of a chain of three schema versions with two codecs: upgrades, conversions back, and arbitrary bytes.

use kvtyped::KvVersion;
use kvtyped::codec::{Codec, Json};
use kvtyped::model::DecodeError;
use kvtyped::prelude::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// Version 3: a list of names, in JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", version = 3, upgrade_from = PersonV2, writes = 1)]
struct Person {
    id: u64,
    names: Vec<String>,
    age: Option<i64>,
    email: Option<String>,
}

/// Version 2: two names, in MessagePack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvVersion)]
#[kv(version = 2, upgrade_from = PersonV1, writes = 1, codec = MsgPack)]
struct PersonV2 {
    id: u64,
    first: String,
    last: String,
    age: Option<i64>,
}

/// Version 1: one name, and an age that is not negative, in JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvVersion)]
#[kv(version = 1, codec = Json)]
struct PersonV1 {
    id: u64,
    name: String,
    age: u32,
}

impl From<PersonV1> for PersonV2 {
    fn from(PersonV1 { id, name, age }: PersonV1) -> Self {
        let (first, last) = name.split_once(' ').unwrap_or((&name, ""));
        // Version 1 stores an unknown age as zero.
        Self { id, first: first.into(), last: last.into(), age: Some(i64::from(age)).filter(|age| *age > 0) }
    }
}

impl From<PersonV2> for PersonV1 {
    fn from(PersonV2 { id, first, last, age }: PersonV2) -> Self {
        Self { id, name: format!("{first} {last}"), age: age.and_then(|age| age.try_into().ok()).unwrap_or_default() }
    }
}

#[derive(Debug)]
struct Forbidden;

impl std::fmt::Display for Forbidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an age is negative")
    }
}

impl std::error::Error for Forbidden {}

impl TryFrom<PersonV2> for Person {
    type Error = Forbidden;

    fn try_from(PersonV2 { id, first, last, age }: PersonV2) -> Result<Self, Forbidden> {
        if age.is_some_and(i64::is_negative) {
            return Err(Forbidden);
        }
        let names = [first, last].into_iter().filter(|name| !name.is_empty()).collect();
        Ok(Self { id, names, age, email: None })
    }
}

impl From<Person> for PersonV2 {
    fn from(Person { id, names, age, .. }: Person) -> Self {
        let mut names = names.into_iter();
        Self { id, first: names.next().unwrap_or_default(), last: names.next().unwrap_or_default(), age }
    }
}

fn v1() -> impl Strategy<Value = PersonV1> {
    (any::<u64>(), ".{0,12}", any::<u32>()).prop_map(|(id, name, age)| PersonV1 { id, name, age })
}

fn v2() -> impl Strategy<Value = PersonV2> {
    (any::<u64>(), ".{0,8}", ".{0,8}", any::<Option<i64>>()).prop_map(|(id, first, last, age)| PersonV2 {
        id,
        first,
        last,
        age,
    })
}

fn v3() -> impl Strategy<Value = Person> {
    let email = proptest::option::of(".{0,12}");
    (any::<u64>(), vec(".{0,8}", 0..4), any::<Option<i64>>(), email).prop_map(|(id, names, age, email)| Person {
        id,
        names,
        age,
        email,
    })
}

/// Asserts that the bytes of one version are decoded to the result of the upgrades.
fn assert_upgraded(version: u32, bytes: &[u8], upgraded: Result<Person, Forbidden>) {
    match (Person::decode(version, bytes), upgraded) {
        (Ok(found), Ok(wanted)) => assert_eq!(found, wanted),
        (Err(DecodeError::Upgrade { from: 2, to: 3, .. }), Err(Forbidden)) => {}
        (found, wanted) => panic!("{found:?} in place of {wanted:?}"),
    }
}

proptest! {
    #[test]
    fn version_1_is_upgraded_twice(record in v1()) {
        let bytes = record.encode(1).unwrap();
        prop_assert_eq!(&bytes, &Json::encode(&record).unwrap());
        assert_upgraded(1, &bytes, PersonV2::from(record).try_into());
    }

    #[test]
    fn version_2_is_upgraded_once(record in v2()) {
        let bytes = record.encode(2).unwrap();
        prop_assert_eq!(&bytes, &MsgPack::encode(&record).unwrap());
        assert_upgraded(2, &bytes, record.try_into());
    }

    #[test]
    fn newest_version_is_only_decoded(record in v3()) {
        let bytes = record.encode(3).unwrap();
        prop_assert_eq!(&bytes, &Json::encode(&record).unwrap());
        assert_upgraded(3, &bytes, Ok(record));
    }

    /// The bytes of an older version are equal to the bytes that its program writes.
    #[test]
    fn older_bytes_are_those_of_the_older_program(record in v3()) {
        let v2 = PersonV2::from(record.clone());
        let v1 = PersonV1::from(v2.clone());
        let (second, first) = (record.encode(2).unwrap(), record.encode(1).unwrap());
        prop_assert_eq!(&second, &v2.encode(2).unwrap());
        prop_assert_eq!(&first, &v1.encode(1).unwrap());
        prop_assert_eq!(PersonV2::decode(2, &second).unwrap(), v2);
        prop_assert_eq!(PersonV1::decode(1, &first).unwrap(), v1);
    }

    /// A record that the older versions can express survives the way there and back.
    #[test]
    fn way_back_and_forth_changes_nothing(id: u64, first in "[a-z]{1,8}", last in "[a-z]{1,8}", age in 1_i64..=150) {
        let record = Person { id, names: vec![first, last], age: Some(age), email: None };
        for version in 1..=3 {
            prop_assert_eq!(&Person::decode(version, &record.encode(version).unwrap()).unwrap(), &record);
        }
    }

    #[test]
    fn arbitrary_bytes_of_each_version_are_a_record_or_an_error(bytes in vec(any::<u8>(), 0..80), version in 0..6_u32) {
        check(version, &bytes);
    }

    /// Damaged records are closer to readable ones than arbitrary bytes.
    #[test]
    fn damaged_records_are_a_record_or_an_error(
        record in v3(),
        written in 1..=3_u32,
        read in 0..6_u32,
        damage in vec((any::<usize>(), any::<u8>()), 0..4),
        cut: usize,
    ) {
        let mut bytes = record.encode(written).unwrap();
        for (place, byte) in damage {
            let place = place % bytes.len();
            bytes[place] = byte;
        }
        bytes.truncate(bytes.len() - cut % 3);
        check(read, &bytes);
    }
}

/// Asserts that bytes of a version are decoded to a record that can be written again, or that the error is typed.
fn check(version: u32, bytes: &[u8]) {
    match Person::decode(version, bytes) {
        Ok(record) => {
            assert!((1..=3).contains(&version));
            assert_eq!(Person::decode(3, &record.encode(3).unwrap()).unwrap(), record);
        }
        Err(DecodeError::Newer { found, knows: 3 }) => assert!(found == version && version > 3),
        Err(DecodeError::Upgrade { from, .. }) => assert_eq!(from, 2),
        Err(DecodeError::Codec(_)) => assert!(version <= 3),
        Err(error) => panic!("version 1 is the oldest version that a record can have: {error}"),
    }
}

/// Hostile bytes: deep nesting, huge lengths, duplicate fields, and wrong types.
#[test]
fn hostile_bytes_of_each_version_are_errors() {
    let deep = "[".repeat(100_000);
    let nested = format!(r#"{{"id":1,"names":{deep}"#);
    let texts: [&[u8]; 8] = [
        b"",
        b"null",
        deep.as_bytes(),
        nested.as_bytes(),
        br#"{"id":1,"id":2,"names":[],"age":null,"email":null}"#,
        br#"{"id":-1,"names":[],"age":1e400}"#,
        &[0xdd, 0xff, 0xff, 0xff, 0xff],
        &[0x84, 0xa2, b'i', b'd', 0xc6, 0xff, 0xff, 0xff, 0xff],
    ];
    for text in texts {
        for version in 0..5 {
            assert!(Person::decode(version, text).is_err(), "version {version}");
        }
    }
}
