//! Indexes of values with strange contents, with all verbs, dropped futures, and leaders that step down.

use std::collections::{BTreeMap, BTreeSet};
use std::future::IntoFuture;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::TryStreamExt;
use harness::Cluster;
use kvtyped::prelude::*;
use kvtyped::{Change, ErrorKind};
use proptest::prelude::{Strategy, any};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::index_probe::dies_after;
use crate::support::{World, on_both_backends};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(name = "strange", bucket = "strange", key = "{id}", history = 1, index(by_both = "{tags}.{mail}"))]
struct Strange {
    id: String,
    #[kv(unique(hash))]
    mail: String,
    #[kv(index(hash))]
    note: Option<String>,
    #[kv(index)]
    tags: Vec<String>,
    visits: u32,
}

const TEXTS: [&str; 14] =
    ["", "\0", " ", ".", "..", "a.b", "*", ">", "a.>", "=i", "=3E", "ß\u{202e}∂", "\r\n", "%00/\\\"'"];
const HOUR: Duration = Duration::from_secs(3_600);
const PATIENT: Duration = Duration::from_secs(20);

/// One write of a record.
#[derive(Clone, Debug)]
struct Step {
    verb: u8,
    record: Strange,
    polls: u64,
}

fn text() -> impl Strategy<Value = String> {
    (0..TEXTS.len()).prop_map(|at| TEXTS[at].to_owned())
}

fn step() -> impl Strategy<Value = Step> {
    let note = (any::<Option<u8>>(), text(), 0..20_u8);
    let tags = proptest::collection::vec(text(), 0..4);
    (0..12_u8, 0..6_usize, text(), note, tags, 1..40_u64).prop_map(
        |(verb, id, mail, (has_note, note, long), tags, polls)| {
            // Some notes are longer than a subject, and some as long as a message.
            let note = if long == 0 { "*.>".repeat(250_000) } else { note };
            let id = ["a", "", "*", ">", "b.c", "\0"][id].to_owned();
            let record = Strange { id, mail, note: has_note.map(|_| note), tags, visits: u32::from(verb) };
            Step { verb, record, polls }
        },
    )
}

/// Whether an error is the answer to a write that another record or revision excludes.
fn is_answer(error: &kvtyped::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotUnique { .. }
            | ErrorKind::Conflict { .. }
            | ErrorKind::AlreadyExists
            | ErrorKind::NotFound
            | ErrorKind::RetriesExhausted { .. }
            | ErrorKind::InvalidBatch { .. }
    )
}

/// Whether an error is that of a server that has no leader for a while.
fn is_outage(error: &kvtyped::Error) -> bool {
    matches!(error.kind(), ErrorKind::Timeout { .. } | ErrorKind::Unavailable { .. })
}

async fn perform(bucket: &Bucket<Strange>, step: Step) -> Result<(), kvtyped::Error> {
    let Step { verb, record, polls } = step;
    let key = record.key();
    match verb {
        0 => bucket.put(&record).timeout(PATIENT).await.map(drop),
        1 => bucket.create(&record).timeout(PATIENT).await.map(drop),
        2 => bucket.put(&record).ttl(HOUR).timeout(PATIENT).await.map(drop),
        3 => match bucket.get(&key).await? {
            Some(found) => bucket.update(&record, found.revision()).timeout(PATIENT).await.map(drop),
            None => Ok(()),
        },
        4 => bucket.delete(&key).timeout(PATIENT).await.map(drop),
        5 => bucket.purge(&key).timeout(PATIENT).await.map(drop),
        6 => bucket.touch(&key).timeout(PATIENT).await.map(drop),
        7 => {
            let other = Strange { id: format!("{}x", record.id), ..record.clone() };
            let sent = bucket.put_many([record, other]).await;
            sent.map(drop)
        }
        8 => {
            let other = Strange { id: format!("{}y", record.id), mail: format!("{}.", record.mail), ..record.clone() };
            bucket.transaction().put(&record).put(&other).commit().await.map(drop)
        }
        9 => {
            let change = |found: Strange| Change::Put(Strange { tags: record.tags.clone(), ..found });
            bucket.rewrite(.., change).wait(PATIENT).await.map(drop)
        }
        10 => dies_after(bucket.put(&record).into_future(), polls).await.map_or(Ok(()), |written| written.map(drop)),
        _ => dies_after(bucket.delete(&key).into_future(), polls).await.map_or(Ok(()), |removed| removed.map(drop)),
    }
}

