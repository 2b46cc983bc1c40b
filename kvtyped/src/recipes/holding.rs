//! What the holder of a lease writes into it.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::fence::Fence;
use super::slot::{Slot, Unknown};
use crate::bucket::Entry;

/// Who holds a lease, as it is stored. Its `Debug` shows no value of the user's.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Holding {
    /// Told from every other holding by this.
    pub(super) id: String,
    pub(super) owner: String,
    /// When it was taken, in milliseconds since 1970 by the holder's clock: for people to read, never compared.
    pub(super) since: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
    /// The revision of its first write, in those that follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) term: Option<u64>,
    /// What the recipe or its user says beside: who the leader is, say.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub(super) value: Option<Value>,
    /// How often that was said anew: what tells a renewal from news.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) said: u64,
    /// In a ticket: for how many milliseconds the lease is wanted that may be handed on to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wants: Option<u64>,
    /// In a lease that was handed on and not yet renewed: the revision of the ticket that it was handed on to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ticket: Option<u64>,
    #[serde(flatten)]
    pub(super) unknown: Unknown,
}

impl Holding {
    pub(super) fn new(owner: String, note: Option<String>, value: Option<Value>) -> Self {
        let unknown = Unknown::default();
        Self {
            id: fresh_id(),
            owner,
            since: now(),
            note,
            term: None,
            value,
            said: 0,
            wants: None,
            ticket: None,
            unknown,
        }
    }

    /// The same for another attempt: told from every other, and taken now.
    pub(super) fn anew(self) -> Self {
        Self { id: fresh_id(), since: now(), ..self }
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// A time that a holder wrote.
pub(super) fn time_of(millis: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH)
}

/// Reads a present field as `Some`, also if it is `null`. By default serde reads `null` as an absent field.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A name that nothing else has.
pub(super) fn fresh_id() -> String {
    format!("{:016x}{:016x}", rand::random::<u64>(), rand::random::<u64>())
}

/// What this process calls itself unless its user says otherwise.
pub(super) fn usual_owner() -> String {
    format!("process {}", std::process::id())
}

impl fmt::Debug for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, owner, since, note, term, value: _, said, wants, ticket, unknown } = self;
        f.debug_struct("Holding")
            .field("id", id)
            .field("owner", owner)
            .field("since", since)
            .field("note", note)
            .field("term", term)
            .field("said", said)
            .field("wants", wants)
            .field("ticket", ticket)
            .field("unknown", unknown)
            .finish_non_exhaustive()
    }
}

/// The number of the tenure that an entry is of.
pub(super) fn fence_of(entry: &Entry<Slot<Holding>>) -> Fence {
    Fence::new(entry.value.term.unwrap_or_else(|| entry.revision().get()))
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// What the holder calls itself.
    pub owner: String,
    /// When it took the lock, by its own clock.
    pub since: SystemTime,
    /// What it noted beside.
    pub note: Option<String>,
    /// The number of its tenure.
    pub fence: Fence,
}

impl Holder {
    pub(super) fn of(entry: Entry<Slot<Holding>>) -> Self {
        let fence = fence_of(&entry);
        let Holding { owner, since, note, .. } = entry.into_value().value;
        Self { owner, since: time_of(since), note, fence }
    }
}
