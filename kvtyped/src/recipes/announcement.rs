//! The value that a holder announces in its lease, as other processes read it.

use serde::{Deserialize, Serialize};
use serde_json::Value as JsonValue;

use super::lease::fence::Fence;
use super::lease::record::time_of;
use super::record::{RecipeKey, RecipeRecord, Value};
use crate::bucket::Entry;
use crate::codec::{Codec, CodecError, Json, read_back};
use crate::error::{Error, Result};

/// A [`LeaseRecord`](super::lease::record::LeaseRecord) whose value is a `T`.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Announcement<T> {
    pub(crate) id: String,
    owner: String,
    since: u64,
    #[serde(default)]
    term: Option<u64>,
    pub(crate) value: T,
    #[serde(rename = "said", default)]
    value_version: u64,
}

/// Identifies an announcement by its holder and the version of its value. A renewal does not change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AnnouncementVersion {
    pub(crate) id: String,
    value_version: u64,
}

impl<T> Announcement<T> {
    pub(crate) fn version(&self) -> AnnouncementVersion {
        AnnouncementVersion { id: self.id.clone(), value_version: self.value_version }
    }
}

/// Encodes a value for a record. Refuses a value that does not survive decoding.
///
/// # Errors
///
/// Returns `Encode` if the value cannot be encoded or read back.
pub(crate) fn encode_value<T: Value>(value: &T) -> Result<JsonValue> {
    let encode = || {
        let bytes = Json::encode(value)?;
        Json::verify(value, &read_back::<Json, T>(&bytes)?)?;
        <Json as Codec<JsonValue>>::decode(&bytes)
    };
    encode().map_err(|error: CodecError| Error::encode(&error))
}

fn decode_value<T: Value>(json: &JsonValue) -> Result<T, CodecError> {
    Json::decode(&Json::encode(json)?)
}

/// An announcement with a value that is not decoded. A watch can compare it with the last one even if the value is not
/// a `T`.
pub(crate) type RawAnnouncement = Announcement<JsonValue>;

/// Decodes the value of an announcement.
///
/// # Errors
///
/// Returns `Decode` if the value is not a `T`.
pub(crate) fn decode<T: Value>(entry: Entry<RecipeRecord<RawAnnouncement>>) -> Result<(RecipeKey, Announced<T>)> {
    let (key, revision) = (entry.key().clone(), entry.revision());
    let Announcement { owner, since, term, value, .. } = entry.into_value().value;
    let value =
        decode_value(&value).map_err(|error| Error::decode(&error).at_revision(revision).with_key(key.to_string()))?;
    let fence = Fence::new(term.unwrap_or(revision.get()));
    Ok((key, Announced { value, owner, since: time_of(since), fence }))
}

/// The public parts of an announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announced<T> {
    pub(crate) value: T,
    pub(crate) owner: String,
    pub(crate) since: std::time::SystemTime,
    pub(crate) fence: Fence,
}

impl<T: Value> Announced<T> {
    pub(crate) fn from_entry(entry: Entry<RecipeRecord<Announcement<T>>>) -> Self {
        let revision = entry.revision().get();
        let Announcement { owner, since, term, value, .. } = entry.into_value().value;
        Self { value, owner, since: time_of(since), fence: Fence::new(term.unwrap_or(revision)) }
    }
}

/// Implements the accessors of a public type that contains an [`Announced`].
macro_rules! announced_accessors {
    ($holder:ident, $since:literal) => {
        impl<T> $holder<T> {
            /// Returns the value.
            pub fn value(&self) -> &T {
                &self.announced.value
            }

            /// Returns the value, without the metadata.
            pub fn into_value(self) -> T {
                self.announced.value
            }

            /// Returns the fencing token of the holder's term.
            pub fn fence(&self) -> $crate::recipes::Fence {
                self.announced.fence
            }

            /// Returns the name of the holder.
            pub fn owner(&self) -> &str {
                &self.announced.owner
            }

            #[doc = $since]
            pub fn since(&self) -> std::time::SystemTime {
                self.announced.since
            }
        }

        impl<T> std::ops::Deref for $holder<T> {
            type Target = T;

            fn deref(&self) -> &T {
                &self.announced.value
            }
        }
    };
}
pub(crate) use announced_accessors;
