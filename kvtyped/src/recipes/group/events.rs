//! A stream of the arrivals and departures in a group.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::stream::{Stream, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::member::MemberInfo;
use crate::bucket::Removed;
use crate::error::Result;
use crate::recipes::announcement::{AnnouncementVersion, RawAnnouncement, decode};
use crate::recipes::record::RecipeRecord;
use crate::watch::{Event, Events};

/// A change in a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupEvent<T> {
    /// A member exists (before [`GroupEvent::Ready`]) or has joined (after it).
    Joined(MemberInfo<T>),
    /// A member changed its value.
    Updated(MemberInfo<T>),
    /// A member left.
    Left {
        /// The id of the member.
        id: String,
        /// The reason.
        reason: LeaveReason,
    },
    /// All initial members have been yielded. This event comes at once if the group is empty.
    Ready,
}

/// The reason why a member left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LeaveReason {
    /// The member left the group.
    Left,
    /// The lease expired: the member died, or was disconnected for its whole TTL.
    Expired,
    /// The member left while the watch was interrupted.
    Unobserved,
}

/// A stream of the changes in a group; see [`Group::watch`](crate::recipes::Group::watch).
#[must_use = "a stream does nothing until it is polled"]
pub struct GroupEvents<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    events: Events<RecipeRecord<RawAnnouncement>>,
    known: KnownMembers,
    pending: VecDeque<Result<GroupEvent<T>>>,
}

/// The members, as the stream has yielded them so far.
#[derive(Debug, Default)]
struct KnownMembers {
    /// The last announcement of each member. A member was not yielded if its value was never decodable.
    members: HashMap<String, KnownMember>,
    /// The ids that were seen since the watch resynced.
    seen_since_resync: Option<HashSet<String>>,
    ready: bool,
}

#[derive(Debug)]
struct KnownMember {
    version: AnnouncementVersion,
    /// Whether the stream has yielded the member.
    is_yielded: bool,
}

impl<T> GroupEvents<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    pub(crate) fn new(events: Events<RecipeRecord<RawAnnouncement>>) -> Self {
        Self { events, known: KnownMembers::default(), pending: VecDeque::new() }
    }

    /// Processes an event, and appends the resulting group events to the pending items.
    fn apply_event(&mut self, event: Event<RecipeRecord<RawAnnouncement>>) {
        let Self { known, pending, events: _ } = self;
        match event {
            Event::Put(entry) => {
                let id = entry.key().part().to_owned();
                let version = entry.value.version();
                if let Some(seen_since_resync) = &mut known.seen_since_resync {
                    seen_since_resync.insert(id.clone());
                }
                let before = known.members.remove(&id);
                if before.as_ref().is_some_and(|before| before.version == version) {
                    known.members.extend(before.map(|before| (id, before)));
                    return;
                }
                let is_same_term = before.as_ref().is_some_and(|before| before.version.id == version.id);
                let mut is_yielded = before.is_some_and(|before| before.is_yielded);
                if is_yielded && !is_same_term {
                    pending.push_back(Ok(GroupEvent::Left { id: id.clone(), reason: LeaveReason::Unobserved }));
                    is_yielded = false;
                }
                match decode(entry).map(MemberInfo::from_announcement) {
                    Ok(member) if is_yielded => pending.push_back(Ok(GroupEvent::Updated(member))),
                    Ok(member) => {
                        pending.push_back(Ok(GroupEvent::Joined(member)));
                        is_yielded = true;
                    }
                    // A member whose new value is not decodable remains a member.
                    Err(error) => pending.push_back(Err(error)),
                }
                known.members.insert(id, KnownMember { version, is_yielded });
            }
            Event::Removed { key, reason, .. } => {
                let reason = if reason == Removed::Expired { LeaveReason::Expired } else { LeaveReason::Left };
                if known.members.remove(key.part()).is_some_and(|member| member.is_yielded) {
                    pending.push_back(Ok(GroupEvent::Left { id: key.part().to_owned(), reason }));
                }
            }
            Event::Undecodable { error, .. } => pending.push_back(Err(error)),
            Event::Resync => known.seen_since_resync = Some(HashSet::new()),
            Event::Ready => {
                if let Some(seen_since_resync) = known.seen_since_resync.take() {
                    let gone: Vec<_> =
                        known.members.keys().filter(|id| !seen_since_resync.contains(*id)).cloned().collect();
                    for id in gone {
                        if known.members.remove(&id).is_some_and(|member| member.is_yielded) {
                            pending.push_back(Ok(GroupEvent::Left { id, reason: LeaveReason::Unobserved }));
                        }
                    }
                }
                if !std::mem::replace(&mut known.ready, true) {
                    pending.push_back(Ok(GroupEvent::Ready));
                }
            }
            _ => {}
        }
    }
}

impl<T> Stream for GroupEvents<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    type Item = Result<GroupEvent<T>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(item) = self.pending.pop_front() {
                return Poll::Ready(Some(item));
            }
            match ready!(self.events.poll_next_unpin(context)) {
                Some(Ok(event)) => self.apply_event(event),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

// No field is pinned.
impl<T> Unpin for GroupEvents<T> where T: Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T> fmt::Debug for GroupEvents<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupEvents").field("known", &self.known).finish_non_exhaustive()
    }
}
