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
use super::told::{Heard, Saying, understood};
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
    events: Events<Slot<Heard>>,
    known: Known,
    told: VecDeque<Result<GroupEvent<T>>>,
}

/// What was told so far.
#[derive(Debug, Default)]
struct Known {
    /// What each member said last; those who were never understood were not told.
    members: HashMap<String, Member>,
    /// Who was seen since the watch began anew.
    anew: Option<HashSet<String>>,
    ready: bool,
}

#[derive(Debug)]
struct Member {
    said: Saying,
    told: bool,
}

impl<T> GroupEvents<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    pub(super) fn new(events: Events<Slot<Heard>>) -> Self {
        Self { events, known: Known::default(), told: VecDeque::new() }
    }

    /// Takes one event in: what it means is in `told`.
    fn learn(&mut self, event: Event<Slot<Heard>>) {
        let Self { known, told, events: _ } = self;
        match event {
            Event::Put(entry) => {
                let id = entry.key().part().to_owned();
                let said = entry.value.saying();
                if let Some(anew) = &mut known.anew {
                    anew.insert(id.clone());
                }
                let before = known.members.remove(&id);
                if before.as_ref().is_some_and(|before| before.said == said) {
                    known.members.extend(before.map(|before| (id, before)));
                    return;
                }
                let same = before.as_ref().is_some_and(|before| before.said.id == said.id);
                let mut was_told = before.is_some_and(|before| before.told);
                if was_told && !same {
                    told.push_back(Ok(GroupEvent::Left { id: id.clone(), reason: Departure::Missed }));
                    was_told = false;
                }
                match understood(entry).map(MemberInfo::heard) {
                    Ok(member) if was_told => told.push_back(Ok(GroupEvent::Updated(member))),
                    Ok(member) => {
                        told.push_back(Ok(GroupEvent::Joined(member)));
                        was_told = true;
                    }
                    // If it was a member, it is one still, and says what nobody here understands.
                    Err(error) => told.push_back(Err(error)),
                }
                known.members.insert(id, Member { said, told: was_told });
            }
            Event::Removed { key, reason, .. } => {
                let reason = if reason == Removed::Expired { Departure::Died } else { Departure::Left };
                if known.members.remove(key.part()).is_some_and(|member| member.told) {
                    told.push_back(Ok(GroupEvent::Left { id: key.part().to_owned(), reason }));
                }
            }
            Event::Undecodable { error, .. } => told.push_back(Err(error)),
            Event::Resync => known.anew = Some(HashSet::new()),
            Event::Ready => {
                if let Some(anew) = known.anew.take() {
                    let gone: Vec<_> = known.members.keys().filter(|id| !anew.contains(*id)).cloned().collect();
                    for id in gone {
                        if known.members.remove(&id).is_some_and(|member| member.told) {
                            told.push_back(Ok(GroupEvent::Left { id, reason: Departure::Missed }));
                        }
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
