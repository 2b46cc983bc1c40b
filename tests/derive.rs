//! The derive macros: the generated code and the compile errors.

#![deny(warnings, missing_docs, unreachable_pub, unused_results)]

use std::collections::HashSet;
use std::fmt::Debug;
use std::time::Duration;

use kvtyped::Filter;
use kvtyped::codec::Text;
use kvtyped::config::Storage;
use kvtyped::key::{KeyError, ModelKey};
use kvtyped::model::SingleRevision;
use kvtyped::prelude::*;

#[path = "derive_versions.rs"]
mod versions;
#[path = "derive_fields.rs"]
pub mod fields;
#[path = "derive_indexes.rs"]
pub mod indexes;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "{tenant}.{id}")]
struct Session {
    tenant: String,
    id: u64,
    user: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "app")]
struct AppConfig {
    verbose: bool,
}

fn session() -> Session {
    Session { tenant: "acme".into(), id: 7, user: "ada".into() }
}

#[track_caller]
fn round_trips<K: ModelKey>(key: &K, text: &str) {
    assert_eq!(key.to_string(), text);
    assert_eq!(key.encode().unwrap().as_str(), text);
    assert_eq!(&text.parse::<K>().unwrap(), key);
    assert!(K::pattern().matches(text));
}

#[track_caller]
fn filters<T: KvModel>(filter: impl Into<Filter<T>>, expected: &str) {
    assert_eq!(filter.into().to_string(), expected);
}

fn is_single_revision<T: SingleRevision>() {}

#[test]
fn plain_model_sets_only_the_bucket_name() {
    assert_eq!(Session::settings(), kvtyped::config::BucketConfig::new("session"));
    assert_eq!(AppConfig::settings().name, "app_config");
    is_single_revision::<Session>();
}

#[test]
fn every_attribute_sets_its_bucket_setting() {
    #[derive(Serialize, Deserialize, KvModel)]
    #[kv(bucket = "all-of-it", key = "{id}", codec = MsgPack, history = 1, ttl = "1h30m", storage = "memory")]
    #[kv(max_value_size = "64KiB", max_bytes = "1GiB", replicas = 3, compression, description = "every setting")]
    #[kv(rollups = false, limit_markers = "off")]
    struct Everything {
        id: u8,
    }

    let mut expected = kvtyped::config::BucketConfig::new("all-of-it");
    expected.history = Some(1);
    expected.ttl = Some(Duration::from_secs(5400));
    expected.storage = Some(Storage::Memory);
    expected.max_value_size = Some(65_536);
    expected.max_bytes = Some(1 << 30);
    expected.replicas = Some(3);
    expected.compression = Some(true);
    expected.description = Some("every setting".into());
    (expected.rollups, expected.limit_markers) = (Some(false), Some(Duration::ZERO));
    assert_eq!(Everything::settings(), expected);
    expected.validate().unwrap();
    is_single_revision::<Everything>();
}

#[test]
fn key_round_trips_through_text() {
    round_trips(&session().key(), "acme.7");
    round_trips(&SessionKey::new("a.b *", 0), "a=2Eb=20=2A.0");
    round_trips(&SessionKey::new("", u64::MAX), "=_.18446744073709551615");
    assert_eq!(session().key(), SessionKey { tenant: "acme".into(), id: 7 });
    assert_eq!(SessionKey::TEMPLATE, "{tenant}.{id}");
}

#[test]
fn invalid_key_text_is_refused() {
    for text in ["acme", "acme.7.8", ""] {
        assert!(text.parse::<SessionKey>().is_err(), "{text}");
    }
    assert!(matches!("acme.x".parse::<SessionKey>(), Err(KeyError::Segment { field: "id", .. })));
    assert!(matches!("acme".parse::<SessionKey>(), Err(KeyError::Shape { template: "{tenant}.{id}" })));
}

