//! The spans of calls that share a write.

use std::sync::Arc;

use futures::future::join_all;
use kvtyped::prelude::*;

use super::recorder::{Recorder, Spans};
use crate::support::{Session, on_both_backends, unique};

on_both_backends! {
    /// The write is a child of the first call's span. The spans of the other calls are linked.
    async fn shared_write_is_linked_to_its_calls(world: World) {
        let (spans, recorder) = (Spans::default(), Arc::new(Recorder::default()));
        let store = world.store.clone().with_observer(recorder.clone());
        let sessions: Bucket<Session> = store.bucket().name(unique("session")).await.unwrap();
        let session = Session::new("acme", 1);
        sessions.put(&session).await.unwrap();
        let key = session.key();
        let subscriber = tracing::subscriber::set_default(spans.clone());
        let calls = (0..20).map(|_| sessions.modify(&key, |session| session.visits += 1).into_future());
        for result in join_all(calls).await {
            result.unwrap();
        }
        drop(subscriber);
        assert_eq!(sessions.get(&key).await.unwrap().expect("there").visits, 20);

        let calls: Vec<_> = spans.of("modify").iter().map(|span| span.id).collect();
        assert_eq!(calls.len(), 20);
        let writes: Vec<_> = spans.all().into_iter().filter(|span| span.name == "group_commit").collect();
        // In memory, each write ends before the next call begins.
        let shares = world.is_on_a_server();
        assert!(!writes.is_empty() && (writes.len() < 20) == shares, "{} writes", writes.len());
        let mut linked = Vec::new();
        for write in &writes {
            let first = write.parent.expect("the span of the first call");
            assert_eq!(write.fields["kvtyped.group.size"], (1 + write.follows.len()).to_string(), "{write:?}");
            assert_eq!(write.fields["otel.name"], format!("group_commit {}", sessions.name()));
            linked.push(first);
            linked.extend(&write.follows);
            assert!(write.is_closed(), "{write:?}");
        }
        linked.sort_unstable();
        assert_eq!(linked, calls, "each call belongs to one write");
        for report in recorder.of("modify") {
            assert_eq!((report.attempts, report.records), (1, 1), "{report:?}");
        }
    }
}
