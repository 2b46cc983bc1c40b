//! Entries and lookups of indexes, for arbitrary values and keys.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kvtyped::key::{Key, KeyError, ModelKey};
use kvtyped::model::Lookup;
use kvtyped::model::index::{IndexInfo, claim_key, entries_of_record, entry_key, parse_claim, parse_entry, values_of};
use kvtyped::prelude::{Deserialize, KvModel, Serialize};
use proptest::prelude::*;
use proptest::sample::select;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "users", key = "{tenant}.{id}", index(by_role = "{team}.{role}"))]
struct User {
    tenant: String,
    id: String,
    #[kv(unique)]
    email: String,
    team: Option<String>,
    role: String,
    #[kv(index)]
    tags: Vec<String>,
    #[kv(index(hash))]
    bio: String,
}

/// A model whose key has any number of segments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "files", key = "{path..}")]
struct File {
    path: String,
    #[kv(index)]
    owner: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "events", key = "{id}")]
struct Event {
    id: u64,
    #[kv(index(by = "hour"), index(name = "day", by = "day"), index(name = "year", by = "year"))]
    at: SystemTime,
    #[kv(index(by = 1), index(name = "hundreds", by = 100))]
    score: i16,
    #[kv(index(by = 10))]
    sizes: Vec<u64>,
}

/// Generates texts with the characters that separate, escape or match segments.
fn text() -> impl Strategy<Value = String> {
    let special = select(vec!['.', '*', '>', '=', '_', ' ', 'ß', '\0', '日', '/', '-']);
    let character = prop_oneof![3 => special, 2 => proptest::char::range('0', 'z'), 1 => any::<char>()];
    proptest::collection::vec(character, 0..8).prop_map(String::from_iter)
}

prop_compose! {
    fn user()(
        tenant in text(), id in text(), email in text(), team in proptest::option::of(text()), role in text(),
        tags in proptest::collection::vec(text(), 0..4), bio in text(),
    ) -> User {
        User { tenant, id, email, team, role, tags, bio }
    }
}

fn time() -> impl Strategy<Value = SystemTime> {
    // From the year -1169 to the year 11,000, and often within three days.
    let seconds = prop_oneof![-99_000_000_000_i64..285_000_000_000, 1_709_000_000_i64..1_709_260_000];
    (seconds, 0..1_000_000_000_u64).prop_map(|(seconds, nanos)| {
        let duration = Duration::from_secs(seconds.unsigned_abs()) + Duration::from_nanos(nanos);
        if seconds < 0 { UNIX_EPOCH - duration } else { UNIX_EPOCH + duration }
    })
}

fn index<T: KvModel>(name: &str) -> &'static IndexInfo {
    T::__INDEXES.iter().find(|info| info.name == name).expect("the model has the index")
}

/// Returns the name of a model.
fn name<T>() -> String {
    std::any::type_name::<T>().rsplit("::").next().expect("it has a name").to_lowercase()
}

/// Returns the key of each entry of a record.
fn entries<T: KvModel>(record: &T) -> BTreeSet<String> {
    let key = record.key().encode().expect("it is short");
    let entry = |value: &kvtyped::model::index::IndexValue| {
        entry_key(&name::<T>(), &T::__INDEXES[value.index], &value.text, &key).expect("it is short").to_string()
    };
    values_of(record).iter().map(entry).collect()
}

/// Whether a lookup finds a record by its entries, as a reader of the bucket does.
fn finds<T: KvModel, A>(lookup: &Lookup<T, A>, record: &T) -> bool {
    let info = lookup.info().expect("it is generated");
    let patterns = lookup.patterns();
    let found = entries(record).into_iter().any(|entry| {
        let value = parse_entry(&name::<T>(), info, &entry).map(|(value, _)| value);
        patterns.iter().any(|pattern| pattern.matches(&entry)) && value.is_some_and(|value| lookup.matches_value(value))
    });
    found && lookup.matches(record)
}

