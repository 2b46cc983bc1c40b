//! The decision about a write that no server accepted: the bucket has another write epoch, is gone, or has no leader.
//!
//! A server answers none of these writes itself. The writer gets "no responders", or through a JetStream domain no reply.
//! So the client reads the configuration of the bucket before it decides.
//!
//! A write in flight while the epoch moves is stored before the switch or never. Once the configuration shows another
//! epoch, the newest entry of the key is therefore final. If that entry is older than the first attempt, no attempt was
//! stored. If another write replaced the entry since, the outcome stays unknown.

use std::time::Duration;

use tokio::time::Instant;

use crate::backend::nats::context::StreamContext;
use crate::backend::nats::jetstream::message::StoredMessage;
use crate::backend::nats::jetstream::stream_info;
use crate::backend::nats::jetstream::write_epochs::EpochSettings;
use crate::backend::{Deadline, Write};
use crate::error::{Error, ErrorKind};
use crate::revision::Revision;

/// How long servers of a cluster may report an earlier epoch than the epoch of a writer. After a switch, some servers
/// learn of the new epoch later than the writer.
const EPOCH_SETTLE: Duration = Duration::from_secs(2);

/// The facts about an operation before its first attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EpochCheck {
    epoch: Option<u64>,
    started: Instant,
    /// A revision that the bucket had before the first attempt.
    seen: Revision,
}

/// The reason why no server accepts an operation.
pub(crate) struct EpochRefusal {
    pub(crate) error: Error,
    /// A revision before every attempt. `None` if the bucket may be another one, which numbers its entries otherwise.
    before_attempts: Option<Revision>,
}

impl EpochCheck {
    /// Records the facts before the first attempt.
    pub(crate) fn new(context: &StreamContext, epoch: Option<u64>) -> Self {
        Self { epoch, started: Instant::now(), seen: context.last_seen() }
    }

    /// Reads the configuration of the bucket. Returns `None` if the bucket may accept a later attempt.
    pub(crate) async fn refusal(&self, context: &StreamContext, deadline: Deadline) -> Option<EpochRefusal> {
        let Some(info) = context.probe_stream(deadline).await? else {
            return Some(EpochRefusal { error: Error::new(ErrorKind::BucketNotFound), before_attempts: None });
        };
        let settings = EpochSettings::read(context.origin_bucket(), info["config"].as_object()?);
        let error = settings.refusal(self.epoch)?;
        let may_lag = context.is_replicated() && self.started.elapsed() < EPOCH_SETTLE;
        if settings.epoch() < self.epoch && may_lag {
            return None;
        }
        let last = info["state"]["last_seq"].as_u64().unwrap_or_default();
        let is_same = context.config.mirror.is_none()
            && stream_info::created(&info).is_ok_and(|created| created == context.created)
            && last >= self.seen.get();
        Some(EpochRefusal { error, before_attempts: is_same.then_some(self.seen) })
    }

    /// Returns the refusal if the epoch moved. For an operation without a reply: only a write with an epoch, or through
    /// a JetStream domain, gets none after a switch.
    pub(crate) async fn moved(&self, context: &StreamContext, deadline: Deadline) -> Option<EpochRefusal> {
        if self.epoch.is_none() && context.leader_api.is_default() {
            return None;
        }
        let refusal = self.refusal(context, deadline).await?;
        refusal.is_epoch_moved().then_some(refusal)
    }
}

impl EpochRefusal {
    pub(crate) fn is_epoch_moved(&self) -> bool {
        matches!(self.error.kind(), ErrorKind::EpochMoved { .. })
    }

    /// Whether the newest entry of a key, read after the refusal, proves that no attempt was stored. `expected` is the
    /// highest revision that a precondition of the operation expects.
    pub(crate) fn excludes(
        &self,
        context: &StreamContext,
        write: &Write,
        expected: Revision,
        newest: Option<&StoredMessage>,
    ) -> bool {
        match newest {
            Some(entry) => entry.revision <= self.before_attempts.unwrap_or_default().max(expected),
            // An entry with a TTL may have expired.
            None => self.before_attempts.is_some() && write.ttl.is_none() && context.config.ttl.is_none(),
        }
    }
}
