//! What a holder says beside its lease, as others read it.

use serde::{Deserialize, Serialize};
use serde_json::Value as Packed;

use super::fence::Fence;
use super::holding::time_of;
use super::slot::{Slot, SlotKey, Value};
use crate::bucket::Entry;
use crate::codec::{Codec, CodecError, Json, read_back};
use crate::error::{Error, Result};

/// A [`Holding`](super::holding::Holding) whose value is known to be a `T`.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Told<T> {
    pub(super) id: String,
    owner: String,
    since: u64,
    #[serde(default)]
    term: Option<u64>,
    pub(super) value: T,
    #[serde(default)]
    said: u64,
}

/// Which saying of which holder: renewals say nothing new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Saying {
    pub(super) id: String,
    said: u64,
}

impl<T> Told<T> {
    pub(super) fn saying(&self) -> Saying {
        Saying { id: self.id.clone(), said: self.said }
    }
}

/// A value as it stands in a record. What would not come back from there is refused.
///
/// # Errors
///
/// `Encode`.
pub(super) fn pack<T: Value>(value: &T) -> Result<Packed> {
    let pack = || {
        let bytes = Json::encode(value)?;
        Json::verify(value, &read_back::<Json, T>(&bytes)?)?;
        <Json as Codec<Packed>>::decode(&bytes)
    };
    pack().map_err(|error: CodecError| Error::encode(&error))
}

fn unpack<T: Value>(packed: &Packed) -> Result<T, CodecError> {
    Json::decode(&Json::encode(packed)?)
}

/// What a holder says, as one who watches hears of it: also what he does not understand is told from what came before.
pub(super) type Heard = Told<Packed>;

/// What it says, understood.
///
/// # Errors
///
/// `Decode`, if it is no `T`.
pub(super) fn understood<T: Value>(entry: Entry<Slot<Heard>>) -> Result<(SlotKey, Speaker<T>)> {
    let (key, revision) = (entry.key().clone(), entry.revision());
    let Told { owner, since, term, value, .. } = entry.into_value().value;
    let value =
        unpack(&value).map_err(|error| Error::decode(&error).at_revision(revision).with_key(key.to_string()))?;
    let fence = Fence::new(term.unwrap_or(revision.get()));
    Ok((key, Speaker { value, owner, since: time_of(since), fence }))
}

/// What others are told of a holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Speaker<T> {
    pub(super) value: T,
    pub(super) owner: String,
    pub(super) since: std::time::SystemTime,
    pub(super) fence: Fence,
}

impl<T: Value> Speaker<T> {
    pub(super) fn of(entry: Entry<Slot<Told<T>>>) -> Self {
        let revision = entry.revision().get();
        let Told { owner, since, term, value, .. } = entry.into_value().value;
        Self { value, owner, since: time_of(since), fence: Fence::new(term.unwrap_or(revision)) }
    }
}

/// What can be asked of a public type that has a [`Speaker`].
macro_rules! speaks {
    ($told:ident, $since:literal) => {
        impl<T> $told<T> {
            /// What it says of itself.
            pub fn value(&self) -> &T {
                &self.speaker.value
            }

            /// What it says of itself, without the facts.
            pub fn into_value(self) -> T {
                self.speaker.value
            }

            /// The number of its tenure.
            pub fn fence(&self) -> $crate::recipes::Fence {
                self.speaker.fence
            }

            /// What it calls itself.
            pub fn owner(&self) -> &str {
                &self.speaker.owner
            }

            #[doc = $since]
            pub fn since(&self) -> std::time::SystemTime {
                self.speaker.since
            }
        }

        impl<T> std::ops::Deref for $told<T> {
            type Target = T;

            fn deref(&self) -> &T {
                &self.speaker.value
            }
        }
    };
}
pub(super) use speaks;
