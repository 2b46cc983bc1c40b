//! The slots of a semaphore, as a waiter observes them. Plain state, without I/O.

use crate::recipes::lease::record::LeaseRecord;
use crate::recipes::lease::request::ExpectedTombstone;
use crate::recipes::record::RecipeRecord;
use crate::revision::Revision;
use crate::watch::Event;

/// The slots, as a waiter observes them.
pub(crate) struct PermitSlots {
    ready: bool,
    slots: Vec<SlotState>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum SlotState {
    Taken,
    /// No holder was observed.
    Empty,
    /// The last holder left this delete marker.
    Released(Revision),
}

impl PermitSlots {
    pub(crate) fn new(permits: u32) -> Self {
        Self { ready: false, slots: vec![SlotState::Empty; permits as usize] }
    }

    pub(crate) fn refresh(&mut self, event: Event<RecipeRecord<LeaseRecord>>) {
        match event {
            Event::Put(entry) => self.observe(entry.key().part(), SlotState::Taken),
            Event::Removed { key, revision, .. } => self.observe(key.part(), SlotState::Released(revision)),
            Event::Undecodable { key, error, .. } => {
                tracing::warn!(%error, "a permit cannot be taken until the record of its slot is removed");
                // No process can take the slot until this record is removed.
                let part = key.rsplit_once('.').map(|(_, part)| part.to_owned());
                self.observe(&part.unwrap_or_default(), SlotState::Taken);
            }
            Event::Ready => self.ready = true,
            Event::Resync => {
                self.ready = false;
                self.slots.fill(SlotState::Empty);
            }
            _ => {}
        }
    }

    pub(crate) fn observe(&mut self, part: &str, state: SlotState) {
        // A slot beyond the last belongs to a process with more permits.
        if let Some(slot) = part.parse().ok().and_then(|slot: usize| self.slots.get_mut(slot)) {
            *slot = state;
        }
    }

    /// Returns a random free slot, and the delete marker to replace.
    pub(crate) fn free(&self) -> Option<(u32, ExpectedTombstone)> {
        if !self.ready {
            return None;
        }
        let free = self.slots.iter().zip(0..).filter_map(|(state, slot)| match state {
            SlotState::Taken => None,
            SlotState::Empty => Some((slot, ExpectedTombstone::Unknown)),
            SlotState::Released(tombstone) => Some((slot, ExpectedTombstone::Observed(*tombstone))),
        });
        let free: Vec<_> = free.collect();
        free.get(crate::jitter::uniform_index(free.len())).copied()
    }
}
