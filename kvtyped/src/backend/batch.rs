//! Atomic batches of writes, as data.

use std::collections::BTreeMap;

use super::write::{Precondition, Write, WriteKind};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;

/// Several writes that are applied atomically: all at consecutive revisions, or none.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The writes, at most one per key.
    pub writes: Vec<Write>,
    /// The checks: keys, written by the batch or not, and the revision that each must have when the batch is applied.
    pub preconditions: Vec<Precondition>,
}

impl Batch {
    /// The largest number of messages of a batch: the default limit of a server.
    pub const MAX_MESSAGES: usize = 1_000;

    /// The prefix of the keys of messages that only carry a check.
    pub const CHECK_KEY_PREFIX: &str = "=kvtyped.check";

    /// Returns the messages of the batch: the writes in their order, then as many markers on keys below
    /// [`CHECK_KEY_PREFIX`](Self::CHECK_KEY_PREFIX) as the checks need. For backends.
    ///
    /// A message has one precondition. The precondition of a written key is on the message of that key. Every other
    /// precondition is on a message without a precondition, or, if no such message is left, on a marker: a delete of a
    /// key that never has a record.
    ///
    /// # Errors
    ///
    /// Returns `InvalidBatch` if a key is written twice or expected to have two revisions, if the writes of records have
    /// different epochs, if an index entry follows a record, if several messages write no record, or if there are more
    /// messages than [`MAX_MESSAGES`](Self::MAX_MESSAGES).
    pub fn messages(self) -> Result<Vec<Write>> {
        let Self { mut writes, preconditions: checks } = self;
        // The markers have the epoch of the records.
        let mut records = writes.iter().skip_while(|write| write.is_index_entry()).peekable();
        let epoch = records.peek().and_then(|record| record.epoch);
        if let Some(entry) = records.clone().find(|write| write.is_index_entry()) {
            // The last message decides: it must be one that the server refuses after a switch of the epoch.
            let reason = "an index entry follows a record; write index entries first";
            return Err(entry.space.name_key(invalid(reason.to_owned()), &entry.key));
        }
        if let Some(other) = records.find(|record| record.epoch != epoch) {
            let reason = "its writes have different write epochs; give all of them the same epoch";
            return Err(invalid(reason.to_owned()).with_key(other.key.as_str()));
        }
        let mut written = BTreeMap::new();
        for (index, write) in writes.iter().enumerate() {
            if written.insert((write.space, write.key.clone()), index).is_some() {
                let error =
                    invalid(format!("it writes {} twice; write each key once", write.space.describe(&write.key)));
                return Err(write.space.name_key(error, &write.key));
            }
        }
        let mut expected = BTreeMap::new();
        for precondition in writes.iter_mut().filter_map(|write| write.precondition.take()).chain(checks) {
            let Precondition { space, key, revision } = precondition;
            if expected.insert((space, key.clone()), revision).is_some_and(|other| other != revision) {
                let what = space.describe(&key);
                let error = invalid(format!("it expects two different revisions of {what}; expect one"));
                return Err(space.name_key(error, &key));
            }
        }
        let mut elsewhere = Vec::new();
        for (key, revision) in expected {
            let index = written.get(&key);
            let (space, key) = key;
            let precondition = Precondition { space, key, revision };
            match index {
                Some(index) => writes[*index].precondition = Some(precondition),
                None => elsewhere.push(precondition),
            }
        }
        let mut elsewhere = elsewhere.into_iter();
        for (write, precondition) in writes.iter_mut().filter(|write| write.precondition.is_none()).zip(&mut elsewhere)
        {
            write.precondition = Some(precondition);
        }
        for (index, precondition) in elsewhere.enumerate() {
            let marker = Write::new(Key::new(format!("{}.{index}", Self::CHECK_KEY_PREFIX))?, WriteKind::Delete);
            writes.push(Write { precondition: Some(precondition), epoch, ..marker });
        }
        if writes.len() > 1 && writes.last().is_some_and(Write::is_index_entry) {
            return Err(invalid("it writes several index entries and no record; write each entry alone".to_owned()));
        }
        if writes.len() > Self::MAX_MESSAGES {
            let (count, most) = (writes.len(), Self::MAX_MESSAGES);
            return Err(invalid(format!(
                "its writes and checks need {count} messages, but {most} are allowed; split it"
            )));
        }
        Ok(writes)
    }
}

