//! The indexes of a model: definitions, values and lookups.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kvtyped::model::index::{IndexInfo, IndexKind, Many, One, UniqueLookup, values_of};
use kvtyped::model::{Indexed, Lookup};
use kvtyped::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, KeySegment)]
enum Role {
    Admin,
    Guest,
}

/// A model with each kind of index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "users", key = "{tenant}.{id}", index(by_role = "{team}.{role}"), unique(by_slug = "{tenant}.{slug}"))]
#[kv(index(by_place = "{role}.{tags}", eventual), index(by_text = "{team}.{note}", hash))]
struct User {
    tenant: String,
    id: u64,
    slug: String,
    #[kv(unique(with = lower))]
    email: String,
    #[kv(index)]
    team: Option<String>,
    #[kv(index)]
    tags: Vec<String>,
    role: Role,
    #[kv(index(by = "day"))]
    joined: SystemTime,
    #[kv(index(by = 100))]
    score: Option<i32>,
    #[kv(index, index(name = "age_group", with = decade))]
    age: u8,
    #[kv(index(hash, eventual))]
    note: String,
    #[kv(index(with = cents))]
    price: f64,
    #[kv(index)]
    r#type: BTreeSet<u16>,
}

#[allow(clippy::ptr_arg, reason = "the derive passes a reference to the field")]
fn lower(text: &String) -> String {
    text.to_lowercase()
}

fn decade(age: &u8) -> Option<u8> {
    age.checked_div(10).filter(|decade| *decade > 1)
}

#[allow(clippy::cast_possible_truncation, reason = "prices of the test are small")]
fn cents(price: &f64) -> i64 {
    (price * 100.0).round() as i64
}

fn user() -> User {
    User {
        tenant: "acme".into(),
        id: 7,
        slug: "ada.l".into(),
        email: "Ada@Example.com".into(),
        team: Some("core".into()),
        tags: vec!["b".into(), "a".into(), "b".into()],
        role: Role::Admin,
        joined: UNIX_EPOCH + Duration::from_secs(1_796_083_200),
        score: Some(-1234),
        age: 36,
        note: "x".repeat(3000),
        price: 9.99,
        r#type: [9, 10].into(),
    }
}

fn values(user: &User, index: usize) -> Vec<String> {
    values_of(user).of_index(index).map(|value| value.text.clone()).collect()
}

#[track_caller]
fn patterns<A>(lookup: impl Into<Lookup<User, A>>, expected: &[&str]) -> Lookup<User, A> {
    let lookup = lookup.into();
    let found: Vec<String> = lookup.patterns().iter().map(ToString::to_string).collect();
    assert_eq!(found, expected);
    lookup
}

const NAMES: [&str; 13] = [
    "email",
    "team",
    "tags",
    "joined",
    "score",
    "age",
    "age_group",
    "note",
    "price",
    "type",
    "by_role",
    "by_place",
    "by_text",
];

#[test]
fn indexes_are_those_of_the_fields_then_of_the_struct() {
    let infos = User::__INDEXES;
    let names: Vec<_> = infos.iter().map(|info| info.name).collect();
    let mut expected: Vec<_> = NAMES.to_vec();
    // The attributes of the struct are in the order of the source.
    expected.insert(11, "by_slug");
    assert_eq!(names, expected);
    let info = |name: &str| infos.iter().find(|info| info.name == name).unwrap();
    assert_eq!(info("email"), &IndexInfo::new("email", IndexKind::Unique, "{email:lower}"));
    assert_eq!(info("by_role"), &IndexInfo::new("by_role", IndexKind::Many, "{team}.{role}").segments(2));
    assert_eq!(info("by_slug"), &IndexInfo::new("by_slug", IndexKind::Unique, "{tenant}.{slug}").segments(2));
    assert_eq!(info("joined"), &IndexInfo::new("joined", IndexKind::Many, "{joined:day}").segments(6));
    assert_eq!(info("score"), &IndexInfo::new("score", IndexKind::Many, "{score:100}").segments(9));
    assert_eq!(info("note"), &IndexInfo::new("note", IndexKind::Many, "{note}").eventual().hashed());
    assert!(info("by_place").is_eventual && info("by_text").is_hashed && info("by_text").segments == 1);
    fn is_indexed<T: Indexed>() {}
    is_indexed::<User>();
}

#[test]
fn record_has_a_value_for_each_entry() {
    let texts = |name: &str| {
        let index = User::__INDEXES.iter().position(|info| info.name == name).unwrap();
        values(&user(), index)
    };
    assert_eq!(texts("email"), ["ada=40example=2Ecom"]);
    assert_eq!(texts("team"), ["core"]);
    assert_eq!(texts("tags"), ["a", "b"]);
    assert_eq!(texts("joined"), ["2.0.2.6.12.01"]);
    // The distance of -1234 to `i32::MIN` is 2147482414.
    assert_eq!(texts("score"), ["0.2.1.4.7.4.8.2.4"]);
    assert_eq!(texts("age_group"), ["3"]);
    assert_eq!(texts("price"), ["999"]);
    assert_eq!(texts("type"), ["10", "9"]);
    assert_eq!(texts("by_role"), ["core.Admin"]);
    assert_eq!(texts("by_slug"), ["acme.ada=2El"]);
    assert_eq!(texts("by_place"), ["Admin.a", "Admin.b"]);
    assert_eq!(texts("note")[0].len(), 32);

    let sparse = User { team: None, tags: Vec::new(), score: None, age: 9, ..user() };
    let indexes: BTreeSet<_> = values_of(&sparse).iter().map(|value| User::__INDEXES[value.index].name).collect();
    let all: BTreeSet<_> = values_of(&user()).iter().map(|value| User::__INDEXES[value.index].name).collect();
    let missing: Vec<_> = all.difference(&indexes).copied().collect();
    assert_eq!(missing, ["age_group", "by_place", "by_role", "by_text", "score", "tags", "team"]);
}

