//! An index in the card of its model.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::IndexInfo;

/// The definition and the state of an index, in the [card](crate::model::ModelCard) of its model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct IndexCard {
    /// The state of the index.
    pub state: IndexState,
    /// Whether at most one record has a value.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unique: bool,
    /// Whether only the follower writes the entries.
    #[serde(default, skip_serializing_if = "is_false")]
    pub eventual: bool,
    /// The definition, such as `{team}.{role}`.
    pub definition: String,
    /// The [fingerprint](IndexInfo::fingerprint) of the definition.
    pub fingerprint: String,
    /// A random string that identifies the build of the index. `None` if the bucket was created with the index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// The fields that this version does not know. They are written back unchanged.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// The state of an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum IndexState {
    /// Programs write entries, but do not read them: a build runs, or was interrupted.
    Writing,
    /// Every record has its entries.
    Readable,
    /// Every record has its entries, but several records have one value of a unique index.
    Pending,
    /// The index is being removed. Programs neither read nor write entries.
    Dropping,
    /// A state of a later version of this crate.
    #[serde(untagged)]
    Unknown(String),
}

impl IndexCard {
    /// Returns the card of an index in this state.
    pub fn new(info: &IndexInfo, state: IndexState) -> Self {
        Self {
            state,
            unique: info.is_unique(),
            eventual: info.is_eventual,
            definition: info.definition.to_owned(),
            fingerprint: info.fingerprint(),
            build: None,
            other: BTreeMap::new(),
        }
    }

    /// Whether a program with this definition writes and reads the entries that the card describes.
    pub fn describes(&self, info: &IndexInfo) -> bool {
        self.fingerprint == info.fingerprint() && self.eventual == info.is_eventual
    }

    /// Returns how the index of a program differs from the index of the card.
    pub(crate) fn difference(&self, info: &IndexInfo) -> String {
        let kind = |is_unique, is_eventual| match (is_unique, is_eventual) {
            (true, _) => " (unique)",
            (false, true) => " (eventual)",
            (false, false) => "",
        };
        // Another client can write a definition of any length.
        let definition: String = self.definition.chars().take(128).collect();
        format!(
            "the index `{}` is `{}`{} here and `{definition}`{} in the bucket; \
             give the new definition another name, or drop the index and build it again",
            info.name,
            info.definition,
            kind(info.is_unique(), info.is_eventual),
            kind(self.unique, self.eventual),
        )
    }

    /// Whether every unique value has its claim, so that writers refuse a second record with the value.
    pub(crate) fn promises_uniqueness(&self) -> bool {
        self.unique && self.state == IndexState::Readable
    }
}

impl IndexState {
    /// Whether every record has its entries, so that a lookup may read them.
    pub fn is_readable(&self) -> bool {
        matches!(self, Self::Readable | Self::Pending)
    }

    /// Whether a writer must keep the entries: a program that does not know the index must not write.
    pub fn is_maintained(&self) -> bool {
        *self != Self::Dropping
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}