fn invalid(reason: String) -> Error {
    Error::new(ErrorKind::InvalidBatch { reason })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::backend::KeySpace;
    use crate::revision::Revision;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn write(on: &str) -> Write {
        Write::new(key(on), WriteKind::Delete)
    }

    fn precondition(on: &str, revision: u64) -> Precondition {
        Precondition { space: KeySpace::Records, key: key(on), revision: Revision::new(revision) }
    }

    /// Returns each written key with the key of its precondition.
    fn brief(batch: Batch) -> Vec<(String, Option<String>)> {
        let messages = batch.messages().unwrap().into_iter();
        messages
            .map(|write| (write.key.to_string(), write.precondition.map(|precondition| precondition.key.to_string())))
            .collect()
    }

    fn on(key: &str, precondition: Option<&str>) -> (String, Option<String>) {
        (key.to_owned(), precondition.map(str::to_owned))
    }

    #[test]
    fn check_joins_write_without_precondition() {
        let batch = Batch {
            writes: vec![write("a").if_revision(Revision::new(1)), write("b")],
            preconditions: vec![precondition("c", 3)],
        };
        assert_eq!(brief(batch), [on("a", Some("a")), on("b", Some("c"))]);
    }

    #[test]
    fn excess_check_adds_a_marker_message() {
        let preconditions = vec![precondition("x", 1), precondition("y", 2), precondition("z", 0)];
        let wanted = [on("a", Some("x")), on("=kvtyped.check.0", Some("y")), on("=kvtyped.check.1", Some("z"))];
        assert_eq!(brief(Batch { writes: vec![write("a")], preconditions }), wanted);
    }

    #[test]
    fn check_of_written_key_joins_its_write() {
        let elsewhere = Write { precondition: Some(precondition("b", 7)), ..write("a") };
        let batch = Batch {
            writes: vec![elsewhere, write("b")],
            preconditions: vec![precondition("a", 4), precondition("b", 7)],
        };
        assert_eq!(brief(batch), [on("a", Some("a")), on("b", Some("b"))]);
    }

    #[test]
    fn contradictory_batch_is_refused() {
        let refusal = |batch: Batch| batch.messages().unwrap_err().key().map(str::to_owned);
        let twice = Batch { writes: vec![write("a"), write("a")], preconditions: Vec::new() };
        assert_eq!(refusal(twice).as_deref(), Some("a"));
        let contradiction =
            Batch { writes: vec![write("a").if_revision(Revision::new(1))], preconditions: vec![precondition("a", 2)] };
        assert_eq!(refusal(contradiction).as_deref(), Some("a"));
    }

    #[test]
    fn index_entries_come_before_records() {
        let entry = |on: &str| Write::index_entry(key(on), "".into());
        let of = |writes| Batch { writes, preconditions: Vec::new() }.messages();
        let mixed = of(vec![entry("a").if_revision(Revision::ZERO), write("a").in_epoch(Some(3))]).unwrap();
        let brief: Vec<_> = mixed.iter().map(|write| (write.space, write.epoch)).collect();
        assert_eq!(brief, [(KeySpace::Index, None), (KeySpace::Records, Some(3))], "one key in two spaces");
        for writes in
            [vec![write("a"), entry("b")], vec![entry("a"), entry("b")], vec![entry("a"), entry("a"), write("b")]]
        {
            assert!(matches!(of(writes).unwrap_err().kind(), ErrorKind::InvalidBatch { .. }));
        }
        assert_eq!(of(vec![entry("a")]).unwrap().len(), 1);
        let check = Precondition { space: KeySpace::Index, ..precondition("a", 4) };
        let batch = Batch { writes: vec![entry("a"), write("a")], preconditions: vec![check] };
        let spaces: Vec<_> =
            batch.messages().unwrap().into_iter().map(|write| write.precondition.map(|p| p.space)).collect();
        assert_eq!(spaces, [Some(KeySpace::Index), None]);
    }

    #[test]
    fn batch_has_one_epoch() {
        let of = |epoch| Write { epoch, ..write("a") };
        let mixed = Batch { writes: vec![of(Some(7)), write("b")], preconditions: Vec::new() };
        assert!(matches!(mixed.messages().unwrap_err().kind(), ErrorKind::InvalidBatch { .. }));
        let preconditions = vec![precondition("x", 1), precondition("y", 2)];
        let messages = Batch { writes: vec![of(Some(7))], preconditions }.messages().unwrap();
        assert_eq!(messages.iter().map(|message| message.epoch).collect::<Vec<_>>(), [Some(7), Some(7)]);
    }

    #[test]
    fn check_markers_count_toward_message_limit() {
        let batch = |checks: u64| Batch {
            writes: vec![write("a")],
            preconditions: (0..checks).map(|n| precondition(&format!("k{n}"), n)).collect(),
        };
        assert_eq!(batch(1_000).messages().unwrap().len(), 1_000);
        assert!(matches!(batch(1_001).messages().unwrap_err().kind(), ErrorKind::InvalidBatch { .. }));
    }
}