#[test]
fn lookups_of_fields_take_their_values() {
    assert!(patterns(User::by_team("core"), &["user.team.core.>"]).matches(&user()));
    assert!(!patterns(User::by_tags("c"), &["user.tags.c.>"]).matches(&user()));
    assert!(patterns(User::by_age(36), &["user.age.36.>"]).matches(&user()));
    assert!(patterns(User::by_type(9), &["user.type.9.>"]).matches(&user()));
    let email: Lookup<User, One> = patterns(User::by_email("ADA@example.com"), &["user.email.ada=40example=2Ecom"]);
    assert!(email.matches(&user()) && email.clone().into_unique().matches(&user()));
    assert_eq!(email.info().unwrap().name, "email");
    assert!(patterns(User::by_price(9.99), &["user.price.999.>"]).matches(&user()));
    assert!(patterns(User::by_age_group(33), &["user.age_group.3.>"]).matches(&user()));
    // The function returns no value, so no record has it.
    assert!(!patterns(User::by_age_group(1), &[]).matches(&user()));
    assert!(User::by_note(user().note).matches(&user()) && !User::by_note("x").matches(&user()));
    assert_eq!(format!("{:?}", User::by_team("core")), r#"Lookup { index: "team", .. }"#);
}

#[test]
fn compound_lookup_has_a_setter_for_each_segment() {
    let all = patterns::<Many>(User::by_role("core"), &["user.by_role.core.*.>"]);
    assert!(all.matches(&user()));
    let one = patterns::<Many>(User::by_role("core").role(Role::Admin), &["user.by_role.core.Admin.>"]);
    assert!(one.matches(&user()) && !one.matches(&User { role: Role::Guest, ..user() }));
    assert!(patterns::<Many>(User::by_place(Role::Admin).tags("a"), &["user.by_place.Admin.a.>"]).matches(&user()));
    let slug: Lookup<User, One> = User::by_slug("acme", "ada.l");
    assert_eq!(slug.claims().unwrap()[0].as_str(), "user.by_slug.acme.ada=2El");
    assert!(User::by_text("core", user().note).matches(&user()) && !User::by_text("core", "x").matches(&user()));
}

#[test]
fn range_lookup_is_exact_within_its_unit() {
    let joined = user().joined;
    let second = Duration::from_secs(1);
    let day = patterns(User::by_joined(joined..=joined), &["user.joined.2.0.2.6.12.01.>"]);
    assert!(day.matches(&user()) && day.matches_value("2.0.2.6.12.01") && !day.matches_value("2.0.2.6.12.02"));
    assert!(!User::by_joined(joined..joined).matches(&user()));
    assert!(!User::by_joined(joined + second..).matches(&user()));
    assert!(User::by_joined(..joined + second).matches(&user()));
    assert!(User::by_joined(..).matches(&user()));
    assert!(patterns(User::by_joined(joined..joined - second), &[]).patterns().is_empty());
    assert!(User::by_score(-1234..0).matches(&user()) && !User::by_score(-1233..0).matches(&user()));
    assert!(!User::by_score(..).matches(&User { score: None, ..user() }));
}

/// A generic model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "notes", key = "{id}", index(by_pair = "{owner}.{kind}"))]
pub struct Note<K, B>
where
    K: KeySegment,
{
    /// The id.
    pub id: u64,
    #[kv(unique)]
    /// The owner.
    pub owner: K,
    #[kv(index)]
    /// The kind.
    pub kind: Option<u8>,
    /// The body.
    pub body: B,
}

#[test]
fn generic_model_has_indexes() {
    let note = Note { id: 1, owner: Role::Guest, kind: Some(3), body: "x".to_owned() };
    let texts: Vec<_> = values_of(&note).iter().map(|value| value.text.clone()).collect();
    assert_eq!(texts, ["Guest", "3", "Guest.3"]);
    let lookup: Lookup<Note<Role, String>, Many> = Note::by_pair(Role::Guest).kind(3).into();
    assert!(lookup.matches(&note));
    assert!(Note::<Role, String>::by_kind(3).matches(&note));
}

/// A renamed crate, a model from `macro_rules!`, and fields with the names of generated variables.
#[test]
fn generated_indexes_are_hygienic() {
    macro_rules! model {
        ($name:ident, $field:ident, $type:ty) => {
            #[derive(Clone, Serialize, Deserialize, KvModel)]
            #[kv(crate = "crate::renamed::inner", key = "{id}", index(by_pair = "{lookup}.{out}"))]
            struct $name {
                id: u8,
                #[kv(index)]
                $field: $type,
                #[kv(index(by = 10))]
                record: Option<u16>,
                #[kv(index(with = Self::twice))]
                text: u16,
                lookup: String,
                out: bool,
            }

            impl $name {
                fn twice(text: &u16) -> u32 {
                    u32::from(*text) * 2
                }
            }
        };
    }
    model!(Made, value, Option<u16>);
    let made = Made { id: 1, value: Some(2), record: Some(34), text: 5, lookup: "l".into(), out: true };
    let texts: Vec<_> = values_of(&made).iter().map(|value| value.text.clone()).collect();
    assert_eq!(texts, ["2", "0.0.0.3", "10", "l.true"]);
    assert!(Made::by_value(2).matches(&made) && Made::by_text(5).matches(&made));
    assert!(Made::by_record(34..35).matches(&made));
    let pair: Lookup<Made, Many> = Made::by_pair("l").out(true).into();
    assert!(pair.matches(&made));
}
