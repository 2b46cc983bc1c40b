//! Who comes to a group, and who goes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::stream::{Stream, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::group::MemberInfo;
use super::slot::Slot;
use super::told::{Saying, Told};
use crate::bucket::Removed;
use crate::error::Result;
use crate::watch::{Event, Events};

/// What happens in a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupEvent<T> {
    /// It is a member: one that is there before [`GroupEvent::Ready`], one that comes after it.
    Joined(MemberInfo<T>),
    /// A member says something else of itself.
    Updated(MemberInfo<T>),
    /// It is no member any more.
    Left {
        /// The id under which it had joined.
        id: String,
        /// How it went.
        reason: Departure,
    },
    /// All who were there were told; at once, if nobody was.
    Ready,
}

/// How a member went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Departure {
    /// It left.
    Left,
    /// It was not renewed: it died, or was cut off for as long as its time to live.
    Died,
    /// It went while the watch could not see how.
    Missed,
}

/// A stream of what happens in a group; see [`Group::watch`](super::Group::watch).
#[must_use = "a stream does nothing until it is polled"]
pub struct GroupEvents<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    events: Events<Slot<Told<T>>>,
    known: Known,
    told: VecDeque<Result<GroupEvent<T>>>,
}

/// What was told so far.
#[derive(Debug, Default)]
struct Known {
    members: HashMap<String, Saying>,
    /// The keys of what cannot be read, and was told: renewals say nothing new.
    unread: HashSet<String>,
    /// Who was seen since the watch began anew.
    anew: Option<HashSet<String>>,
    ready: bool,
}

impl<T> GroupEvents<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    pub(super) fn new(events: Events<Slot<Told<T>>>) -> Self {
        Self { events, known: Known::default(), told: VecDeque::new() }
    }

    /// Takes one event in: what it means is in `told`.
    fn learn(&mut self, event: Event<Slot<Told<T>>>) {
        let Self { known, told, events: _ } = self;
        match event {
            Event::Put(entry) => {
                let id = entry.key().part().to_owned();
                let saying = entry.value.saying();
                known.unread.remove(&entry.key().to_string());
                if let Some(anew) = &mut known.anew {
                    anew.insert(id.clone());
                }
                match known.members.insert(id.clone(), saying.clone()) {
                    Some(before) if before == saying => {}
                    Some(before) if before.id == saying.id => {
                        told.push_back(Ok(GroupEvent::Updated(MemberInfo::of(entry))));
                    }
                    Some(_) => {
                        told.push_back(Ok(GroupEvent::Left { id, reason: Departure::Missed }));
                        told.push_back(Ok(GroupEvent::Joined(MemberInfo::of(entry))));
                    }
                    None => told.push_back(Ok(GroupEvent::Joined(MemberInfo::of(entry)))),
                }
            }
            Event::Removed { key, reason, .. } => {
                known.unread.remove(&key.to_string());
                let reason = if reason == Removed::Expired { Departure::Died } else { Departure::Left };
                if known.members.remove(key.part()).is_some() {
                    told.push_back(Ok(GroupEvent::Left { id: key.part().to_owned(), reason }));
                }
            }
            Event::Undecodable { key, error, .. } => {
                // If it was a member, it is one still, and says what nobody here understands.
                if let (Some(anew), Ok(key)) = (&mut known.anew, key.parse::<super::slot::SlotKey>()) {
                    anew.insert(key.part().to_owned());
                }
                if known.unread.insert(key) {
                    told.push_back(Err(error));
                }
            }
            Event::Resync => known.anew = Some(HashSet::new()),
            Event::Ready => {
                if let Some(anew) = known.anew.take() {
                    let gone: Vec<_> = known.members.keys().filter(|id| !anew.contains(*id)).cloned().collect();
                    for id in gone {
                        known.members.remove(&id);
                        told.push_back(Ok(GroupEvent::Left { id, reason: Departure::Missed }));
                    }
                }
                if !std::mem::replace(&mut known.ready, true) {
                    told.push_back(Ok(GroupEvent::Ready));
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
            if let Some(told) = self.told.pop_front() {
                return Poll::Ready(Some(told));
            }
            match ready!(self.events.poll_next_unpin(context)) {
                Some(Ok(event)) => self.learn(event),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

// It has nothing that must not move.
impl<T> Unpin for GroupEvents<T> where T: Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T> fmt::Debug for GroupEvents<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupEvents").field("known", &self.known).finish_non_exhaustive()
    }
}
