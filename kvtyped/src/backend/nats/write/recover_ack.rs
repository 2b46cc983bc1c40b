//! The recovery of an operation whose acknowledgement was lost: a write, an atomic batch, or an increment.
//!
//! The server may have applied the operation, or may still apply it: the message may wait in a socket of a hung server,
//! or on a connection that breaks. Or the operation is never applied. [`recover`] waits for late replies and looks the
//! operation up in the stored messages at the same time. It sends the operation again where that is harmless. These
//! rules hold for every operation:
//!
//! * *Every operation carries an operation id, which is stored with it* (in `Nats-Msg-Id` or `Kvtyped-Oid`). If the
//!   leader has a message with this id, the operation is applied.
//! * *The operation is sent again under the same id*, if another attempt can neither apply it twice nor overwrite a later
//!   write. [`Lookup`] says so.
//! * *If the stored messages can no longer decide the outcome*, only a late reply can. It gets a final grace period.
//! * *Otherwise the outcome is unknown*, and the error says so ([`Outcome::Unknown`](crate::Outcome::Unknown)).
//!
//! A definite error therefore always means: not applied, and never will be. The reply of an isolated leader can be
//! stale, but not wrong. Two facts never change: that a message with our id exists, and which revision an entry directly
//! followed.
//!
//! ```text
//! attempt without a reply ──> look up and listen ──> applied, rejected
//!                                │  ▲        │
//!               resend harmless  ▼  │        ▼  undecidable
//!                             resend, pause  final grace period ──> unknown outcome
//! ```
//!
//! [`Recoverable`] names the differences: how to send, how to interpret a reply, and how to look an operation up. Its
//! three implementations are in [`publish`](super::publish), [`commit`](super::commit) and
//! [`increment`](super::increment).

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select};
use tokio::time::Instant;

use crate::backend::nats::connection::reply::{AwaitReply, Reply, first_reply};
use crate::backend::{Backoff, Deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::observe::note_lost_acknowledgement;

/// How long to wait for a late reply once a look-up cannot decide the outcome.
pub(crate) const FINAL_GRACE: Duration = Duration::from_millis(500);

/// How long to wait for the reply of another leader after the reply of a replaced leader.
pub(crate) const LEADER_STEPDOWN_GRACE: Duration = Duration::from_millis(50);

/// How many times a server must report that the expected revision does not exist yet, before the report is final. Also
/// how many consecutive reports of another attempt in flight are accepted from a server that keeps the ids of rejected
/// writes.
pub(crate) const MAX_INCONCLUSIVE: u32 = 3;

/// The shortest pause between two look-ups.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// An operation that is sent in attempts under one operation id.
pub(crate) trait Recoverable: Sync {
    /// An attempt in flight.
    type Attempt: AwaitReply;
    /// The outcome that ends the recovery.
    type Output: Send;

    /// The reason of the error if the stored messages cannot decide the outcome.
    const UNDECIDABLE: &'static str;

    /// Returns the stream, for log events.
    fn stream(&self) -> &str;

    /// Looks the operation up in the stored messages of the leader. `is_undecidable`: an earlier look-up returned
    /// [`Lookup::Undecidable`].
    fn look_up(&self, is_undecidable: bool) -> impl Future<Output = Result<Lookup<Self::Output>>> + Send;

    /// Interprets the reply to an attempt.
    fn on_reply(
        &self,
        answered: Answered<Self::Attempt>,
        evidence: &mut Evidence,
    ) -> impl Future<Output = Step<Self::Output>> + Send;

    /// Sends the operation again.
    fn resend(&mut self) -> impl Future<Output = Result<Self::Attempt>> + Send;

    /// Returns how long to wait for the reply to another attempt before the next look-up. `resends` attempts were sent
    /// before it. `None` for the usual pause between look-ups.
    fn resend_pause(&self, resends: u32) -> Option<Duration>;
}

/// The state of an operation according to the stored messages.
pub(crate) enum Lookup<T> {
    /// The operation was applied.
    Applied(T),
    /// The operation was not applied and cannot be applied in the future, or the look-up cannot succeed.
    Rejected(Error),
    /// The stored messages do not contain the operation. It may yet be applied.
    NotStored {
        /// Whether another attempt is harmless.
        may_resend: bool,
    },
    /// No attempt can be applied in the future. The stored messages do not show whether one was applied.
    Undecidable {
        /// Whether another attempt is harmless. Its reply may decide the outcome.
        may_resend: bool,
    },
}

/// The next step after a reply.
pub(crate) enum Step<T> {
    /// The reply decides the outcome.
    Done(Result<T>),
    /// The reply changes the evidence: look the operation up now.
    LookUp,
    /// The reply proves nothing: wait for other replies.
    Wait,
}

/// An attempt with its reply.
pub(crate) struct Answered<A> {
    pub(crate) attempt: A,
    pub(crate) reply: Reply,
    /// Whether every other attempt got a reply before.
    pub(crate) is_last: bool,
    /// The time limit for further replies to the attempt.
    pub(crate) until: Instant,
}

/// The facts that replies revealed.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// The number of attempts under the current message id. If only one attempt was sent, the server cannot know
    /// another one.
    pub(crate) sent: u32,
    /// The number of attempts with a reply that proves nothing. For a batch, also of attempts without a reply in time.
    pub(crate) inconclusive: u32,
    /// The reason why an attempt was not applied, if it was not the precondition.
    pub(crate) rejection: Option<Error>,
    /// Whether the server reported the only attempt as a duplicate. Then only the stored message can prove that another
    /// leader applied the attempt.
    pub(crate) is_duplicate: bool,
}

