//! Candidates of an election that lead for a short time.

use harness::history::election::Turns;
use kvtyped::prelude::*;

use crate::worker_context::WorkerContext;

const WAIT: Duration = Duration::from_secs(10);
const TTL: Duration = Duration::from_secs(8);

pub(crate) async fn candidate(context: WorkerContext, turns: Turns) {
    let election = context.store.election::<usize>("election").replicas(context.replicas()).ttl(TTL);
    while !context.is_over() {
        match election.campaign(&context.number).wait(WAIT).await {
            Ok(leadership) => {
                let term = leadership.fence().get();
                if turns.started(context.number, term, || leadership.is_held()) {
                    context.gauge.done();
                    // Returns early if the leadership is lost.
                    let _ = leadership.run(tokio::time::sleep(Duration::from_millis(50))).await;
                    turns.stopped(context.number, term);
                }
                if let Err(error) = leadership.resign().await {
                    context.gauge.failed(&error);
                }
            }
            Err(error) => drop(context.gauge.failed(&error)),
        }
        context.rest().await;
    }
}
