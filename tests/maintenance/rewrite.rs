//! Changes of many records by a function.

use kvtyped::ErrorKind;
use kvtyped::prelude::*;

use super::faulty::{Fate, Faulty};
use super::versions::RawUser;
use crate::support::{Session, SessionKey, on_both_backends, seen_as};

on_both_backends! {
    async fn matching_records_are_changed_once(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        for id in 0..10 {
            sessions.put(&Session::new("acme", id)).await.unwrap();
            sessions.put(&Session::new("beta", id)).await.unwrap();
        }
        let change = |session: Session| match session.id {
            0 => Change::Delete,
            1 => Change::Keep,
            2 => Change::Put(session),
            3 => Change::Put(Session { id: 1_000, ..session }),
            _ => Change::Put(session.visited(1)),
        };
        let rewritten = sessions.rewrite(SessionKey::filter().tenant("acme"), change).await.unwrap();
        assert_eq!((rewritten.seen, rewritten.rewritten, rewritten.raced), (10, 7, 0));
        let [(key, error)] = rewritten.refused.as_slice() else { panic!("{:?}", rewritten.refused) };
        assert!(key == "acme.3" && matches!(error.kind(), ErrorKind::KeyChanged), "{error}");
        assert_eq!(sessions.get(&SessionKey::new("acme", 0)).await.unwrap(), None);
        for id in 1..10 {
            let entry = sessions.get(&SessionKey::new("acme", id)).await.unwrap().unwrap();
            let is_changed = id >= 4;
            assert_eq!((entry.visits, entry.is_rewrite()), (u32::from(is_changed), is_changed));
            assert_eq!(sessions.get(&SessionKey::new("beta", id)).await.unwrap().unwrap().visits, 0);
        }
    }

    async fn undecodable_record_is_refused(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        sessions.put(&Session::new("acme", 1)).await.unwrap();
        let raw = seen_as::<RawUser>(&world, sessions.name()).await;
        raw.put(&RawUser { id: "7".into(), bytes: b"garbage".to_vec() }).await.unwrap();
        let rewritten = sessions.rewrite(.., |session| Change::Put(session.visited(1))).await.unwrap();
        assert_eq!((rewritten.seen, rewritten.rewritten, rewritten.refused.len()), (2, 1, 1));
        assert_eq!(rewritten.refused[0].0, "u.7");
    }
}

/// Another writer changes each record between the read and the write.
#[tokio::test]
async fn lost_race_runs_the_function_again() {
    let faulty = Faulty::default();
    let sessions: Bucket<Session> = faulty.store().bucket().await.unwrap();
    sessions.put(&Session::new("acme", 1)).await.unwrap();
    let other: Bucket<Session> = faulty.healthy_store().bucket().await.unwrap();
    let mut runs = 0;
    let change = |session: Session| {
        runs += 1;
        if runs == 1 {
            // Memory answers at once.
            let newer = Session::new("acme", 1).visited(10);
            let raced = other.put(&newer).into_future();
            futures::FutureExt::now_or_never(raced).expect("memory answers").expect("it is written");
        }
        Change::Put(Session { visits: session.visits + 1, ..session })
    };
    let rewritten = sessions.rewrite(.., change).await.unwrap();
    assert_eq!((rewritten.rewritten, rewritten.raced, runs), (1, 1, 2));
    assert_eq!(sessions.get(&SessionKey::new("acme", 1)).await.unwrap().unwrap().visits, 11);
}

/// A function must not run on its own result.
#[tokio::test(start_paused = true)]
async fn unknown_outcome_is_reported_and_not_repeated() {
    for (fate, visits) in [(Fate::LostReply, 1), (Fate::Lost, 0)] {
        let faulty = Faulty::default();
        let sessions: Bucket<Session> = faulty.store().bucket().await.unwrap();
        sessions.put(&Session::new("acme", 1)).await.unwrap();
        faulty.on_write(move |_| fate.clone());
        let change = |session: Session| Change::Put(Session { visits: session.visits + 1, ..session });
        let rewritten = sessions.rewrite(.., change).await.unwrap();
        assert_eq!((rewritten.rewritten, rewritten.refused.len()), (0, 1));
        assert_eq!(rewritten.refused[0].1.outcome(), Outcome::Unknown);
        assert_eq!(sessions.get(&SessionKey::new("acme", 1)).await.unwrap().unwrap().visits, visits);
    }
}