#[test]
fn keys_order_hash_and_format_like_their_fields() {
    let keys = [SessionKey::new("a", 2), SessionKey::new("a", 10), SessionKey::new("b", 1)];
    assert!(keys.is_sorted());
    assert_eq!(keys.iter().cloned().collect::<HashSet<_>>().len(), 3);
    assert_eq!(format!("{:?}", keys[0]), r#"SessionKey { tenant: "a", id: 2 }"#);
    assert_eq!(format!("{:>6}|", keys[0]), "   a.2|");
}

#[test]
fn filter_fixes_the_set_fields() {
    filters::<Session>(SessionKey::filter(), "*.*");
    filters::<Session>(SessionKey::filter().tenant("acme"), "acme.*");
    filters::<Session>(SessionKey::filter().id(7), "*.7");
    filters::<Session>(SessionKey::filter().tenant("a*").id(7), "a=2A.7");
    filters::<Session>(SessionKey::new("acme", 7), "acme.7");
    filters::<Session>(&SessionKey::new("acme", 7), "acme.7");
    filters::<Session>(.., "*.*");
    let union = vec![SessionKey::filter().tenant("acme"), SessionKey::filter().id(1)];
    filters::<Session>(union.clone(), "acme.* | *.1");
    assert_eq!(format!("{:?}", union[0]), r#"SessionFilter { tenant: Some("acme"), id: None }"#);
}

#[test]
fn filter_matches_only_its_keys() {
    let acme: Filter<Session> = SessionKey::filter().tenant("acme").into();
    assert!(acme.matches(&SessionKey::new("acme", 7)));
    assert!(!acme.matches(&SessionKey::new("acme.7", 7)));
    assert!(!acme.matches(&SessionKey::new("beta", 7)));
}

#[test]
fn template_without_fields_makes_a_singleton() {
    let config = AppConfig { verbose: true };
    assert_eq!(config.key(), AppConfigKey);
    assert_eq!(AppConfigKey::new(), AppConfigKey);
    round_trips(&AppConfigKey, "app");
    filters::<AppConfig>(AppConfigKey, "app");
    filters::<AppConfig>(AppConfigKey::filter(), "app");
    assert!("other".parse::<AppConfigKey>().is_err());
}

#[test]
fn marked_fields_form_the_key_in_order() {
    #[derive(Serialize, Deserialize, KvModel)]
    struct Visit {
        #[kv(key)]
        day: u32,
        note: String,
        #[kv(key)]
        page: char,
    }

    let visit = Visit { day: 9, note: "long".into(), page: '.' };
    assert_eq!(visit.note, "long");
    assert_eq!(VisitKey::TEMPLATE, "{day}.{page}");
    round_trips(&visit.key(), "9.=2E");
}

#[test]
fn plain_model_is_stored_whole() {
    fn same<T: KvModel<Value = T> + Clone + PartialEq + Debug>(model: T) {
        assert_eq!(model.stored(), &model);
        assert_eq!(T::from_stored(model.key(), model.clone()), model);
    }

    same(session());
}

#[test]
fn value_model_stores_only_its_value_field() {
    #[derive(Clone, Debug, PartialEq, KvModel)]
    #[kv(bucket = "config", key = "app.{name}", codec = Text)]
    struct Setting {
        name: String,
        #[kv(value)]
        text: String,
    }

    let setting = Setting { name: "version".into(), text: "1.2.3".into() };
    round_trips(&setting.key(), "app.version");
    assert_eq!(setting.stored(), "1.2.3");
    assert_eq!(Setting::from_stored(SettingKey::new("version"), "1.2.3".to_owned()), setting);
    filters::<Setting>(SettingKey::filter(), "app.*");

    #[derive(Clone, Debug, PartialEq, KvModel)]
    #[kv(key = "motd", codec = Text)]
    struct Motd {
        #[kv(value)]
        text: String,
    }

    assert_eq!(Motd::from_stored(MotdKey, "hi".to_owned()), Motd { text: "hi".into() });
}

#[test]
fn literals_share_a_segment_with_a_field() {
    #[derive(Serialize, Deserialize, KvModel)]
    #[kv(key = "v1/users.user-{id}.{part}_log.end")]
    struct Log {
        id: i32,
        part: String,
    }

    let key = LogKey::new(-4, "x y");
    round_trips(&key, "v1/users.user--4.x=20y_log.end");
    round_trips(&LogKey::new(0, ""), "v1/users.user-0.=__log.end");
    assert!("v1/users.4.x_log.end".parse::<LogKey>().is_err());
    assert!("v1/users.user-4.x_log.end.more".parse::<LogKey>().is_err());
    let all: Filter<Log> = LogKey::filter().id(1).into();
    assert_eq!(all.to_string(), "v1/users.user-1.*.end");
    assert!(all.matches(&LogKey::new(1, "a")));
}

mod generic {
    use super::*;

    pub(crate) trait Kind: 'static {
        type Id: KeySegment;
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    #[kv(key = "{id}")]
    pub(crate) struct Versioned<T> {
        pub(crate) id: u64,
        pub(crate) value: T,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    #[kv(key = "{kind}.{id}")]
    pub(crate) struct Tagged<K: Clone, T = String, const N: usize = 1>
    where
        T: Clone,
    {
        pub(crate) kind: K,
        pub(crate) id: u64,
        pub(crate) value: T,
    }

    #[derive(Clone, Debug, PartialEq, KvModel)]
    #[kv(key = "cells.{id}")]
    pub(crate) struct Cell<T> {
        pub(crate) id: u64,
        #[kv(value)]
        pub(crate) value: T,
    }

    #[derive(KvModel)]
    #[kv(key = "{id}", codec = Text)]
    pub(crate) struct Projected<K: Kind>
    where
        K::Id: Clone,
    {
        pub(crate) id: K::Id,
        #[kv(value)]
        pub(crate) value: u8,
    }
}

#[test]
fn key_takes_only_needed_generic_parameters() {
    use generic::*;

    let versioned = Versioned { id: 7, value: vec![1, 2] };
    let key: VersionedKey = versioned.key();
    round_trips(&key, "7");
    filters::<Versioned<String>>(VersionedKey::filter().id(7), "7");
    is_single_revision::<Versioned<bool>>();

    let tagged: Tagged<String> = Tagged { kind: "a".into(), id: 1, value: "v".into() };
    let key: TaggedKey<String> = tagged.key();
    round_trips(&key, "a.1");
    filters::<Tagged<u8, bool, 3>>(TaggedKey::filter().kind(7), "7.*");
    assert_eq!(TaggedKey::<u8>::new(7, 1).clone(), TaggedKey { kind: 7, id: 1 });

    let cell = Cell { id: 1, value: [1, 2] };
    assert_eq!(Cell::from_stored(cell.key(), [1, 2]), cell);
    filters::<Cell<String>>(CellKey::filter(), "cells.*");

    struct Users;
    impl Kind for Users {
        type Id = u32;
    }
    let projected = Projected::<Users> { id: 3, value: 1 };
    round_trips(&projected.key(), "3");
    assert_eq!(Projected::<Users>::from_stored(projected.key(), 1).value, 1);
    filters::<Projected<Users>>(ProjectedKey::<Users>::filter().id(3u32), "3");
}

mod renamed {
    pub(crate) mod inner {
        pub(crate) use kvtyped::*;
    }
}

#[test]
fn derive_works_with_a_renamed_crate() {
    #[derive(Serialize, Deserialize, KvModel)]
    #[kv(crate = "crate::renamed::inner", key = "{id}.{size}")]
    struct Renamed {
        id: u8,
        size: Size,
    }

    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, KeySegment)]
    #[kv(crate = "crate::renamed::inner")]
    enum Size {
        Small,
    }

    round_trips(&Renamed { id: 1, size: Size::Small }.key(), "1.Small");
}

#[test]
fn raw_identifiers_lose_prefix_in_template() {
    #[derive(Serialize, Deserialize, KvModel)]
    #[kv(key = "{type}.{r#fn}")]
    struct r#Match {
        r#type: String,
        r#fn: u8,
    }

    round_trips(&Match { r#type: "a".into(), r#fn: 1 }.key(), "a.1");
    filters::<Match>(MatchKey::filter().r#type("a").r#fn(2), "a.2");
    assert_eq!(Match::settings().name, "match");
}

/// Local items that shadow names of the standard library.
#[allow(dead_code, missing_docs, non_camel_case_types)]
mod shadowed {
    use kvtyped::{KeySegment, KvModel};

    pub(crate) struct Option;
    pub(crate) type Result = ();
    pub(crate) struct Some;
    pub(crate) struct None;
    pub(crate) struct Ok;
    pub(crate) struct Err;
    pub(crate) struct Vec;
    pub(crate) struct Self_;
    pub(crate) type str = ();
    pub(crate) type bool = ();
    pub(crate) trait Clone {
        fn clone(&self) {}
    }
    impl<T> Clone for T {}
    pub(crate) trait Into {
        fn into(&self) {}
    }
    impl<T> Into for T {}
    pub(crate) trait Default {
        fn default() {}
    }
    impl<T> Default for T {}

    #[derive(
        ::core::clone::Clone,
        Debug,
        PartialEq,
        Eq,
        PartialOrd,
        Ord,
        Hash,
        ::serde::Serialize,
        ::serde::Deserialize,
        KeySegment,
    )]
    pub(crate) struct String(::std::string::String);

    impl From<&'static ::core::primitive::str> for String {
        fn from(text: &'static ::core::primitive::str) -> Self {
            Self(::std::string::String::from(text))
        }
    }

    #[derive(KvModel)]
    #[kv(key = "x.{name}.{clone}", codec = ::kvtyped::codec::Text, history = 2, ttl = "1s")]
    pub(crate) struct Model {
        pub(crate) name: String,
        pub(crate) clone: u8,
        #[kv(value)]
        pub(crate) value: u64,
    }
}

