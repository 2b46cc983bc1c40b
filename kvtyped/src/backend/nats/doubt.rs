//! What became of a write whose acknowledgement did not come.
//!
//! It may have been applied, or may yet be (the message may wait in a socket of a server that hangs, or on a connection
//! that breaks), or never will be. These rules decide.
//!
//! * *Every write carries the id of its operation, which is stored with it* (in `Nats-Msg-Id` or `Kvtyped-Oid`). If the
//!   leader has an entry with our id, the write is applied, and that entry tells its revision.
//! * *A write with a guard can be sent again under the same id.* A server stores an id once, and the guard of its own
//!   key holds once: a copy that arrives late is refused. A replicated bucket answers a copy with the first revision
//!   (`duplicate`); one that is not replicated looks at the guard first, and answers a conflict with ourselves: so a
//!   conflict after a lost acknowledgement means nothing until the leader was asked. A guard on another key holds as
//!   often as one likes, so only the id protects such a write, and only as long as the server remembers it.
//! * *A write without a guard is never sent again*: a copy could overwrite what came after the first. One only listens
//!   on, and looks, until the deadline.
//! * *A write is refused for sure* if each copy of it was answered, by what proves something (see
//!   [`publish`](super::publish)), and none with a revision. Or if its guard's key has moved on (revisions never come
//!   back, so no copy can be applied any more) and it can be seen that none was: what directly followed the guarded
//!   revision was written by another. An entry that was written with a guard on its own key tells what it followed, so
//!   this can be told of a key without history too, if its writers look before they write.
//! * *Otherwise nobody knows*, and the error says so ([`Outcome::Unknown`](crate::Outcome::Unknown)). A key without
//!   history that was overwritten by a write without a guard tells nothing of what was there before; only a replicated
//!   bucket still knows the id of a guarded write, and answers another copy with its revision.
//!
//! A definite error therefore always means: not applied, and never will be. The answer of a leader that was cut off can
//! be old, but not wrong: that our entry is there, and what an entry directly followed, stays true.

use std::pin::pin;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{Either, select, select_all};
use serde_json::json;
use tokio::time::Instant;

use super::convert;
use super::publish::{Publication, Verdict};
use super::record::Stored;
use super::wire::{Answer, Pending};
use crate::backend::{Backoff, Deadline, Guard, Write};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// How long one waits for the answer to another copy before looking again.
const COPY: Duration = Duration::from_millis(500);

/// How long one listens on where looking will not tell any more.
const LAST_HOPE: Duration = Duration::from_millis(500);

/// A write that may have been applied.
pub(super) struct Doubt<'a> {
    publication: &'a Publication<'a>,
    begun: Instant,
    /// The copies that were sent, and not answered.
    unanswered: Vec<Pending>,
    /// Whether only one copy was sent, so that the server cannot know another one.
    is_sole: bool,
    /// Whether the server reported the sole copy as a duplicate. Then only the stored entry can prove that another
    /// leader applied the copy.
    is_duplicate: bool,
    /// Whether one was answered by what proves nothing.
    doubtful: bool,
    /// Why a copy was not applied, other than for its guard.
    refusal: Option<Error>,
    /// Whether no copy can be applied any more, and it cannot be seen whether one was.
    buried: bool,
}

/// What the leader's entries say of a write.
enum Sight {
    Applied(Revision),
    /// Not seen, and the guard still holds: it may yet be applied.
    Open,
    /// It never was applied, and cannot be any more; this revision came first.
    Outrun(Revision),
    /// It cannot be applied any more, and whether it was cannot be seen.
    Buried,
}

impl<'a> Doubt<'a> {
    /// Of a write of which one copy was not answered, and perhaps others were, by what proves nothing.
    pub(super) fn about(publication: &'a Publication<'a>, pending: Pending, is_sole: bool, doubtful: bool) -> Self {
        let unanswered = vec![pending];
        Self {
            publication,
            begun: Instant::now(),
            unanswered,
            is_sole,
            is_duplicate: false,
            doubtful,
            refusal: None,
            buried: false,
        }
    }

    /// Finds out: looks and listens at once, whichever tells first.
    pub(super) async fn resolve(mut self, deadline: Deadline) -> Result<Revision> {
        let Publication { place, write, .. } = self.publication;
        tracing::debug!(stream = place.stream, key = %write.key, "a write was not acknowledged");
        let mut until = deadline.at();
        let mut backoff = Backoff::outage();
        while Instant::now() < until {
            let sight = match select(pin!(self.publication.look(deadline)), pin!(self.listen(until))).await {
                Either::Left((sight, _)) => sight,
                Either::Right((Some(result), _)) => return result,
                Either::Right((None, _)) => continue,
            };
            let mut pause = backoff.next();
            match sight {
                Ok(Sight::Applied(revision)) => return Ok(revision),
                Ok(Sight::Outrun(actual)) => {
                    let expected = write.guard.as_ref().map_or(Revision::ZERO, |guard| guard.revision);
                    return Err(Error::new(ErrorKind::Conflict { expected, actual: Some(actual) }));
                }
                Ok(_) if self.is_duplicate => return Err(convert::foreign_duplicate()),
                Ok(Sight::Buried) if !self.buried => {
                    self.buried = true;
                    until = until.min(Instant::now() + LAST_HOPE);
                    // It can do no harm, and a replicated bucket may still know the id.
                    if self.may_send_again() {
                        self.send_again();
                    }
                }
                Ok(Sight::Open) if self.refusal.is_some() => break,
                Ok(Sight::Open) if self.may_send_again() => {
                    self.send_again();
                    pause = COPY;
                }
                Ok(Sight::Open | Sight::Buried) => {}
                Err(error) if matches!(error.kind(), ErrorKind::Closed) => return Err(error.unknown_outcome()),
                Err(error) => tracing::debug!(stream = place.stream, %error, "the leader does not tell"),
            }
            if let Some(result) = self.listen(until.min(Instant::now() + pause)).await {
                return result;
            }
        }
        Err(self.unknown(deadline))
    }

