//! The counters of one stream, which the server adds up (ADR-49).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};

use super::context::StreamContext;
use super::jetstream::counter_value::parse_total;
use super::read::scan::scan_by_consumer;
use super::write::increment::Increment;
use super::write::purge::purge;
use crate::backend::{Deadline, KeySpace, OperationId, RawCounters, ScanItem, ScanRequest};
use crate::config::BucketConfig;
use crate::error::Result;
use crate::key::{Key, Pattern};
use crate::revision::Revision;

/// The default number of messages kept of each counter. A server that was killed restores only the ids of these
/// messages. The number should therefore exceed the number of concurrent increments of one counter.
pub(crate) const DEFAULT_HISTORY: u8 = BucketConfig::MAX_HISTORY;

/// The maximum number of counters with a remembered older id. Such an id shows whether a server has forgotten ids.
const MAX_TRACKED_COUNTERS: usize = 1_024;

/// The counters of one stream.
pub(crate) struct NatsCounters {
    context: Arc<StreamContext>,
    /// The id of an acknowledged increment of each counter.
    known_ids: Mutex<HashMap<Key, OperationId>>,
}

impl NatsCounters {
    pub(crate) fn new(context: Arc<StreamContext>) -> Self {
        Self { context, known_ids: Mutex::default() }
    }

    fn known_id(&self, key: &Key) -> Option<OperationId> {
        self.known_ids.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn remember(&self, key: &Key, id: OperationId) {
        let mut known_ids = self.known_ids.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known_ids.get_mut(key) {
            *known = id;
            return;
        }
        if known_ids.len() >= MAX_TRACKED_COUNTERS
            && let Some(any) = known_ids.keys().next().cloned()
        {
            known_ids.remove(&any);
        }
        known_ids.insert(key.clone(), id);
    }

    async fn add(&self, key: &Key, delta: i128, deadline: Deadline) -> Result<i128> {
        let id = OperationId::generate();
        let known_id = self.known_id(key);
        let mut increment = Increment { context: &self.context, key, delta, id, known_id, deadline };
        let total = increment.run().await?;
        self.remember(key, increment.id);
        Ok(total)
    }
}

impl RawCounters for NatsCounters {
    fn add<'a>(&'a self, key: &'a Key, delta: i128, deadline: Deadline) -> BoxFuture<'a, Result<i128>> {
        self.add(key, delta, deadline).boxed()
    }

    fn read<'a>(&'a self, key: &'a Key, deadline: Deadline) -> BoxFuture<'a, Result<Option<i128>>> {
        async move {
            let newest = self.context.leader_newest(KeySpace::Records, key, deadline).await?;
            newest.map(|stored| parse_total(stored.payload())).transpose()
        }
        .boxed()
    }

    fn scan(&self, pattern: Pattern, idle_timeout: Duration) -> BoxStream<'static, Result<(Key, i128)>> {
        let scan = ScanRequest {
            patterns: vec![pattern].into(),
            history: false,
            headers_only: false,
            after: Revision::ZERO,
            limit: None,
            idle_timeout,
        };
        let entries = scan_by_consumer(Arc::clone(&self.context), scan);
        let totals = entries.map(|entry| {
            let ScanItem { entry, pending: _ } = entry?;
            let total = parse_total(&entry.value);
            let total = total.map_err(|error| error.with_key(entry.key.as_str()).at_revision(entry.revision))?;
            Ok((entry.key, total))
        });
        totals.boxed()
    }

    fn remove<'a>(&'a self, key: &'a Key, deadline: Deadline) -> BoxFuture<'a, Result<()>> {
        async move { purge(&self.context, KeySpace::Records, key, None, deadline).await.map(drop) }.boxed()
    }
}

impl fmt::Debug for NatsCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsCounters").field("stream", &self.context.stream).finish_non_exhaustive()
    }
}