#[test]
fn shadowed_names_do_not_break_generated_code() {
    let model = shadowed::Model { name: "n".into(), clone: 1, value: 5 };
    round_trips(&model.key(), "x.n.1");
    filters::<shadowed::Model>(shadowed::ModelKey::filter().name("n").clone(1), "x.n.1");
    assert_eq!(model.stored(), &5);
}

/// Input from a `macro_rules!` macro works like handwritten input.
#[test]
fn derive_works_inside_macro_rules() {
    macro_rules! model {
        ($name:ident, $key:ident, $type:ty) => {
            #[derive(Serialize, Deserialize, KvModel)]
            struct $name {
                #[kv(key)]
                $key: $type,
            }
        };
    }
    model!(Made, number, u16);
    round_trips(&MadeKey::new(7), "7");
    assert_eq!(Made { number: 7 }.key().number, 7);
}

#[test]
fn enum_segment_is_its_variant_name() {
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, KeySegment)]
    enum Region {
        Eu,
        #[kv(rename = "us.east 1")]
        UsEast,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, KeySegment)]
    #[kv(rename_all = "kebab-case")]
    enum Tier {
        FreeTrial,
        #[kv(rename = "PAID")]
        Paid,
    }

    #[derive(KvModel)]
    #[kv(key = "{region}.{tier}", codec = Text)]
    struct Quota {
        region: Region,
        tier: Tier,
        #[kv(value)]
        most: u32,
    }

    let quota = Quota { region: Region::Eu, tier: Tier::FreeTrial, most: 5 };
    assert_eq!(quota.stored(), &5);
    round_trips(&quota.key(), "Eu.free-trial");
    round_trips(&QuotaKey::new(Region::UsEast, Tier::Paid), "us=2Eeast=201.PAID");
    filters::<Quota>(QuotaKey::filter().tier(Tier::Paid), "*.PAID");
    let error = "eu.PAID".parse::<QuotaKey>().unwrap_err().to_string();
    assert_eq!(
        error,
        "the segment of the field `region` is invalid: it is not the canonical text of one of `Eu`, `us.east 1`"
    );
}

