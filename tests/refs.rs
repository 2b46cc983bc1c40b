//! References to records of another model.

use futures::future::join;
use kvtyped::ErrorKind;
use kvtyped::key::ModelKey;
use kvtyped::model::Ref;
use kvtyped::prelude::*;
use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};

use crate::support::{Session, on_both_backends, unique};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "app", key = "team.{company}.{name}")]
struct Team {
    company: String,
    name: String,
    size: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "app", key = "user.{id}")]
struct User {
    id: u64,
    #[kv(index)]
    team: Option<Ref<Team>>,
    #[serde(default)]
    former: Vec<Ref<Team>>,
}

/// A model whose key has a reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "app", key = "member.{team}.{id}", codec = MsgPack, sensitive_key)]
struct Member {
    team: Ref<Team>,
    id: u64,
}

fn team(name: &str) -> Team {
    Team { company: "acme".into(), name: name.into(), size: 1 }
}

fn user(id: u64, team: Option<&Team>) -> User {
    User { id, team: team.map(Ref::to), former: Vec::new() }
}

#[test]
fn reference_is_stored_as_the_key() {
    let core = team("core.x");
    let ada = user(1, Some(&core));
    let json = serde_json::to_string(&ada).unwrap();
    assert_eq!(json, r#"{"id":1,"team":"team.acme.core=2Ex","former":[]}"#);
    assert_eq!(serde_json::from_str::<User>(&json).unwrap(), ada);
    for wrong in ["team.acme", "user.1", "", "team.acme.*"] {
        let error = serde_json::from_str::<Ref<Team>>(&format!("{wrong:?}")).unwrap_err().to_string();
        assert!(error.contains("`team.{company}.{name}`") && (wrong.is_empty() || !error.contains(wrong)), "{error}");
    }
    assert_eq!(format!("{:?}", Ref::to(&core)), "Ref(team.acme.core=2Ex)");
    let member = Member { team: Ref::to(&core), id: 1 };
    assert_eq!(format!("{:?}", Ref::to(&member)), "Ref(..)");
    assert_eq!(member.key().to_string(), "member.team=2Eacme=2Ecore=3D2Ex.1");
    let too_long = Ref::<Team>::new(TeamKey::new("a".repeat(2000), "b"));
    assert!(serde_json::to_string(&too_long).is_err());
}

#[test]
fn reference_is_indexed_by_its_key() {
    let core = team("core");
    let lookup = User::by_team(core.key());
    assert_eq!(lookup.patterns()[0].to_string(), "user.team.team=2Eacme=2Ecore.>");
    assert!(lookup.matches(&user(1, Some(&core))) && !lookup.matches(&user(2, None)));
    assert!(User::by_team(core.key()).matches(&user(1, Some(&core))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reference_round_trips_through_a_segment(company in any::<String>(), name in any::<String>()) {
        let key = TeamKey::new(company, name);
        let member = MemberKey::new(Ref::new(key.clone()), 7_u64);
        if let Ok(stored) = member.encode() {
            let read = MemberKey::decode(stored.as_str()).unwrap();
            prop_assert_eq!(read.team.key(), &key);
            prop_assert_eq!(stored.segments().count(), 3);
        }
    }
}

on_both_backends! {
    async fn references_are_resolved_once(world: World) {
        let name = unique("app");
        let teams: Bucket<Team> = world.store.bucket().name(&name).await.unwrap();
        let all = ["core", "docs"].map(team);
        teams.put_many(&all).await.unwrap();
        let users = [user(1, Some(&all[0])), user(2, Some(&all[1])), user(3, Some(&all[0])), user(4, None)];
        let dangling = user(5, Some(&team("gone")));
        let found = teams.resolve(users.iter().chain([&dangling]).flat_map(|user| &user.team)).await.unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found.get(users[2].team.as_ref().unwrap()).unwrap().value(), &all[0]);
        assert!(found.get(dangling.team.as_ref().unwrap()).is_none());
        assert!(teams.resolve(&users[3].team).await.unwrap().is_empty());
    }
}

mod transactions {
    use super::*;

    on_both_backends! {
        needs Transactions;

        async fn write_requires_the_referenced_records(world: World) {
            let users: Bucket<User> = world.store.bucket().name(unique("app")).await.unwrap();
            let (core, docs) = (team("core"), team("docs"));
            let ada = User { former: vec![Ref::to(&docs)], ..user(1, Some(&core)) };
            let write = || users.transaction().create(&ada).exists(&ada.team).exists(&ada.former);
            let error = write().commit().await.unwrap_err();
            assert!(error.is_not_found() && error.key() == Some("team.acme.core"), "{error}");
            users.transaction().put(&core).commit().await.unwrap();
            let error = write().commit().await.unwrap_err();
            assert!(error.is_not_found() && error.key() == Some("team.acme.docs"), "{error}");
            // The transaction writes the record that it requires.
            write().put(&docs).commit().await.unwrap();
            users.transaction().put(&ada).exists(&ada.team).exists(&ada.team).commit().await.unwrap();
            users.transaction().put(&user(2, None)).exists(&user(2, None).team).commit().await.unwrap();
            users.transaction().delete(&core.key()).commit().await.unwrap();
            let error = users.transaction().put(&ada).exists(&ada.team).commit().await.unwrap_err();
            assert!(error.is_not_found(), "{error}");
            let error = users.transaction().delete(&docs.key()).exists(&ada.former).commit().await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidBatch { .. }), "{error}");
        }

        async fn required_record_may_change_meanwhile(world: World) {
            let name = unique("app");
            let users: Bucket<User> = world.store.bucket().name(&name).await.unwrap();
            let teams: Bucket<Team> = world.store.bucket().name(&name).await.unwrap();
            let core = team("core");
            teams.put(&core).await.unwrap();
            let grow = async {
                for _ in 0..50 {
                    teams.modify(&core.key(), |team| team.size += 1).await.unwrap();
                }
            };
            let join_team = async {
                for id in 0..20 {
                    let new = user(id, Some(&core));
                    users.transaction().create(&new).exists(&new.team).commit().await.unwrap();
                }
            };
            join(grow, join_team).await;
            assert_eq!(teams.get(&core.key()).await.unwrap().unwrap().size, 51);
            assert_eq!(users.count(UserKey::filter()).await.unwrap(), 20);
        }

        async fn record_of_another_bucket_is_refused(world: World) {
            let users: Bucket<User> = world.store.bucket().name(unique("app")).await.unwrap();
            let session = Ref::to(&Session::new("acme", 1));
            let error = users.transaction().put(&user(1, None)).exists(&session).commit().await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidBatch { .. }), "{error}");
        }
    }
}
