//! What a holder says beside its lease, as others read it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::fence::Fence;
use super::holding::time_of;
use super::slot::Slot;
use crate::bucket::Entry;
use crate::codec::{Codec, Json};
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

/// A value as it stands in a record.
///
/// # Errors
///
/// `Encode`.
pub(super) fn pack<T: Serialize + DeserializeOwned>(value: &T) -> Result<serde_json::Value> {
    let bytes = Json::encode(value).map_err(Error::encode)?;
    <Json as Codec<serde_json::Value>>::decode(&bytes).map_err(Error::encode)
}

/// What others are told of a holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Speaker<T> {
    pub(super) value: T,
    pub(super) owner: String,
    pub(super) since: std::time::SystemTime,
    pub(super) fence: Fence,
}

impl<T: super::slot::Value> Speaker<T> {
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