/// Compares every lookup with the records.
async fn check(bucket: &Bucket<Strange>) {
    let listed: Vec<_> = bucket.list(..).await.unwrap().try_collect().await.unwrap();
    let records: Vec<Strange> = listed.iter().map(|entry| entry.value().clone()).collect();
    let ids = |matches: &dyn Fn(&Strange) -> bool| -> BTreeSet<String> {
        records.iter().filter(|record| matches(record)).map(|record| record.id.clone()).collect()
    };
    let mut holders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    records.iter().for_each(|record| holders.entry(&record.mail).or_default().push(&record.id));
    assert!(holders.values().all(|ids| ids.len() == 1), "a mail has several records: {holders:?}");
    for text in TEXTS {
        let tagged: Vec<_> = bucket.list_by(Strange::by_tags(text)).await.unwrap().try_collect().await.unwrap();
        let tagged: Vec<String> = tagged.iter().map(|record| record.id.clone()).collect();
        let found: BTreeSet<_> = tagged.iter().cloned().collect();
        assert_eq!(found, ids(&|record| record.tags.iter().any(|tag| tag == text)), "tag {text:?}");
        assert_eq!(found.len(), tagged.len(), "tag {text:?} yields a record twice");
        assert_eq!(bucket.count_by(Strange::by_tags(text)).exact().await.unwrap(), found.len() as u64, "tag {text:?}");
        assert!(bucket.count_by(Strange::by_tags(text)).await.unwrap() >= found.len() as u64, "tag {text:?}");
        let noted: Vec<_> = bucket.list_by(Strange::by_note(text)).await.unwrap().try_collect().await.unwrap();
        let noted: BTreeSet<String> = noted.iter().map(|record| record.id.clone()).collect();
        assert_eq!(noted, ids(&|record| record.note.as_deref() == Some(text)), "note {text:?}");
        let owner = bucket.get_by(Strange::by_mail(text)).await.unwrap().map(|record| record.id.clone());
        assert_eq!(owner.as_deref(), holders.get(text).map(|ids| ids[0]), "mail {text:?}");
    }
    let report = bucket.verify_indexes().await.unwrap();
    for index in &report.indexes {
        assert!(index.missing == 0 && index.duplicates.is_empty(), "{report:?}");
    }
}

fn steps(count: usize) -> Vec<Step> {
    let mut runner = TestRunner::default();
    (0..count).map(|_| step().new_tree(&mut runner).expect("a step").current()).collect()
}

on_both_backends! {
    needs Transactions;

    async fn lookups_agree_with_the_records(world: World) {
        let bucket: Bucket<Strange> = world.bucket().await;
        let other: Bucket<Strange> = world.another().await.bucket().name(bucket.name()).await.unwrap();
        for round in 0..8 {
            let run = async |bucket: &Bucket<Strange>| {
                for step in steps(25) {
                    match perform(bucket, step.clone()).await {
                        Err(error) if !is_answer(&error) => panic!("{step:?}: {error:?}"),
                        _ => {}
                    }
                }
            };
            futures::join!(run(&bucket), run(&other));
            // Writes of futures that were dropped may still arrive.
            tokio::time::sleep(Duration::from_millis(50)).await;
            check(if round % 2 == 0 { &bucket } else { &other }).await;
        }
        bucket.verify_indexes().repair().await.unwrap();
        assert!(bucket.verify_indexes().await.unwrap().is_clean());
    }
}

/// Leaders step down between the entries and the record of a write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_agree_with_the_records_after_step_downs() {
    crate::needs::needs!(Transactions);
    let cluster = Cluster::start(3).await;
    let world = World::at(&cluster.urls()).await;
    let bucket: Bucket<Strange> = world.store.bucket().replicas(3).timeout(PATIENT).await.unwrap();
    let other: Bucket<Strange> = world.another().await.bucket().timeout(PATIENT).must_exist().await.unwrap();
    let is_over = AtomicBool::new(false);
    let step_downs = async {
        let mut count = 0;
        while !is_over.load(Ordering::Relaxed) {
            cluster.step_down("KV_strange").await;
            count += 1;
        }
        count
    };
    let writes = async {
        let run = async |bucket: &Bucket<Strange>| {
            for step in steps(120) {
                match perform(bucket, step.clone()).await {
                    Err(error) if !is_answer(&error) && !is_outage(&error) => panic!("{step:?}: {error:?}"),
                    _ => {}
                }
            }
        };
        futures::join!(run(&bucket), run(&other));
        is_over.store(true, Ordering::Relaxed);
    };
    let (count, ()) = futures::join!(step_downs, writes);
    assert!(count > 0);
    check(&bucket).await;
    check(&other).await;
    bucket.verify_indexes().repair().await.unwrap();
    assert!(bucket.verify_indexes().await.unwrap().is_clean());
}
