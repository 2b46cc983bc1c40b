//! Candidates of an election that lead for a short time.

use harness::history::election::Turns;
use kvtyped::prelude::*;

use crate::worker_context::Seat;

const WAIT: Duration = Duration::from_secs(10);
const TTL: Duration = Duration::from_secs(8);

pub(crate) async fn candidate(seat: Seat, turns: Turns) {
    let election = seat.store.election::<usize>("election").replicas(seat.replicas()).ttl(TTL);
    while !seat.is_over() {
        match election.campaign(&seat.number).wait(WAIT).await {
            Ok(leadership) => {
                let term = leadership.fence().get();
                if turns.started(seat.number, term, || leadership.is_held()) {
                    seat.gauge.done();
                    // Returns early if the leadership is lost.
                    let _ = leadership.run(tokio::time::sleep(Duration::from_millis(50))).await;
                    turns.stopped(seat.number, term);
                }
                if let Err(error) = leadership.resign().await {
                    seat.gauge.failed(&error);
                }
            }
            Err(error) => drop(seat.gauge.failed(&error)),
        }
        seat.rest().await;
    }
}
