//! The connection to a server.

use std::time::Duration;

use tokio::time::Instant;

use super::subject::BackendUnderTest;
use crate::backend::Deadline;
use crate::error::ErrorKind;

/// A ping returns the time of a round trip, and fails with `Timeout` if its deadline has passed.
pub async fn ping_measures_a_round_trip(subject: &BackendUnderTest) {
    let started = Instant::now();
    let round_trip = subject.backend().ping(subject.deadline()).await.expect("the backend answers");
    assert!(round_trip <= started.elapsed(), "{round_trip:?}");
    let late = subject.backend().ping(Deadline::after(Duration::ZERO)).await;
    let error = late.expect_err("the deadline has passed");
    assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error:?}");
}

/// The state of the connection is known without I/O, and a working backend is connected.
pub async fn working_backend_is_connected(subject: &BackendUnderTest) {
    subject.backend().ping(subject.deadline()).await.expect("the backend answers");
    let receiver = subject.backend().connection();
    let state = receiver.borrow().clone();
    assert!(state.connected, "{state:?}");
    assert_eq!(state.downtime(), None, "{state:?}");
}
