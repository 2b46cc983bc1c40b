//! A live view of the members of a group.

use std::fmt;
use std::sync::Arc;

use futures::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::member::MemberInfo;
use crate::bucket::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::recipes::announcement::{Announcement, AnnouncementVersion};
use crate::recipes::context::LeaseContext;
use crate::recipes::record::RecipeRecord;
use crate::watch::{Cache, CacheChanges};

/// A live view of the members of a group; see [`Group::view`](crate::recipes::Group::view). Every clone has its own
/// [`changed`](Self::changed).
///
/// Members whose value is not a `T` are not included. [`last_error`](Self::last_error) reports them.
pub struct GroupView<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    cache: Cache<RecipeRecord<Announcement<T>>>,
    changes: CacheChanges<RecipeRecord<Announcement<T>>>,
    context: LeaseContext,
}

impl<T> GroupView<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    pub(crate) fn new(cache: Cache<RecipeRecord<Announcement<T>>>, context: LeaseContext) -> Self {
        let changes = cache.changes();
        Self { cache, changes, context }
    }

    /// Returns the current members, ordered by id.
    pub fn members(&self) -> Vec<MemberInfo<T>>
    where
        T: Clone,
    {
        let mut members: Vec<_> = self.cache.iter().map(|entry| MemberInfo::from_entry(Entry::clone(&entry))).collect();
        members.sort_by(|one: &MemberInfo<T>, other| one.id().cmp(other.id()));
        members
    }

    /// Returns the member with an id.
    pub fn get(&self, id: &str) -> Option<MemberInfo<T>>
    where
        T: Clone,
    {
        self.cache.get(&self.context.key(id)).map(|entry| MemberInfo::from_entry(Entry::clone(&entry)))
    }

    /// Returns whether the group has a member with an id.
    pub fn contains(&self, id: &str) -> bool {
        self.cache.contains(&self.context.key(id))
    }

    /// Returns the number of members.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Returns whether the group has no members.
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }

    /// Waits until a member joins, leaves or changes its value. Counts from the last call on this handle, or from the
    /// creation of the handle. Several changes may be merged into one. A reader that is far behind may receive a change
    /// that it has already seen.
    ///
    /// # Errors
    ///
    /// Returns `Closed` if the view has ended. The source of the error is the last error of the view, if any.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, no change is lost.
    pub async fn changed(&mut self) -> Result<()> {
        let version = |entry: &Option<Arc<Entry<RecipeRecord<Announcement<T>>>>>| -> Option<AnnouncementVersion> {
            entry.as_ref().map(|entry| entry.value.version())
        };
        loop {
            match self.changes.next().await {
                // A renewal does not change the value.
                Some(Ok(change)) if version(&change.old) == version(&change.new) => {}
                Some(_) => return Ok(()),
                None => return Err(self.end("changed")),
            }
        }
    }

    /// Waits until the members satisfy a predicate. The predicate runs at once and after every change.
    ///
    /// # Errors
    ///
    /// Returns `Closed` if the view has ended. The source of the error is the last error of the view, if any.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, no change is lost.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&[MemberInfo<T>]) -> bool) -> Result<Vec<MemberInfo<T>>>
    where
        T: Clone,
    {
        loop {
            let members = self.members();
            if wanted(&members) {
                return Ok(members);
            }
            self.changed().await?;
        }
    }

    /// Returns the last error: a member whose value is not a `T`, a deleted bucket, or a denied permission.
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.cache.last_error()
    }

    fn end(&self, operation: &'static str) -> Error {
        let error = Error::new(ErrorKind::Closed);
        let error = match self.last_error() {
            Some(cause) => error.caused_by(cause),
            None => error,
        };
        self.context.located(operation, None, error)
    }
}

impl<T> Clone for GroupView<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    fn clone(&self) -> Self {
        Self::new(self.cache.clone(), self.context.clone())
    }
}

impl<T> fmt::Debug for GroupView<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupView").field("group", &self.context.name()).field("len", &self.len()).finish()
    }
}
