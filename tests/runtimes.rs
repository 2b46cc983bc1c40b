//! Handles that outlive their tokio runtime.

use std::error::Error as _;

use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind};

use crate::support::{SOON, Session, SessionKey, on_both_backends};

/// Opens a handle on a separate runtime, which then ends.
async fn opened_elsewhere<T: Send + 'static>(open: impl Future<Output = T> + Send + 'static) -> T {
    let opened = tokio::task::spawn_blocking(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(open)
    });
    opened.await.expect("no panic")
}

fn is_end_of_runtime(error: &Error) -> bool {
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    matches!(error.kind(), ErrorKind::Closed) && cause.contains("runtime")
}

on_both_backends! {
    async fn cache_reports_end_of_runtime(world: World) {
        let sessions = world.bucket::<Session>().await;
        let revision = sessions.put(&Session::new("acme", 1)).await.unwrap();
        let opening = sessions.clone();
        let (cache, mut changes) = opened_elsewhere(async move {
            let cache = opening.cache(..).await.unwrap();
            let changes = cache.changes();
            (cache, changes)
        })
        .await;
        let error = cache.last_error().expect("it says why");
        assert!(is_end_of_runtime(&error), "{error:?}");
        assert!(cache.contains(&SessionKey::new("acme", 1)), "the last known state");
        let never = Revision::new(revision.get() + 100);
        let error = tokio::time::timeout(SOON, cache.wait_for_revision(never)).await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
        assert!(tokio::time::timeout(SOON, changes.next()).await.unwrap().is_none());
    }

    async fn live_value_reports_end_of_runtime(world: World) {
        let sessions = world.bucket::<Session>().await;
        sessions.put(&Session::new("acme", 1).visited(3)).await.unwrap();
        let opening = sessions.clone();
        let live = opened_elsewhere(async move { opening.live(&SessionKey::new("acme", 1)).await.unwrap() }).await;
        let error = live.last_error().expect("it says why");
        assert!(is_end_of_runtime(&error), "{error:?}");
        let error = tokio::time::timeout(SOON, live.changed()).await.expect("the handle has ended").unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
        assert!(live.subscribe().changed().await.is_err());
        assert_eq!(live.load().visits, 3, "the last known value");
    }

    async fn coalesced_watch_ends_with_runtime(world: World) {
        let sessions = world.bucket::<Session>().await;
        sessions.put(&Session::new("acme", 1)).await.unwrap();
        let opening = sessions.clone();
        let events = opened_elsewhere(async move { opening.watch(..).coalesce().await.unwrap() }).await;
        let reported = tokio::time::timeout(SOON, events.collect::<Vec<_>>()).await;
        reported.expect("the handle has ended");
    }
}
