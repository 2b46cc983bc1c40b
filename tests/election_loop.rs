//! The loop of a service that works while it leads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kvtyped::ErrorKind;
use kvtyped::recipes::{Election, Fence};
use tokio::sync::{mpsc, oneshot};

use crate::support::*;

use kvtyped::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

/// A loop that reports its terms, and works until it is stopped.
fn working(
    election: Election<String>,
) -> (mpsc::UnboundedReceiver<Fence>, oneshot::Sender<()>, tokio::task::JoinHandle<Result<(), kvtyped::Error>>) {
    let (terms, reported) = mpsc::unbounded_channel();
    let (stop, stopped) = oneshot::channel();
    let service = tokio::spawn(async move {
        let work = |leadership: kvtyped::recipes::Leadership<String>| {
            let terms = terms.clone();
            async move {
                let _ = terms.send(leadership.fence());
                std::future::pending::<()>().await;
            }
        };
        election.run_forever(&"me".to_owned(), work).until(stopped).await
    });
    (reported, stop, service)
}

on_both_backends! {
    needs Elections;

    async fn stopped_loop_resigns_before_it_returns(world: World) {
        let election = world.store.election::<String>(unique("stopped")).await.unwrap();
        let (mut terms, stop, service) = working(election.clone());
        let fence = terms.recv().await.unwrap();
        assert_eq!(election.leader().await.unwrap().map(|leader| leader.fence()), Some(fence));
        stop.send(()).unwrap();
        service.await.unwrap().unwrap();
        assert!(election.leader().await.unwrap().is_none(), "the leadership is free at once");
    }

    async fn candidate_stops_without_a_term(world: World) {
        let election = world.store.election::<String>(unique("candidate")).await.unwrap();
        let leader = election.campaign(&"other".to_owned()).await.unwrap();
        let (mut terms, stop, service) = working(election.clone());
        stop.send(()).unwrap();
        service.await.unwrap().unwrap();
        assert!(terms.recv().await.is_none() && leader.check().is_ok());
    }

    async fn loop_campaigns_again_after_a_loss(world: World) {
        let name = unique("again");
        let election = world.store.election::<String>(&*name).ttl(3 * SECOND).await.unwrap();
        let (mut terms, stop, service) = working(election.clone());
        let first = terms.recv().await.unwrap();
        // An operator removes the record of the leader.
        let raw = world.store.raw(&*name).await.unwrap();
        let key = kvtyped::Key::new(format!("=kvtyped.election.{name}.lease")).unwrap();
        raw.purge(&key).await.unwrap();
        let second = tokio::time::timeout(SOON, terms.recv()).await.expect("it leads again").unwrap();
        assert!(second > first);
        stop.send(()).unwrap();
        service.await.unwrap().unwrap();
    }

    async fn finished_work_resigns_and_runs_again(world: World) {
        let election = world.store.election::<String>(unique("finished")).await.unwrap();
        let runs = Arc::new(AtomicU32::new(0));
        let (done, stopped) = oneshot::channel();
        let mut done = Some(done);
        let work = |leadership: kvtyped::recipes::Leadership<String>| {
            if runs.fetch_add(1, Ordering::SeqCst) == 1 {
                let _ = done.take().map(|done| done.send(()));
            }
            async move { leadership.fence() }
        };
        let started = tokio::time::Instant::now();
        election.run_forever(&"me".to_owned(), work).until(stopped).await.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 2);
        assert!(started.elapsed() >= SECOND - SECOND / 10, "it does not flood the server");
        assert!(election.leader().await.unwrap().is_none());
    }

    async fn final_errors_end_the_loop(world: World) {
        let election = world.store.election::<String>(unique("final")).ttl(SECOND / 2);
        let error = election.run_forever(&"me".to_owned(), |_| async {}).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
        let other = world.another().await;
        let election = other.election::<String>(unique("closed")).await.unwrap();
        other.close().await.unwrap();
        let error = election.run_forever(&"me".to_owned(), |_| async {}).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
    }
}
