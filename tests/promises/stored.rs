//! The stored form of writes, as a plain client sees it.

use std::collections::HashSet;

use async_nats::jetstream::stream::Stream;
use kvtyped::prelude::*;

use super::{TestCluster, ThroughProxy, on_both_sites};
use crate::needs::needs;
use crate::support::{Document, Session};

async fn stream(site: TestCluster, bucket: &str) -> Stream {
    let client = async_nats::connect(site.server().await.url()).await.unwrap();
    async_nats::jetstream::new(client).get_stream(format!("KV_{bucket}")).await.unwrap()
}

/// Returns a header of the message at a revision.
async fn header(stream: &Stream, revision: Revision, name: &str) -> Option<String> {
    let message = stream.get_raw_message(revision.get()).await.expect("it is stored");
    message.headers.get(name).map(|value| value.as_str().to_owned())
}

on_both_sites! {
    /// P7: each operation id is unique, so no write is mistaken for another, even if it is sent again.
    async fn every_write_has_unique_id_and_revision(site: TestCluster) {
        let proxied = ThroughProxy::<Document>::new(site).await;
        let mut revisions = Vec::new();
        for key in ["a", "b"] {
            let mine = Document::new(key, "same");
            revisions.push(proxied.through.put(&mine).await.unwrap());
            let last = *revisions.last().expect("pushed");
            revisions.push(proxied.losing_the_answer(proxied.through.update(&mine, last), async {}).await.unwrap());
        }
        let both = [Document::new("c", "same"), Document::new("d", "same")];
        let creates = both.iter().map(|document| proxied.through.create(document).into_future());
        let creates = futures::future::try_join_all(creates);
        revisions.extend(proxied.losing_the_answer(creates, async {}).await.unwrap());
        revisions.push(proxied.through.delete(&both[0].key()).await.unwrap());

        let distinct: HashSet<_> = revisions.iter().collect();
        assert_eq!(distinct.len(), revisions.len());
        assert_eq!(proxied.past.status().await.unwrap().last_revision.get(), revisions.len() as u64);
        let stream = stream(site, proxied.past.name()).await;
        let mut ids = HashSet::new();
        for revision in revisions {
            let mut id = header(&stream, revision, "Nats-Msg-Id").await;
            if id.is_none() {
                id = header(&stream, revision, "Kvtyped-Oid").await;
            }
            let id = id.expect("every write has one");
            assert!(ids.insert(id), "revision {revision} has the id of another");
        }
    }

    /// P17, and P16 for writes over delete markers: the message contains the TTL, rounded up.
    async fn stored_ttl_is_never_shorter_than_requested(site: TestCluster) {
        needs!(RecordTtl);
        let world = site.world().await;
        let sessions: Bucket<Session> = site.fresh(&world).await.unwrap();
        let stream = stream(site, sessions.name()).await;
        let session = Session::new("acme", 7);
        let key = session.key();
        for (asked, stored) in [(1_000, "1"), (1_001, "2"), (1_900, "2"), (2_000, "2"), (2_001, "3"), (59_999, "60")] {
            let ttl = Duration::from_millis(asked);
            let is_stored = async |revision| {
                assert_eq!(header(&stream, revision, "Nats-TTL").await.as_deref(), Some(stored), "{ttl:?}");
                revision
            };
            let last = is_stored(sessions.put(&session).ttl(ttl).await.unwrap()).await;
            let last = is_stored(sessions.update(&session, last).ttl(ttl).await.unwrap()).await;
            assert!(is_stored(sessions.touch(&key).ttl(ttl).await.unwrap()).await > last);
            sessions.delete(&key).await.unwrap();
            is_stored(sessions.create(&session).ttl(ttl).await.unwrap()).await;
            sessions.purge(&key).await.unwrap();
            is_stored(sessions.create(&session).ttl(ttl).await.unwrap()).await;
            let entry = sessions.modify(&key, |session| session.visits += 1).ttl(ttl).await.unwrap();
            is_stored(entry.revision()).await;
        }
    }
}