    /// Listens for answers until then, or until one changes what is known; a result if one tells it.
    async fn listen(&mut self, until: Instant) -> Option<Result<Revision>> {
        while Instant::now() < until {
            if self.unanswered.is_empty() {
                tokio::time::sleep_until(until).await;
                return None;
            }
            let waiting = self.unanswered.iter_mut().map(|copy| copy.wait(until).boxed());
            let (answer, at, _) = select_all(waiting).await;
            if matches!(answer, Answer::Silent | Answer::Broken) {
                continue;
            }
            drop(self.unanswered.swap_remove(at));
            let was_last = self.unanswered.is_empty();
            match self.publication.judge(answer) {
                Verdict::Applied { duplicate: true, .. } if self.is_sole => {
                    self.is_duplicate = true;
                    return None;
                }
                Verdict::Applied { revision, .. } => return Some(Ok(revision)),
                Verdict::Open => {}
                Verdict::Refused(error) if was_last && (!self.doubtful || error.is_conflict()) => {
                    return Some(Err(error));
                }
                Verdict::NotNow(error) if was_last && !self.doubtful => return Some(Err(error)),
                Verdict::Refused(error) if !error.is_conflict() => {
                    self.refusal = Some(error);
                    return None;
                }
                Verdict::Refused(_) | Verdict::NotNow(_) => return None,
                Verdict::Doubtful(_) | Verdict::OnItsWay => self.doubtful = true,
            }
        }
        None
    }

    fn may_send_again(&self) -> bool {
        let Publication { place, write: Write { key, guard, .. }, .. } = self.publication;
        let protected = match guard {
            None => false,
            Some(guard) if guard.key == *key => true,
            Some(_) => self.begun.elapsed() * 2 < place.duplicate_window,
        };
        protected && place.api.wire().is_connected()
    }

    fn send_again(&mut self) {
        let Publication { place, write, .. } = self.publication;
        tracing::debug!(stream = place.stream, key = %write.key, "writing again under the same id");
        self.is_sole = false;
        self.unanswered.push(self.publication.send());
    }

    /// Nobody knows.
    fn unknown(self, deadline: Deadline) -> Error {
        let buried = self.buried;
        let error = self.refusal.unwrap_or_else(|| match buried {
            true => Error::unavailable("the acknowledgement was lost, and the key was written again since"),
            false => deadline.error(),
        });
        error.unknown_outcome()
    }
}

impl Publication<'_> {
    /// What the leader's entries say of this write.
    async fn look(&self, deadline: Deadline) -> Result<Sight> {
        let Self { place, write: Write { key, guard, id, .. }, .. } = self;
        // The other key first: once it has moved on, what is read of our own key is final.
        let other = match guard {
            Some(guard) if guard.key != *key => Some(revision_of(&place.leader_newest(&guard.key, deadline).await?)),
            _ => None,
        };
        let newest = place.leader_newest(key, deadline).await?;
        let newest_revision = revision_of(&newest);
        if let Some(newest) = &newest
            && newest.is_by(id)
        {
            return Ok(Sight::Applied(newest.revision));
        }
        let has_history = place.config.history.is_none_or(|history| history > 1);
        let Some(Guard { revision: guarded, .. }) = guard else {
            let (ours, _) = if has_history { self.kept(Revision::ZERO, deadline).await? } else { (None, None) };
            return Ok(ours.map_or(Sight::Open, Sight::Applied));
        };
        let now = other.unwrap_or(newest_revision);
        if now <= *guarded {
            return Ok(Sight::Open);
        }
        let (ours, first) = if has_history { self.kept(*guarded, deadline).await? } else { (None, newest) };
        if let Some(revision) = ours {
            return Ok(Sight::Applied(revision));
        }
        let outrun = match other {
            None => first.is_some_and(|first| first.directly_follows(*guarded)),
            // Ours would have a revision above the guarded one. Only a sole server is sure to have told the newest.
            Some(_) => newest_revision < *guarded && place.config.replicas == Some(1) && place.config.mirror.is_none(),
        };
        Ok(if outrun { Sight::Outrun(now) } else { Sight::Buried })
    }

    /// Our entry among those that are kept of the key after that revision, and the first of them.
    pub(super) async fn kept(&self, after: Revision, deadline: Deadline) -> Result<(Option<Revision>, Option<Stored>)> {
        let Self { place, write: Write { key, id, .. }, .. } = self;
        let subject = place.leader_subject(key);
        let mut first = None;
        let mut from = after.get() + 1;
        loop {
            let which = json!({ "seq": from, "next_by_subj": subject });
            let Some(entry) = place.leader_api.leader(&place.leader_stream, &which, deadline).await? else {
                return Ok((None, first));
            };
            if entry.is_by(id) {
                return Ok((Some(entry.revision), first));
            }
            from = entry.revision.get() + 1;
            first.get_or_insert(entry);
        }
    }
}

fn revision_of(entry: &Option<Stored>) -> Revision {
    entry.as_ref().map_or(Revision::ZERO, |entry| entry.revision)
}
