//! Lost acknowledgements.

use harness::Mode;
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, Read, Version};

use super::{Ledger, SECOND, TestCluster, ThroughProxy, is_unknown, on_both_sites};
use crate::support::{Document, DocumentKey, in_time};

/// The operation timeout in these tests, long enough to recover an acknowledgement.
const PATIENT: Duration = Duration::from_secs(8);

async fn nothing() {}

/// P5, P4: the write is found by its id, with its revision.
async fn lose_ack_of_put(site: TestCluster) {
    let proxied = ThroughProxy::<Document>::new(site).await;
    let (old, new) = (Document::new("a", "old"), Document::new("a", "new"));
    let mut ledger = Ledger::default();
    ledger.note(old.clone(), proxied.past.put(&old).await);
    let result = proxied.losing_the_answer(proxied.through.put(&new).timeout(PATIENT), nothing()).await;
    let stored = proxied.past.get(&new.key()).read(Read::Leader).await.unwrap().expect("the write went through");
    assert_eq!((stored.text.as_str(), result.as_ref().ok()), ("new", Some(&stored.revision())));
    ledger.note(new, result);
    ledger.agrees_with(&proxied.past).await;
}

async fn lose_ack_of_create(site: TestCluster) {
    let proxied = ThroughProxy::<Document>::new(site).await;
    let new = Document::new("a", "new");
    let mut ledger = Ledger::default();
    let result = proxied.losing_the_answer(proxied.through.create(&new).timeout(PATIENT), nothing()).await;
    let stored = proxied.past.get(&new.key()).read(Read::Leader).await.unwrap().expect("the write went through");
    assert_eq!(result.as_ref().ok(), Some(&stored.revision()), "not `AlreadyExists` by ourselves: {result:?}");
    ledger.note(new, result);
    ledger.agrees_with(&proxied.past).await;
}

async fn lose_ack_of_update(site: TestCluster) {
    let proxied = ThroughProxy::<Document>::new(site).await;
    let (old, new) = (Document::new("a", "old"), Document::new("a", "new"));
    let mut ledger = Ledger::default();
    let first = proxied.past.put(&old).await;
    let revision = *first.as_ref().unwrap();
    ledger.note(old, first);
    let update = proxied.through.update(&new, revision).timeout(PATIENT);
    let result = proxied.losing_the_answer(update, nothing()).await;
    let stored = proxied.past.get(&new.key()).read(Read::Leader).await.unwrap().expect("there");
    assert_eq!(result.as_ref().ok(), Some(&stored.revision()), "not a conflict with ourselves: {result:?}");
    ledger.note(new, result);
    ledger.agrees_with(&proxied.past).await;
}

async fn lose_ack_of_delete(site: TestCluster) {
    let proxied = ThroughProxy::<Document>::new(site).await;
    let key = DocumentKey::new("a");
    for guarded in [false, true] {
        let revision = proxied.past.put(&Document::new("a", "there")).await.unwrap();
        let delete = proxied.through.delete(&key).timeout(PATIENT);
        let delete = if guarded { delete.if_revision(revision) } else { delete };
        let marker = proxied.losing_the_answer(delete, nothing()).await.expect("it is found by its id");
        let past = proxied.past.history(&key).await.unwrap();
        assert!(matches!(past.last(), Some(Version::Removed { revision, .. }) if *revision == marker), "{past:?}");
    }
    assert_eq!(proxied.past.history(&key).await.unwrap().len(), 4, "each was applied once");
}

async fn lose_ack_of_purge(site: TestCluster) {
    let proxied = ThroughProxy::<Document>::new(site).await;
    let key = DocumentKey::new("a");
    proxied.past.put(&Document::new("a", "there")).await.unwrap();
    let purge = proxied.through.purge(&key).timeout(PATIENT);
    let marker = proxied.losing_the_answer(purge, nothing()).await.expect("it is found by its id");
    assert_eq!(proxied.past.status().await.unwrap().last_revision, marker, "it was applied once");
}

