//! Which writes were applied lately, so that none is applied twice.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::backend::OperationId;
use crate::revision::Revision;

/// How long a server knows an operation, unless its bucket forgets values sooner.
const WINDOW: Duration = Duration::from_secs(120);

/// The operations of the last two minutes.
#[derive(Debug, Default)]
pub(super) struct Recent {
    revisions: HashMap<OperationId, Revision>,
    order: VecDeque<(Duration, OperationId)>,
}

impl Recent {
    /// Remembers that a write was applied at this time under this revision.
    pub(super) fn add(&mut self, now: Duration, id: OperationId, revision: Revision) {
        self.order.push_back((now, id.clone()));
        self.revisions.insert(id, revision);
    }

    /// The revision of a write that was applied already.
    pub(super) fn get(&self, id: &OperationId) -> Option<Revision> {
        self.revisions.get(id).copied()
    }

    /// Forgets what is older than the window, which is never longer than the bucket's TTL.
    pub(super) fn forget(&mut self, now: Duration, ttl: Option<Duration>) {
        let window = ttl.map_or(WINDOW, |ttl| ttl.min(WINDOW));
        while let Some((at, id)) = self.order.front()
            && *at + window <= now
        {
            self.revisions.remove(id);
            self.order.pop_front();
        }
    }
}
