//! The value that a holder announces in its lease, as other processes read it.

use serde::{Deserialize, Serialize};
use serde_json::Value as JsonValue;

use super::lease::fence::Fence;
use super::lease::record::{expires_in, time_of};
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
    #[serde(default)]
    pub(crate) fingerprint: Option<String>,
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
    let (key, revision, renewed, expires_in) =
        (entry.key().clone(), entry.revision(), entry.created(), expires_in(&entry));
    let Announcement { owner, since, term, value, .. } = entry.into_value().value;
    let value =
        decode_value(&value).map_err(|error| Error::decode(&error).at_revision(revision).with_key(key.to_string()))?;
    let fence = Fence::new(term.unwrap_or(revision.get()));
    Ok((key, Announced { value, owner, since: time_of(since), fence, renewed, expires_in }))
}

/// The public parts of an announcement.
#[derive(Debug, Clone)]
pub(crate) struct Announced<T> {
    pub(crate) value: T,
    pub(crate) owner: String,
    pub(crate) since: std::time::SystemTime,
    pub(crate) fence: Fence,
    pub(crate) renewed: std::time::SystemTime,
    pub(crate) expires_in: std::time::Duration,
}

/// A renewal does not change an announcement.
impl<T: PartialEq> PartialEq for Announced<T> {
    fn eq(&self, other: &Self) -> bool {
        let Self { value, owner, since, fence, renewed: _, expires_in: _ } = self;
        (value, owner, since, fence) == (&other.value, &other.owner, &other.since, &other.fence)
    }
}

impl<T: Eq> Eq for Announced<T> {}

impl<T: Value> Announced<T> {
    pub(crate) fn from_entry(entry: Entry<RecipeRecord<Announcement<T>>>) -> Self {
        let (revision, renewed, expires_in) = (entry.revision().get(), entry.created(), expires_in(&entry));
        let Announcement { owner, since, term, value, .. } = entry.into_value().value;
        let fence = Fence::new(term.unwrap_or(revision));
        Self { value, owner, since: time_of(since), fence, renewed, expires_in }
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

            /// Returns when the holder last renewed its lease, by the server's clock.
            pub fn renewed(&self) -> std::time::SystemTime {
                self.announced.renewed
            }

            /// Returns the time from the read until the lease expires without a renewal, by the server's clock.
            pub fn expires_in(&self) -> std::time::Duration {
                self.announced.expires_in
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