async fn lose_ack_of_modify(site: TestCluster) {
    let proxied = ThroughProxy::<Document>::new(site).await;
    let key = DocumentKey::new("a");
    proxied.past.put(&Document::new("a", "-")).await.unwrap();
    let lost = proxied.proxy.dropped_replies();
    let mut runs = 0;
    let modify = proxied.through.modify(&key, |document| {
        // The read has completed. The acknowledgement of the next write is lost.
        proxied.proxy.set(Mode::DropReplies);
        runs += 1;
        document.text += "x";
    });
    let entry = proxied.until_an_answer_is_lost(lost, modify.timeout(PATIENT), nothing()).await.unwrap();
    assert_eq!((runs, entry.text.as_str()), (1, "-x"));
    let stored = proxied.past.get(&key).read(Read::Leader).await.unwrap().expect("there");
    assert_eq!((stored.text.as_str(), stored.revision()), ("-x", entry.revision()));
}

on_both_sites! {
    /// P5, P4.
    async fn lost_ack_of_write_is_recovered(site: TestCluster) {
        tokio::join!(
            lose_ack_of_put(site),
            lose_ack_of_create(site),
            lose_ack_of_update(site),
            lose_ack_of_delete(site),
            lose_ack_of_purge(site),
            lose_ack_of_modify(site),
        );
    }

    /// P5, P4, P8: no further reply arrives. The outcome must be reported as unknown, without guessing.
    async fn write_without_reply_has_unknown_outcome(site: TestCluster) {
        let time = 2 * SECOND;
        let proxied = ThroughProxy::<Document>::new(site).await;
        let there = proxied.past.put(&Document::new("there", "old")).await.unwrap();
        let gone = DocumentKey::new("gone");
        proxied.past.put(&Document::new("gone", "old")).await.unwrap();
        let put = Document::new("put", "p");
        let create = Document::new("create", "c");
        let update = Document::new("there", "u");
        let again = Document::new("there", "create over what is there");
        proxied.proxy.set(Mode::DropReplies);
        let (put_result, create_result, update_result, again_result, deleted) = tokio::join!(
            in_time("put", time, proxied.through.put(&put).timeout(time)),
            in_time("create", time, proxied.through.create(&create).timeout(time)),
            in_time("update", time, proxied.through.update(&update, there).timeout(time)),
            in_time("create", time, proxied.through.create(&again).timeout(time)),
            in_time("delete", time, proxied.through.delete(&gone).timeout(time)),
        );
        proxied.proxy.set(Mode::Pass);
        let mut ledger = Ledger::default();
        for (document, result) in
            [(put, put_result), (create, create_result), (update, update_result), (again, again_result)]
        {
            assert!(is_unknown(&result), "{}: {result:?}", document.text);
            ledger.note(document, result);
        }
        assert!(is_unknown(&deleted), "{deleted:?}");
        ledger.agrees_with(&proxied.past).await;
        // A write that arrived was applied once. A write whose precondition failed was not applied.
        for (key, texts) in [("put", &["p"][..]), ("create", &["c"]), ("there", &["old", "u"])] {
            let past = proxied.past.history(&DocumentKey::new(key)).await.unwrap();
            let found: Vec<_> = past.iter().map(|version| version.entry().expect("a put").text.as_str()).collect();
            assert_eq!(found, texts);
        }
        assert_eq!(proxied.past.history(&gone).await.unwrap().len(), 2, "a put and one marker");
        // The handle remains usable.
        proxied.through.put(&Document::new("there", "later")).await.unwrap();
    }

    /// P5, P4: the lost reply is a refusal.
    async fn lost_refusal_is_never_a_success(site: TestCluster) {
        let proxied = ThroughProxy::<Document>::new(site).await;
        let first = proxied.past.put(&Document::new("a", "old")).await.unwrap();
        let newer = Document::new("a", "newer");
        proxied.past.update(&newer, first).await.unwrap();
        let late = Document::new("a", "late");
        let result = proxied.losing_the_answer(proxied.through.update(&late, first).timeout(PATIENT), nothing()).await;
        let error = result.as_ref().expect_err("another came first");
        // The next entry of the key names its own expected revision, which proves that the late write was not applied.
        assert!(matches!(error.kind(), ErrorKind::Conflict { .. }), "{error}");
        assert_eq!(error.outcome(), Outcome::NotApplied);

        let again = Document::new("a", "again");
        let created = proxied.losing_the_answer(proxied.through.create(&again).timeout(PATIENT), nothing()).await;
        created.as_ref().expect_err("there is a record");

        let mut ledger = Ledger::default();
        ledger.note(late, result);
        ledger.note(again, created);
        ledger.agrees_with(&proxied.past).await;
    }
}
