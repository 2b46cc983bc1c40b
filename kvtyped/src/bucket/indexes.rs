//! The indexes of a program, compared with the card of its model.

use std::collections::BTreeMap;

use super::handle::ReadBucket;
use crate::backend::{Deadline, KeySpace, RawBucket, RawEntry, Read, ReadAt};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::model::index::{Claim, IndexCard, IndexInfo, IndexState};
use crate::model::{KvModel, ModelCard};
use crate::revision::Revision;

/// Returns the indexes of a bucket that contains no records of the model yet. The follower has not reached the end of the
/// bucket, so an eventual index is not readable.
pub(super) fn of_new_bucket(indexes: &[IndexInfo]) -> BTreeMap<String, IndexCard> {
    let state = |info: &IndexInfo| if info.is_eventual { IndexState::Writing } else { IndexState::Readable };
    indexes.iter().map(|info| (info.name.to_owned(), IndexCard::new(info, state(info)))).collect()
}

/// Compares the indexes of a program with the card. An index that the card lacks is not built yet, which is no
/// difference.
///
/// # Errors
///
/// Returns the reason if the program would write records without entries, or entries of another definition.
pub(super) fn compare(indexes: &[IndexInfo], card: &ModelCard, is_read_only: bool) -> std::result::Result<(), String> {
    for (name, index) in card.indexes.iter().filter(|(_, index)| index.state.is_maintained()) {
        let name: String = name.chars().take(128).collect();
        let Some(info) = indexes.iter().find(|info| info.name == name) else {
            if is_read_only || index.eventual {
                continue;
            }
            return Err(format!(
                "the bucket has the index `{name}`, and this program would write records without its entries; \
                 add the index to the model, or remove it from the bucket with `drop_index(\"{name}\")`"
            ));
        };
        if !index.describes(info) {
            let definition: String = index.definition.chars().take(128).collect();
            return Err(format!(
                "the index `{name}` is `{}`{} here and `{definition}`{} in the bucket; \
                 give the new definition another name, or drop the index and build it again",
                info.definition,
                kind(info.is_unique(), info.is_eventual),
                kind(index.unique, index.eventual),
            ));
        }
    }
    Ok(())
}

/// Reads the claim of a unique value, with the revision of the newest entry of its key.
pub(crate) async fn read_claim(
    raw: &dyn RawBucket,
    key: &Key,
    read: Read,
    deadline: Deadline,
) -> Result<(Revision, Option<Claim>)> {
    let Some(entry) = raw.read(KeySpace::Index, key, ReadAt::Newest(read), deadline).await? else {
        return Ok((Revision::ZERO, None));
    };
    Ok((entry.revision, stored_claim(&entry)?))
}

/// Reads the body of a claim. Returns `None` for a delete marker.
pub(crate) fn stored_claim(entry: &RawEntry) -> Result<Option<Claim>> {
    let claim = entry.is_live().then(|| Claim::decode(&entry.value)).transpose();
    claim.map_err(|reason| {
        Error::new(ErrorKind::Decode { codec: "claim", detail: reason.to_owned() }).at_revision(entry.revision)
    })
}

impl<T: KvModel> ReadBucket<T> {
    /// Checks that every record has its entries in an index. Reads the card again if it says otherwise, because a build may
    /// have ended since.
    ///
    /// # Errors
    ///
    /// Returns `IndexBuilding` if the index is not built, and errors of reading the card.
    pub(crate) async fn check_readable(&self, info: &IndexInfo, deadline: Deadline) -> Result<()> {
        let is_readable =
            || self.schema().index::<T>(info.name).is_some_and(|card| card.state.is_readable() && card.describes(info));
        if is_readable() {
            return Ok(());
        }
        self.refresh_status(deadline).await?;
        if is_readable() { Ok(()) } else { Err(Error::new(ErrorKind::IndexBuilding { index: info.name.to_owned() })) }
    }
}

fn kind(is_unique: bool, is_eventual: bool) -> &'static str {
    match (is_unique, is_eventual) {
        (true, _) => " (unique)",
        (false, true) => " (eventual)",
        (false, false) => "",
    }
}
