//! A membership, and a member as other processes read it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bucket::Entry;
use crate::error::Result;
use crate::recipes::announcement::{Announced, Announcement, announced_accessors, encode_value};
use crate::recipes::lease::handle::Lease;
use crate::recipes::record::{RecipeKey, RecipeRecord};

/// A membership. Dereferences to its [`Lease`]: `lost`, `run`, `ensure_remaining`, `remaining`, `fence`.
///
/// Dropping it leaves the group in the background. [`leave`](Self::leave) waits for the result.
///
/// # What this does not guarantee
///
/// See [`Group`](crate::recipes::Group).
#[must_use = "dropping the member leaves the group"]
pub struct Member<T> {
    lease: Lease,
    id: String,
    value: PhantomData<fn() -> T>,
}

impl<T> Member<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Replaces the value of this member. Watchers receive the new value.
    ///
    /// # Errors
    ///
    /// Returns `Lost` if the membership is lost. After any other error with the outcome `NotApplied` (for example
    /// `TooLarge`), the previous value remains. After an error with the outcome `Unknown`, the new value is stored with
    /// the next renewal at the latest.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the value is still written in the background and the result is lost.
    pub async fn update(&self, me: &T) -> Result<()> {
        self.lease.set_value("update", encode_value(me)).await
    }
}

impl<T> Member<T> {
    pub(crate) fn new(lease: Lease, id: String) -> Self {
        Self { lease, id, value: PhantomData }
    }

    /// Returns the id of this member.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Leaves the group and waits until that is confirmed; see [`Lease::release`].
    ///
    /// # Errors
    ///
    /// Returns `Lost` if the membership was lost before.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the departure continues in the background and its result is lost.
    pub async fn leave(self) -> Result<()> {
        self.lease.release_as("leave").await
    }
}

impl<T> Deref for Member<T> {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.lease
    }
}

/// A member, which may have left since the read. Dereferences to its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo<T> {
    id: String,
    announced: Announced<T>,
}

announced_accessors!(MemberInfo, "When it joined, by its own clock.");

impl<T> MemberInfo<T> {
    /// Returns the id of the member.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl<T> MemberInfo<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    pub(crate) fn from_announcement((key, announced): (RecipeKey, Announced<T>)) -> Self {
        Self { id: key.part().to_owned(), announced }
    }

    pub(crate) fn from_entry(entry: Entry<RecipeRecord<Announcement<T>>>) -> Self {
        Self { id: entry.key().part().to_owned(), announced: Announced::from_entry(entry) }
    }
}

impl<T> fmt::Debug for Member<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("id", &self.id).field("lease", &self.lease).finish()
    }
}