#[test]
fn newtype_segment_is_its_inner_value() {
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, KeySegment)]
    struct Tenant(String);

    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, KeySegment)]
    struct Id<T> {
        number: T,
    }

    #[derive(KvModel)]
    #[kv(key = "{tenant}.{id}", codec = Text)]
    struct Row {
        tenant: Tenant,
        id: Id<u8>,
        #[kv(value)]
        value: String,
    }

    let row = Row { tenant: Tenant("a b".into()), id: Id { number: 3 }, value: "v".into() };
    assert_eq!(row.stored(), "v");
    round_trips(&row.key(), "a=20b.3");
    assert!("a.300".parse::<RowKey>().is_err());
}

/// A public model needs no attributes other than its own.
pub mod public {
    use kvtyped::prelude::*;

    /// A public model.
    #[derive(Debug, Serialize, Deserialize, KvModel)]
    #[kv(key = "{tenant}.{id}", history = 5)]
    pub struct Account {
        /// The tenant.
        pub tenant: String,
        /// The id.
        pub id: u64,
    }

    /// A public singleton.
    #[derive(Debug, Serialize, Deserialize, KvModel)]
    #[kv(key = "one")]
    pub struct One {
        /// The text.
        pub text: String,
    }
}

#[test]
fn history_attribute_is_applied() {
    assert_eq!(public::Account::settings().history, Some(5));
    assert_eq!(public::OneKey, public::OneKey::new());
}

/// The messages of rustc in these files depend on its version. Regenerate them with `TRYBUILD=overwrite`.
#[test]
fn invalid_models_fail_with_expected_messages() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("ui/*.rs");
}
