//! The stored form of indexes: entries, claims, and the card of a model, which decides whether a program may open a bucket.

use std::time::{SystemTime, UNIX_EPOCH};

use kvtyped::key::ModelKey;
use kvtyped::model::index::{Claim, IndexCard, IndexState, claim_key, entry_key, values_of};
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Revision};

use crate::support::{on_both_backends, unique};

/// The same model in programs with other indexes.
macro_rules! programs {
    ($($(#[$attribute:meta])* $program:ident { $(#[$of_email:meta])* | $(#[$of_team:meta])* })*) => {$(
        mod $program {
            use super::*;

            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
            #[kv(bucket = "users", key = "{id}")]
            $(#[$attribute])*
            pub(super) struct User {
                pub(super) id: u64,
                $(#[$of_email])*
                pub(super) email: String,
                $(#[$of_team])*
                pub(super) team: Option<String>,
            }
        }
    )*};
}

programs! {
    plain { | }
    with_team { | #[kv(index)] }
    with_both { #[kv(unique)] | #[kv(index)] }
    with_lower_team { | #[kv(index(with = lower))] }
    with_late_team { | #[kv(index(eventual))] }
}

#[allow(clippy::ref_option, reason = "the derive passes a reference to the field")]
fn lower(team: &Option<String>) -> Option<String> {
    team.as_ref().map(|team| team.to_lowercase())
}

/// The model of `golden/indexes.txt`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "users", key = "{id}", index(by_role = "{team}.{role}"))]
struct User {
    id: u64,
    #[kv(unique(with = lower_case))]
    email: String,
    #[kv(index)]
    team: Option<String>,
    role: String,
    #[kv(index(by = "day", eventual))]
    joined: SystemTime,
    #[kv(index(by = 100))]
    score: i32,
    #[kv(index(hash))]
    bio: String,
}

#[allow(clippy::ptr_arg, reason = "the derive passes a reference to the field")]
fn lower_case(text: &String) -> String {
    text.to_lowercase()
}

/// Lines may be added to `golden/indexes.txt`, but existing lines never change.
#[test]
fn stored_form_of_indexes_is_stable() {
    let ada = User {
        id: 7,
        email: "Ada@Example.com".into(),
        team: Some("core".into()),
        role: "Admin & Co".into(),
        joined: UNIX_EPOCH + Duration::from_secs(1_796_083_200),
        score: -1234,
        bio: "long text".into(),
    };
    let key = ada.key().encode().unwrap();
    let mut written = Vec::new();
    for value in &values_of(&ada) {
        let info = &User::__INDEXES[value.index];
        written.push(if info.is_unique() {
            let claim = Claim { owner: key.clone(), expects: Revision::new(12) };
            let body = String::from_utf8(claim.encode()).unwrap();
            assert_eq!(Claim::decode(body.as_bytes()), Ok(claim));
            format!("claim {} {body}", claim_key("user", info, &value.text).unwrap())
        } else {
            format!("entry {}", entry_key("user", info, &value.text, &key).unwrap())
        });
        let state = match info.name {
            "by_role" => IndexState::Writing,
            "joined" => IndexState::Dropping,
            "email" => IndexState::Pending,
            _ => IndexState::Readable,
        };
        let card = IndexCard::new(info, state);
        let json = serde_json::to_string(&card).unwrap();
        assert_eq!(serde_json::from_str::<IndexCard>(&json).unwrap(), card);
        written.push(format!("index {} {json}", info.name));
    }
    written.sort();
    let mut golden: Vec<_> = include_str!("golden/indexes.txt").lines().map(str::to_owned).collect();
    golden.sort();
    assert_eq!(written, golden);
}

fn states(indexes: &std::collections::BTreeMap<String, IndexCard>) -> Vec<(&str, IndexState)> {
    indexes.iter().map(|(name, index)| (&**name, index.state.clone())).collect()
}

#[track_caller]
fn report<T: std::fmt::Debug>(opened: Result<T, Error>) -> String {
    match opened.unwrap_err().kind() {
        ErrorKind::SchemaDiffers { report } => report.clone(),
        other => panic!("{other:?}"),
    }
}

on_both_backends! {
    async fn new_bucket_lists_readable_indexes(world: World) {
        let name = unique("users");
        let users: Bucket<with_both::User> = world.store.bucket().name(&name).await.unwrap();
        let card = users.card().await.unwrap().unwrap();
        assert_eq!(states(&card.indexes), [("email", IndexState::Readable), ("team", IndexState::Readable)]);
        assert!(card.indexes["email"].unique && !card.indexes["team"].unique);
        assert_eq!(card.indexes["team"].definition, "{team}");
        // The same program opens the bucket again.
        let _again: Bucket<with_both::User> = world.store.bucket().name(&name).await.unwrap();
    }

    async fn new_index_of_an_existing_bucket_is_not_built(world: World) {
        let name = unique("users");
        let old: Bucket<with_team::User> = world.store.bucket().name(&name).await.unwrap();
        let new: Bucket<with_both::User> = world.store.bucket().name(&name).on_schema(Drift::Update).await.unwrap();
        for users in [old.card().await, new.card().await] {
            assert_eq!(states(&users.unwrap().unwrap().indexes), [("team", IndexState::Readable)]);
        }
        let plain: Bucket<plain::User> = world.store.bucket().name(unique("users")).await.unwrap();
        let open = world.store.bucket().name(plain.name());
        let indexed: Bucket<with_both::User> = open.on_drift(Drift::Update).on_schema(Drift::Update).await.unwrap();
        assert!(indexed.card().await.unwrap().unwrap().indexes.is_empty());
    }

    async fn writer_must_know_the_indexes_of_the_bucket(world: World) {
        let name = unique("users");
        let _users: Bucket<with_team::User> = world.store.bucket().name(&name).await.unwrap();
        let report = report(world.store.bucket::<plain::User>().name(&name).await);
        assert!(report.contains("index `team`") && report.contains("without its entries"), "{report}");
        let reader: ReadBucket<plain::User> = world.store.bucket().name(&name).read_only().await.unwrap();
        assert_eq!(reader.count(..).await.unwrap(), 0);
    }

    async fn another_definition_of_an_index_is_refused(world: World) {
        let name = unique("users");
        let _users: Bucket<with_team::User> = world.store.bucket().name(&name).await.unwrap();
        for drift in [Drift::Fail, Drift::Update] {
            let opened = world.store.bucket::<with_lower_team::User>().name(&name).on_schema(drift).await;
            let report = report(opened);
            assert!(report.contains("`{team:lower}`") && report.contains("`{team}`"), "{report}");
        }
        let report = report(world.store.bucket::<with_late_team::User>().name(&name).read_only().await);
        assert!(report.contains("(eventual)"), "{report}");
    }

    async fn eventual_index_needs_no_writer(world: World) {
        let name = unique("users");
        let _users: Bucket<with_late_team::User> = world.store.bucket().name(&name).await.unwrap();
        let plain: Bucket<plain::User> = world.store.bucket().name(&name).await.unwrap();
        plain.put(&plain::User { id: 1, email: "ada".into(), team: None }).await.unwrap();
    }

    async fn dropped_index_lets_other_programs_write(world: World) {
        let name = unique("users");
        let users: Bucket<with_team::User> = world.store.bucket().name(&name).await.unwrap();
        for id in 0..100 {
            users.put(&with_team::User { id, email: "ada".into(), team: Some("core".into()) }).await.unwrap();
        }
        assert!(report(world.store.bucket::<plain::User>().name(&name).await).contains("drop_index"));
        let plain: Bucket<plain::User> = world.store.bucket().name(&name).on_schema(Drift::Adopt).await.unwrap();
        assert_eq!(plain.drop_index("team").all_writers_stopped().await.unwrap(), 100);
        assert!(plain.card().await.unwrap().unwrap().indexes.is_empty());
        let plain: Bucket<plain::User> = world.store.bucket().name(&name).await.unwrap();
        assert_eq!(plain.count(..).await.unwrap(), 100);
        assert_eq!((plain.drop_index("team").await.unwrap(), plain.drop_index("none").await.unwrap()), (0, 0));
    }
}
