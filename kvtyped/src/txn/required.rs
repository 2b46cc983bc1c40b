//! The records that a transaction requires to exist.

use crate::backend::{Deadline, KeySpace, Precondition, RawBucket, Read};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;

/// Reads the required records. Returns a precondition on the current revision of each.
///
/// # Errors
///
/// Returns `NotFound` with the first key that has no live record.
pub(super) async fn read(raw: &dyn RawBucket, keys: &[Key], deadline: Deadline) -> Result<Vec<Precondition>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let found = raw.read_many(KeySpace::Records, keys, Read::Leader, deadline).await?;
    let precondition = |(key, entry): (&Key, Option<crate::backend::RawEntry>)| match entry {
        Some(entry) if !entry.is_removed() => {
            Ok(Precondition { space: KeySpace::Records, key: key.clone(), revision: entry.revision })
        }
        _ => Err(Error::new(ErrorKind::NotFound).with_key(key.as_str())),
    };
    keys.iter().zip(found).map(precondition).collect()
}

/// The error of a transaction that removes a record that it requires.
pub(super) fn is_removed(key: &Key) -> Error {
    let reason =
        "the transaction removes a record that it requires to exist; remove the call of `exists`, or the removal";
    Error::new(ErrorKind::InvalidBatch { reason: reason.to_owned() }).with_key(key.as_str())
}