proptest! {
    #[test]
    fn entry_is_read_back(user in user()) {
        let key = user.key().encode().unwrap();
        for value in &values_of(&user) {
            let info = &User::__INDEXES[value.index];
            let entry = entry_key("user", info, &value.text, &key).unwrap();
            prop_assert_eq!(parse_entry("user", info, entry.as_str()), Some((&*value.text, key.as_str())));
            prop_assert!(entries_of_record("user", info, &key).matches(entry.as_str()));
            let (_, parsed) = parse_entry("user", info, entry.as_str()).unwrap();
            prop_assert_eq!(&UserKey::decode(parsed).unwrap(), &user.key());
            let claim = claim_key("user", info, &value.text).unwrap();
            prop_assert_eq!(parse_claim("user", info, claim.as_str()), Some(&*value.text));
        }
    }

    #[test]
    fn entry_of_a_rest_key_is_read_back(path in text(), owner in text()) {
        let file = File { path, owner };
        let key = file.key().encode().unwrap();
        let entry = entries(&file).into_iter().next().unwrap();
        let (_, parsed) = parse_entry("file", index::<File>("owner"), &entry).unwrap();
        prop_assert_eq!(parsed, key.as_str());
        prop_assert!(finds(&File::by_owner(file.owner.clone()), &file));
    }

    #[test]
    fn different_records_have_different_entries(a in user(), b in user()) {
        if a.key() == b.key() {
            return Ok(());
        }
        prop_assert!(entries(&a).is_disjoint(&entries(&b)));
    }

    #[test]
    fn lookup_finds_exactly_the_records_with_its_value(a in user(), b in user(), other in text()) {
        prop_assert_eq!(finds(&User::by_bio(b.bio.clone()), &a), a.bio == b.bio);
        for tag in a.tags.iter().chain(&b.tags).chain([&other]) {
            prop_assert_eq!(finds(&User::by_tags(tag.clone()), &a), a.tags.contains(tag), "{}", tag);
        }
        let team = b.team.clone().unwrap_or(other);
        let all: Lookup<User, _> = User::by_role(team.clone()).into();
        prop_assert_eq!(finds(&all, &a), a.team.as_ref() == Some(&team));
        let one: Lookup<User, _> = User::by_role(team.clone()).role(b.role.clone()).into();
        prop_assert_eq!(finds(&one, &a), a.team == Some(team) && a.role == b.role);
        let email = User::by_email(b.email.clone());
        let claim = claim_key("user", index::<User>("email"), &values_of(&a).of_index(0).next().unwrap().text).unwrap();
        prop_assert_eq!(email.claims().unwrap().contains(&claim), a.email == b.email);
    }

    #[test]
    fn time_range_finds_exactly_its_records(at in time(), low in time(), high in time()) {
        let event = Event { id: 1, at, score: 0, sizes: Vec::new() };
        let contains = (low..=high).contains(&at);
        prop_assert_eq!(finds(&Event::by_at(low..=high), &event), contains);
        prop_assert_eq!(finds(&Event::by_day(low..=high), &event), contains);
        prop_assert_eq!(finds(&Event::by_year(low..=high), &event), contains);
        prop_assert_eq!(finds(&Event::by_day(low..), &event), low <= at);
        prop_assert_eq!(finds(&Event::by_day(..high), &event), at < high);
        prop_assert!(finds(&Event::by_day(..), &event));
    }

    #[test]
    fn number_range_finds_exactly_its_records(score: i16, low: i16, high: i16) {
        let event = Event { id: 1, at: UNIX_EPOCH, score, sizes: Vec::new() };
        prop_assert_eq!(finds(&Event::by_score(low..=high), &event), (low..=high).contains(&score));
        prop_assert_eq!(finds(&Event::by_hundreds(low..high), &event), (low..high).contains(&score));
        prop_assert_eq!(finds(&Event::by_score(low..), &event), low <= score);
    }

    #[test]
    fn range_of_a_list_finds_any_of_its_values(
        sizes in proptest::collection::vec(0..500_u64, 0..4), low in 0..500_u64, length in 0..60_u64,
    ) {
        let event = Event { id: 1, at: UNIX_EPOCH, score: 0, sizes };
        let range = low..low + length;
        prop_assert_eq!(finds(&Event::by_sizes(range.clone()), &event), event.sizes.iter().any(|size| range.contains(size)));
    }
}

/// The order of glued values and keys is wrong: `1` with the key `05` would be between `10` and `11`.
#[test]
fn prefix_of_a_value_is_no_value() {
    let user = |team: &str, id: &str| User {
        tenant: "acme".into(),
        id: id.into(),
        email: String::new(),
        team: Some(team.into()),
        role: "a".into(),
        tags: vec![team.into()],
        bio: String::new(),
    };
    let lookup = User::by_tags("1");
    assert!(finds(&lookup, &user("1", "05")));
    for team in ["10", "11", "1.0", "", "1.", ".1"] {
        assert!(!finds(&lookup, &user(team, "05")), "{team}");
    }
}

#[test]
fn wildcards_are_values() {
    let file = |owner: &str| File { path: "a.b".into(), owner: owner.into() };
    for owner in ["*", ">", "a.*", ""] {
        let lookup = File::by_owner(owner);
        assert!(finds(&lookup, &file(owner)) && !finds(&lookup, &file("ada")), "{owner}");
    }
    assert_eq!(File::by_owner(">").patterns()[0].to_string(), "file.owner.=3E.>");
}

#[test]
fn too_long_value_is_an_error_unless_hashed() {
    let key = Key::new("7").unwrap();
    let long = "ß".repeat(300);
    let user = User {
        tenant: "acme".into(),
        id: "7".into(),
        email: long.clone(),
        team: None,
        role: String::new(),
        tags: Vec::new(),
        bio: long.clone(),
    };
    let values = values_of(&user);
    let entry = |index: usize| {
        let value = values.of_index(index).next().unwrap();
        entry_key("user", &User::__INDEXES[index], &value.text, &key)
    };
    let bytes = "user.email..7".len() + 6 * 300;
    assert_eq!(entry(0).unwrap_err(), KeyError::EntryTooLong { index: "email", bytes });
    assert!(matches!(User::by_email(long).claims(), Err(KeyError::EntryTooLong { .. })));
    assert!(User::__INDEXES[2].is_hashed && entry(2).unwrap().as_str().len() < 64);
}