impl Evidence {
    /// Returns this error, with an unknown outcome if an earlier attempt may have been applied.
    pub(crate) fn outcome_of(&self, error: Error) -> Error {
        if self.inconclusive > 0 { error.unknown_outcome() } else { error }
    }
}

/// The attempts of one operation.
#[derive(Debug)]
pub(crate) struct Attempts<A> {
    /// The attempts without a reply.
    in_flight: Vec<A>,
    pub(crate) evidence: Evidence,
}

impl<A> Default for Attempts<A> {
    fn default() -> Self {
        Self { in_flight: Vec::new(), evidence: Evidence::default() }
    }
}

impl<A: AwaitReply> Attempts<A> {
    /// Adds an attempt that was sent.
    pub(crate) fn push(&mut self, attempt: A) {
        self.evidence.sent += 1;
        self.in_flight.push(attempt);
    }

    /// Whether every attempt got a reply.
    pub(crate) fn are_answered(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Waits for replies until the given time, or until a reply requires a look-up. Returns a result if a reply decides
    /// the outcome. `stops_at_disconnect`: the wait also ends when the connection of an attempt breaks.
    pub(crate) async fn listen<R>(
        &mut self,
        operation: &R,
        until: Instant,
        stops_at_disconnect: bool,
    ) -> Option<Result<R::Output>>
    where
        R: Recoverable<Attempt = A>,
    {
        while Instant::now() < until {
            if self.in_flight.is_empty() {
                tokio::time::sleep_until(until).await;
                return None;
            }
            let (reply, index) = first_reply(&mut self.in_flight, until).await;
            match reply {
                Reply::Disconnected if stops_at_disconnect => return None,
                Reply::Disconnected | Reply::TimedOut => continue,
                _ => {}
            }
            let attempt = self.in_flight.swap_remove(index);
            let answered = Answered { attempt, reply, is_last: self.in_flight.is_empty(), until };
            match operation.on_reply(answered, &mut self.evidence).await {
                Step::Done(result) => return Some(result),
                Step::LookUp => return None,
                Step::Wait => {}
            }
        }
        None
    }
}

/// Determines the outcome of an operation whose attempts got no conclusive reply.
///
/// # Errors
///
/// Returns a definite error if the operation was not applied, and an error with an unknown outcome otherwise.
pub(crate) async fn recover<R: Recoverable>(
    operation: &mut R,
    attempts: &mut Attempts<R::Attempt>,
    deadline: Deadline,
) -> Result<R::Output> {
    let mut until = deadline.at();
    let mut backoff = Backoff::outage();
    let (mut resends, mut is_undecidable) = (0, false);
    while Instant::now() < until {
        let found = {
            let look_up = pin!(operation.look_up(is_undecidable));
            match select(look_up, pin!(attempts.listen(&*operation, until, false))).await {
                Either::Left((found, _)) => found,
                Either::Right((Some(result), _)) => return result,
                Either::Right((None, _)) => continue,
            }
        };
        let mut pause = backoff.next().max(MIN_PAUSE);
        match found {
            Ok(Lookup::Applied(output)) => return Ok(output),
            Ok(Lookup::Rejected(error)) => return Err(error),
            Ok(_) if attempts.evidence.is_duplicate => return Err(foreign_duplicate()),
            Ok(Lookup::Undecidable { may_resend }) if !is_undecidable => {
                is_undecidable = true;
                until = until.min(Instant::now() + FINAL_GRACE);
                if may_resend {
                    note_lost_acknowledgement();
                    attempts.push(operation.resend().await.map_err(Error::unknown_outcome)?);
                }
            }
            // The attempt that was rejected was the only chance of the operation.
            Ok(Lookup::NotStored { .. }) if attempts.evidence.rejection.is_some() => break,
            Ok(Lookup::NotStored { may_resend: true }) => {
                tracing::debug!(stream = operation.stream(), resends, "an operation is sent again with the same id");
                note_lost_acknowledgement();
                attempts.push(operation.resend().await.map_err(Error::unknown_outcome)?);
                pause = operation.resend_pause(resends).unwrap_or(pause);
                resends += 1;
            }
            Ok(Lookup::NotStored { may_resend: false } | Lookup::Undecidable { .. }) => {}
            Err(error) if matches!(error.kind(), ErrorKind::Closed) => return Err(error.unknown_outcome()),
            Err(error) => tracing::debug!(stream = operation.stream(), %error, "the leader does not answer"),
        }
        if let Some(result) = attempts.listen(operation, until.min(Instant::now() + pause), false).await {
            return result;
        }
    }
    let error = attempts.evidence.rejection.take().unwrap_or_else(|| match is_undecidable {
        true => Error::unavailable(R::UNDECIDABLE),
        false => deadline.error(),
    });
    Err(error.unknown_outcome())
}

/// Waits for the reply of another leader to an attempt whose rejection proves nothing. Returns this reply, or the last
/// rejection.
///
/// `classify` returns `None` if there was no reply in time.
pub(crate) async fn await_other_leader<A: AwaitReply, T>(
    attempt: &mut A,
    mut rejection: T,
    until: Instant,
    classify: impl Fn(Reply) -> Option<T>,
    proves_nothing: impl Fn(&T) -> bool,
) -> T {
    let until = until.min(Instant::now() + LEADER_STEPDOWN_GRACE);
    loop {
        match classify(attempt.wait(until).await) {
            None => return rejection,
            Some(other) if proves_nothing(&other) => rejection = other,
            Some(other) => return other,
        }
    }
}

/// Creates the error of an only attempt that the server reported as a duplicate: another message has the id, or two
/// servers took the attempt.
pub(crate) fn foreign_duplicate() -> Error {
    Error::backend("the server already has a message with the new id of this operation").unknown_outcome()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;
    use crate::error::Outcome;

    type LookUp = fn() -> Result<Lookup<u32>>;
    type OnReply = fn(&mut Evidence) -> Step<u32>;

    const SECOND: Duration = Duration::from_secs(1);

    /// An attempt whose reply arrives at a time, if ever.
    struct FakeAttempt(Option<Instant>);

    impl AwaitReply for FakeAttempt {
        async fn wait(&mut self, until: Instant) -> Reply {
            match self.0.filter(|at| *at < until) {
                Some(at) => {
                    tokio::time::sleep_until(at).await;
                    Reply::NoResponders
                }
                None => {
                    tokio::time::sleep_until(until).await;
                    Reply::TimedOut
                }
            }
        }
    }

    /// An operation with prepared look-ups and steps. The last look-up is repeated.
    struct FakeOperation {
        look_ups: Mutex<VecDeque<LookUp>>,
        steps: Mutex<VecDeque<OnReply>>,
        /// When the reply to another attempt arrives.
        reply_after: Option<Duration>,
        resends: u32,
    }

    impl Recoverable for FakeOperation {
        type Attempt = FakeAttempt;
        type Output = u32;

        const UNDECIDABLE: &'static str = "undecidable";

        fn stream(&self) -> &str {
            "KV_b"
        }

        async fn look_up(&self, _is_undecidable: bool) -> Result<Lookup<u32>> {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let mut look_ups = self.look_ups.lock().expect("no panic");
            let next = if look_ups.len() > 1 { look_ups.pop_front() } else { look_ups.front().copied() };
            next.expect("a look-up")()
        }

        async fn on_reply(&self, _answered: Answered<FakeAttempt>, evidence: &mut Evidence) -> Step<u32> {
            self.steps.lock().expect("no panic").pop_front().expect("a step")(evidence)
        }

        async fn resend(&mut self) -> Result<FakeAttempt> {
            self.resends += 1;
            Ok(FakeAttempt(self.reply_after.map(|after| Instant::now() + after)))
        }

        fn resend_pause(&self, _resends: u32) -> Option<Duration> {
            Some(SECOND / 2)
        }
    }

    /// Recovers an operation whose first attempt gets its reply after this time. Returns the result, the number of
    /// resends, and the elapsed time.
    async fn run(
        first_reply: Option<Duration>,
        reply_after: Option<Duration>,
        look_ups: &[LookUp],
        steps: &[OnReply],
    ) -> (Result<u32>, u32, Duration) {
        let begin = Instant::now();
        let mut operation = FakeOperation {
            look_ups: Mutex::new(look_ups.iter().copied().collect()),
            steps: Mutex::new(steps.iter().copied().collect()),
            reply_after,
            resends: 0,
        };
        let mut attempts = Attempts::default();
        attempts.push(FakeAttempt(first_reply.map(|after| begin + after)));
        let result = recover(&mut operation, &mut attempts, Deadline::after(5 * SECOND)).await;
        (result, operation.resends, begin.elapsed())
    }

    const OPEN: LookUp = || Ok(Lookup::NotStored { may_resend: false });
    const RESEND: LookUp = || Ok(Lookup::NotStored { may_resend: true });

    #[tokio::test(start_paused = true)]
    async fn stored_operation_is_applied() {
        let (result, resends, _) = run(None, None, &[OPEN, || Ok(Lookup::Applied(7))], &[]).await;
        assert_eq!((result.ok(), resends), (Some(7), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn late_reply_decides_the_outcome() {
        let (result, resends, elapsed) = run(Some(SECOND), None, &[OPEN], &[|_| Step::Done(Ok(7))]).await;
        assert_eq!((result.ok(), resends, elapsed), (Some(7), 0, SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn repeatable_attempt_is_resent_until_reply() {
        let late = Some(SECOND * 3 / 4);
        let (result, resends, _) = run(None, late, &[RESEND], &[|_| Step::Done(Ok(7))]).await;
        assert_eq!((result.ok(), resends), (Some(7), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn missing_reply_is_unknown_at_deadline() {
        let (result, resends, elapsed) = run(None, None, &[OPEN], &[]).await;
        let error = result.expect_err("no outcome");
        assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error}");
        assert_eq!((error.outcome(), resends, elapsed), (Outcome::Unknown, 0, 5 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn undecidable_operation_gets_grace_period() {
        let undecidable: LookUp = || Ok(Lookup::Undecidable { may_resend: true });
        let (result, resends, elapsed) = run(None, None, &[undecidable], &[]).await;
        let error = result.expect_err("no outcome");
        assert_eq!((error.outcome(), resends), (Outcome::Unknown, 1));
        assert!(error.to_string().contains("undecidable") && elapsed < SECOND, "{error} after {elapsed:?}");
        let (result, _, _) = run(None, Some(SECOND / 4), &[undecidable], &[|_| Step::Done(Ok(7))]).await;
        assert_eq!(result.ok(), Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn unverified_rejection_has_unknown_outcome() {
        let rejected: OnReply = |evidence| {
            evidence.rejection = Some(Error::new(ErrorKind::BucketFull));
            Step::LookUp
        };
        let (result, resends, elapsed) = run(Some(SECOND), None, &[OPEN], &[rejected]).await;
        let error = result.expect_err("a rejection");
        assert!(matches!(error.kind(), ErrorKind::BucketFull) && elapsed < 2 * SECOND, "{error}");
        assert_eq!((error.outcome(), resends), (Outcome::Unknown, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn duplicate_of_single_attempt_needs_stored_message() {
        let duplicate: OnReply = |evidence| {
            evidence.is_duplicate = true;
            Step::LookUp
        };
        let first = Some(Duration::from_millis(5));
        let (result, ..) = run(first, None, &[|| Ok(Lookup::Applied(7))], &[duplicate]).await;
        assert_eq!(result.ok(), Some(7));
        let (result, ..) = run(first, None, &[OPEN], &[duplicate]).await;
        let error = result.expect_err("another message has the id");
        assert!(matches!(error.kind(), ErrorKind::Backend { .. }), "{error}");
        assert_eq!(error.outcome(), Outcome::Unknown);
    }

    #[tokio::test(start_paused = true)]
    async fn silent_leader_is_asked_again_unless_closed() {
        let silent: LookUp = || Err(Error::unavailable("no leader"));
        let (result, ..) = run(None, None, &[silent, || Ok(Lookup::Applied(7))], &[]).await;
        assert_eq!(result.ok(), Some(7));
        let (result, _, elapsed) = run(None, None, &[|| Err(Error::new(ErrorKind::Closed))], &[]).await;
        let error = result.expect_err("closed");
        assert!(matches!(error.kind(), ErrorKind::Closed) && elapsed < SECOND, "{error}");
        assert_eq!(error.outcome(), Outcome::Unknown);
    }
}
