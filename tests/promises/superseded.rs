//! Lost acknowledgements of writes while another client writes the same key.

use harness::Mode;
use kvtyped::Read;
use kvtyped::prelude::*;

use super::{Ledger, SECOND, TestCluster, ThroughProxy, is_unknown, on_both_sites};
use crate::support::{Document, DocumentKey, Session, SessionKey, in_time};

const PATIENT: Duration = Duration::from_secs(8);

on_both_sites! {
    /// P6, P4.
    async fn overwritten_write_is_found_in_history(site: TestCluster) {
        let proxied = ThroughProxy::<Document>::new(site).await;
        let theirs = |name: &str| Document::new(name, "theirs");
        let (put, update) = (Document::new("put", "mine"), Document::new("update", "mine"));
        let create = Document::new("create", "mine");
        let over = |name: &'static str| {
            let past = &proxied.past;
            async move {
                past.put(&theirs(name)).await.expect("theirs is written");
            }
        };
        let first = proxied.past.put(&Document::new("update", "old")).await.unwrap();

        let mut ledger = Ledger::default();
        let result = proxied.losing_the_answer(proxied.through.put(&put).timeout(PATIENT), over("put")).await;
        ledger.note(put, result);
        let result = proxied.losing_the_answer(proxied.through.create(&create).timeout(PATIENT), over("create")).await;
        ledger.note(create, result);
        let guarded = proxied.through.update(&update, first).timeout(PATIENT);
        let result = proxied.losing_the_answer(guarded, over("update")).await;
        ledger.note(update, result);
        for (document, result) in &ledger.0 {
            assert!(result.is_ok(), "{}: {result:?}", document.name);
            let now = proxied.past.get(&document.key()).read(Read::Leader).await.unwrap().expect("theirs");
            assert_eq!(now.text, "theirs");
        }
        ledger.agrees_with(&proxied.past).await;
    }

    /// P6: our entry is no longer stored. The server itself may still remember the id of a write with a precondition.
    async fn overwritten_write_without_history_is_exact_or_unknown(site: TestCluster) {
        let proxied = ThroughProxy::<Session>::new(site).await;
        let session = Session::new("acme", 7);
        let written = async || proxied.past.status().await.unwrap().last_revision.get();
        let theirs = async || {
            proxied.past.put(&session.clone().visited(99)).await.expect("theirs is written");
        };

        let put = proxied.through.put(&session).timeout(2 * SECOND);
        let result = proxied.losing_the_answer(put, theirs()).await;
        assert!(is_unknown(&result), "{result:?}");
        assert_eq!(written().await, 2, "it was applied once");

        let revision = proxied.past.put(&session).await.unwrap();
        let mine = session.clone().visited(1);
        let update = proxied.through.update(&mine, revision).timeout(PATIENT);
        let result = proxied.losing_the_answer(update, theirs()).await;
        match (site, &result) {
            // Before 2.12, a single server may check the id before the precondition, too.
            (_, Ok(found)) => assert_eq!(found.get(), revision.get() + 1),
            (TestCluster::OneServer, result) if is_unknown(result) => {}
            // Before 2.11, a cluster checks the precondition first.
            (TestCluster::ThreeServers, result) if is_unknown(result) && harness::binary::version() < [2, 11, 0] => {}
            _ => panic!("{result:?}"),
        }
        assert_eq!(written().await, 5, "it was applied once");
        let now = proxied.past.get(&session.key()).read(Read::Leader).await.unwrap().expect("theirs");
        assert_eq!(now.visits, 99);
    }

    /// P6: the other entry names its expected revision, and that is not ours.
    async fn late_write_without_history_conflicts(site: TestCluster) {
        let proxied = ThroughProxy::<Session>::new(site).await;
        let session = Session::new("acme", 7);
        let revision = proxied.past.put(&session).await.unwrap();
        proxied.past.update(&session.clone().visited(99), revision).await.unwrap();
        let mine = session.clone().visited(1);
        let update = proxied.through.update(&mine, revision).timeout(PATIENT);
        let error = proxied.losing_the_answer(update, async {}).await.unwrap_err();
        assert!(error.is_conflict() && error.outcome() == Outcome::NotApplied, "{error}");
        assert_eq!(proxied.past.status().await.unwrap().last_revision.get(), 2, "nothing else was written");
    }

    /// P6, P9: copies of a write with a precondition wait in a socket until another client has written.
    async fn late_conditional_write_is_refused(site: TestCluster) {
        let proxied = ThroughProxy::<Document>::new(site).await;
        let key = DocumentKey::new("a");
        let first = proxied.past.put(&Document::new("a", "old")).await.unwrap();
        let (late, created) = (Document::new("a", "late"), Document::new("b", "late"));
        proxied.proxy.set(Mode::Stall);
        let (late_result, created_result) = tokio::join!(
            in_time("update", SECOND, proxied.through.update(&late, first).timeout(SECOND)),
            in_time("create", SECOND, proxied.through.create(&created).timeout(SECOND)),
        );
        assert!(is_unknown(&late_result) && is_unknown(&created_result), "{late_result:?} {created_result:?}");
        proxied.past.put(&Document::new("a", "newer")).await.unwrap();
        proxied.past.put(&Document::new("b", "newer")).await.unwrap();

        proxied.proxy.set(Mode::Pass);
        // This write follows the copies on the same connection.
        proxied.through.put(&Document::new("a", "last")).timeout(PATIENT).await.unwrap();
        let past = proxied.past.history(&key).await.unwrap();
        let texts: Vec<_> = past.iter().map(|version| version.entry().expect("a put").text.as_str()).collect();
        assert_eq!(texts, ["old", "newer", "last"]);
        assert_eq!(proxied.past.history(&DocumentKey::new("b")).await.unwrap().len(), 1, "theirs");
    }

    /// P5, P6: a request on a broken connection is sent again if it has a precondition.
    async fn conditional_write_survives_lost_connection(site: TestCluster) {
        let proxied = ThroughProxy::<Document>::new(site).await;
        let mut ledger = Ledger::default();
        let mut revision = proxied.past.put(&Document::new("a", "first")).await.unwrap();
        for number in 0..5 {
            let document = Document::new("a", &number.to_string());
            proxied.proxy.set(Mode::Stall);
            let update = proxied.through.update(&document, revision).timeout(PATIENT);
            let (result, ()) = tokio::join!(update.into_future(), async {
                // The bytes that the connection holds at this moment are lost.
                tokio::task::yield_now().await;
                proxied.proxy.cut();
                proxied.proxy.set(Mode::Pass);
            });
            revision = *result.as_ref().expect("it is written in the end");
            ledger.note(document, result);
        }
        ledger.agrees_with(&proxied.past).await;
        assert_eq!(proxied.past.status().await.unwrap().last_revision, revision);
        assert_eq!(proxied.past.get(&DocumentKey::new("a")).read(Read::Leader).await.unwrap().expect("there").text, "4");
    }

    /// P6: increments by `modify` are counted exactly, regardless of lost acknowledgements.
    async fn lost_acks_of_modify_count_once(site: TestCluster) {
        let proxied = ThroughProxy::<Session>::new(site).await;
        let key = SessionKey::new("acme", 7);
        proxied.past.put(&Session::new("acme", 7)).await.unwrap();
        for round in 1..=3_u32 {
            let lost = proxied.proxy.dropped_replies();
            let modify = proxied.through.modify(&key, |session| {
                proxied.proxy.set(Mode::DropReplies);
                session.visits += 1;
            });
            let entry = proxied.until_an_answer_is_lost(lost, modify.timeout(PATIENT), async {}).await.unwrap();
            assert_eq!(entry.visits, round);
        }
        assert_eq!(proxied.past.get(&key).read(Read::Leader).await.unwrap().expect("there").visits, 3);
        assert_eq!(proxied.past.status().await.unwrap().last_revision.get(), 4, "each was written once");
    }
}
