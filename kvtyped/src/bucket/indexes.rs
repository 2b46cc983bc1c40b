//! The indexes of a program, compared with the card of its model.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::handle::ReadBucket;
use super::schema_state::{BucketSchema, IndexBuild};
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
            return Err(index.difference(info));
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
    /// Returns the build of a readable index. Reads the card again if the index is not built,
    /// because a build may have ended since.
    ///
    /// The card may be outdated. A lookup that finds no record, or counts entries, compares the result with
    /// [`current_build`](Self::current_build) afterwards.
    ///
    /// # Errors
    ///
    /// Returns `IndexBuilding` if the index is not built, and errors of reading the card.
    pub(crate) async fn readable_build(&self, info: &IndexInfo, deadline: Deadline) -> Result<IndexBuild> {
        match self.schema().readable_build::<T>(info) {
            Ok(build) => Ok(build),
            Err(_) => self.current_build(info, deadline).await,
        }
    }

    /// Reads the card, and returns the build of an index. If the build is the same before and after a read of entries,
    /// the index had all its entries during that read.
    ///
    /// # Errors
    ///
    /// Returns `IndexBuilding` if the index is not built, and errors of reading the card.
    pub(crate) async fn current_build(&self, info: &IndexInfo, deadline: Deadline) -> Result<IndexBuild> {
        let asked = Instant::now();
        let status = self.refresh_status(deadline).await?;
        BucketSchema::new(&status.config, asked).readable_build::<T>(info)
    }

    /// Makes the handle rely only on the unique indexes that the bucket has now, after its program has changed them.
    pub(crate) fn accept_indexes(&self) {
        self.inner.schema.accept_indexes(T::SCHEMA.name);
    }
}
