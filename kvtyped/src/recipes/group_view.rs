//! A live view of who is in a group.

use std::fmt;
use std::sync::Arc;

use futures::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::group::MemberInfo;
use super::home::Home;
use super::slot::Slot;
use super::told::{Saying, Told};
use crate::bucket::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::watch::{Cache, CacheChanges};

/// A live view of who is in a group; see [`Group::view`](super::Group::view). Every clone has its own
/// [`changed`](Self::changed).
///
/// Members whose value is no `T` are not in it; [`last_error`](Self::last_error) tells of them.
pub struct GroupView<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    cache: Cache<Slot<Told<T>>>,
    changes: CacheChanges<Slot<Told<T>>>,
    place: Home,
}

impl<T> GroupView<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    pub(super) fn new(cache: Cache<Slot<Told<T>>>, place: Home) -> Self {
        let changes = cache.changes();
        Self { cache, changes, place }
    }

    /// Who is there now, ordered by id.
    pub fn members(&self) -> Vec<MemberInfo<T>>
    where
        T: Clone,
    {
        let mut members: Vec<_> = self.cache.iter().map(|entry| MemberInfo::of(Entry::clone(&entry))).collect();
        members.sort_by(|one: &MemberInfo<T>, other| one.id().cmp(other.id()));
        members
    }

    /// The member of an id.
    pub fn get(&self, id: &str) -> Option<MemberInfo<T>>
    where
        T: Clone,
    {
        self.cache.get(&self.place.key(id)).map(|entry| MemberInfo::of(Entry::clone(&entry)))
    }

    /// Whether somebody has an id.
    pub fn contains(&self, id: &str) -> bool {
        self.cache.contains(&self.place.key(id))
    }

    /// How many are there.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }

    /// Waits until somebody comes or goes, or says something else of itself, since the last call of this handle, or since it
    /// was made. Several changes may be one; a reader that is far behind may be told of one that it has seen.
    ///
    /// # Errors
    ///
    /// Why the view ended, if it did.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if it is dropped.
    pub async fn changed(&mut self) -> Result<()> {
        let saying = |entry: &Option<Arc<Entry<Slot<Told<T>>>>>| -> Option<Saying> {
            entry.as_ref().map(|entry| entry.value.saying())
        };
        loop {
            match self.changes.next().await {
                // A renewal.
                Some(Ok(change)) if saying(&change.old) == saying(&change.new) => {}
                Some(_) => return Ok(()),
                None => return Err(self.end("changed")),
            }
        }
    }

    /// Waits until those who are there are as a predicate wants them; they are asked at once, and at every change.
    ///
    /// # Errors
    ///
    /// Why the view ended, if it did.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if it is dropped.
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

    /// The last thing that went wrong: a member whose value is no `T`, a bucket that was deleted, a denied permission.
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.cache.last_error()
    }

    fn end(&self, operation: &'static str) -> Error {
        let error = Error::new(ErrorKind::Closed);
        let error = match self.last_error() {
            Some(cause) => error.caused_by(cause),
            None => error,
        };
        self.place.located(operation, None, error)
    }
}

impl<T> Clone for GroupView<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    fn clone(&self) -> Self {
        Self::new(self.cache.clone(), self.place.clone())
    }
}

impl<T> fmt::Debug for GroupView<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupView").field("group", &self.place.name()).field("len", &self.len()).finish()
    }
}
