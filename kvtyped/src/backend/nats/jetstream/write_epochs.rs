//! The two settings of a stream that make write epochs: the subjects that it takes, and a subject transform.
//!
//! A writer of the epoch 7 publishes to `$KV.=w.b.7.k`. The stream takes the subjects of its current epoch only, and the
//! transform stores the message under `$KV.b.k`. The server therefore refuses every writer of another epoch, at no cost
//! for a write. No bucket has the name `=w`.
//!
//! The transform is constant: a switch changes the subjects only. Each replica applies the transform that it has when it
//! stores a message, so a replica without the transform stores a message under `$KV.=w.b.7.k`, which is no record. An
//! existing bucket therefore gets the transform first. The subject follows when every replica is current.

use serde_json::{Map, Value, json};

use super::index_subject::index_subject;
use crate::config::WriteEpochs;
use crate::error::{Error, ErrorKind};

/// An epoch that no writer has. The stream of a closed bucket takes its subjects while the transform is being set: a
/// stream needs a subject.
const NO_WRITERS: u64 = 0;

/// The write epochs of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EpochSettings {
    /// The stream takes no epoch, and has no transform.
    Absent { epochs: WriteEpochs },
    /// The stream has the transform and takes no epoch.
    Prepared { epochs: WriteEpochs },
    /// The stream takes one epoch.
    Active { epochs: WriteEpochs, epoch: u64 },
    /// The stream takes an epoch without the transform, or several epochs: another program changed the stream.
    Damaged { epochs: WriteEpochs },
}

/// Returns the subject prefix of the writes of one epoch.
pub(crate) fn epoch_prefix(bucket: &str, epoch: u64) -> String {
    format!("$KV.=w.{bucket}.{epoch}.")
}

/// Returns the subject of every record of a bucket, which the writes of other clients have.
fn plain_subject(bucket: &str) -> String {
    format!("$KV.{bucket}.>")
}

/// Returns the subject transform of a bucket with write epochs.
pub(crate) fn transform(bucket: &str) -> Value {
    json!({ "src": format!("$KV.=w.{bucket}.*.>"), "dest": plain_subject(bucket) })
}

/// Whether the stream has the subject transform of write epochs.
pub(crate) fn has_transform(bucket: &str, raw: &Map<String, Value>) -> bool {
    raw.get("subject_transform").is_some_and(|found| *found == transform(bucket))
}

/// Returns the epochs that the stream takes, in ascending order.
pub(crate) fn taken_epochs(bucket: &str, raw: &Map<String, Value>) -> Vec<u64> {
    let below = format!("$KV.=w.{bucket}.");
    let epoch = |subject: &str| subject.strip_prefix(&below)?.strip_suffix(".>")?.parse().ok();
    let mut epochs: Vec<u64> = subjects(raw).filter_map(epoch).filter(|epoch| *epoch != NO_WRITERS).collect();
    epochs.sort_unstable();
    epochs
}

fn subjects(raw: &Map<String, Value>) -> impl Iterator<Item = &str> {
    raw.get("subjects").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// Returns the subjects of a bucket with these epochs, and the subject of its index entries if it has any. `None` is a
/// bucket that takes no epoch yet.
pub(crate) fn stream_subjects(bucket: &str, epochs: WriteEpochs, epoch: Option<u64>, has_index: bool) -> Vec<String> {
    let of = |epoch| format!("{}>", epoch_prefix(bucket, epoch));
    let mut subjects: Vec<_> = match epochs {
        WriteEpochs::Open => std::iter::once(plain_subject(bucket)).chain(epoch.map(of)).collect(),
        WriteEpochs::Closed => vec![of(epoch.unwrap_or(NO_WRITERS))],
    };
    subjects.extend(has_index.then(|| index_subject(bucket)));
    subjects
}

impl EpochSettings {
    /// Reads the settings of the stream of this bucket.
    pub(crate) fn read(bucket: &str, raw: &Map<String, Value>) -> Self {
        let plain = plain_subject(bucket);
        let own = format!("$KV.=w.{bucket}.");
        let is_closed = |subject: &str| subject.starts_with(&own);
        let epochs = match subjects(raw).any(|subject| subject == plain) || !subjects(raw).any(is_closed) {
            true => WriteEpochs::Open,
            false => WriteEpochs::Closed,
        };
        match (has_transform(bucket, raw), taken_epochs(bucket, raw).as_slice()) {
            (true, [epoch]) => Self::Active { epochs, epoch: *epoch },
            (true, []) => Self::Prepared { epochs },
            (false, []) => Self::Absent { epochs },
            _ => Self::Damaged { epochs },
        }
    }

    /// Returns the writers that the bucket accepts.
    pub(crate) fn accepts(self) -> WriteEpochs {
        match self {
            Self::Absent { epochs } | Self::Prepared { epochs } | Self::Damaged { epochs } => epochs,
            Self::Active { epochs, .. } => epochs,
        }
    }

    /// Returns the current epoch.
    pub(crate) fn epoch(self) -> Option<u64> {
        match self {
            Self::Active { epoch, .. } => Some(epoch),
            _ => None,
        }
    }

    /// Returns the error of a write of this epoch, or `None` if the stream accepts the write.
    pub(crate) fn refusal(self, sent: Option<u64>) -> Option<Error> {
        let current = self.epoch();
        let is_accepted = match sent {
            Some(_) => sent == current,
            None => self.accepts() == WriteEpochs::Open,
        };
        let error = (!is_accepted).then(|| Error::new(ErrorKind::EpochMoved { sent, current }))?;
        Some(match self.missing() {
            Some(missing) if sent.is_some() || self.accepts() == WriteEpochs::Closed => error.caused_by(missing),
            _ => error,
        })
    }

    /// Returns the error that names the missing half of the settings.
    fn missing(self) -> Option<Error> {
        let reason = match self {
            Self::Active { .. } | Self::Absent { epochs: WriteEpochs::Open } => return None,
            Self::Damaged { .. } => {
                "the subject transform of write epochs is missing: another program changed the stream, and writes since then are no records; open the bucket with `write_epochs` and `Drift::Update`"
            }
            Self::Prepared { .. } | Self::Absent { epochs: WriteEpochs::Closed } => {
                "the subject of write epochs is missing: they are being turned on, or another program changed the stream; open the bucket with `write_epochs` and `Drift::Update`"
            }
        };
        Some(Error::invalid_config(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(subjects: &[&str], transform: Value) -> Map<String, Value> {
        let raw = json!({ "subjects": subjects, "subject_transform": transform });
        raw.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn settings_are_read_from_subjects_and_transform() {
        let (open, closed) = (WriteEpochs::Open, WriteEpochs::Closed);
        let own = || json!({ "src": "$KV.=w.b.*.>", "dest": "$KV.b.>" });
        for (subjects, transform, wanted) in [
            (&["$KV.b.>"][..], Value::Null, EpochSettings::Absent { epochs: open }),
            (&["$KV.b.>"], own(), EpochSettings::Prepared { epochs: open }),
            (&["$KV.b.>", "$KV.=w.b.7.>"], own(), EpochSettings::Active { epochs: open, epoch: 7 }),
            (&["$KV.=w.b.7.>"], own(), EpochSettings::Active { epochs: closed, epoch: 7 }),
            (&["$KV.=w.b.0.>"], own(), EpochSettings::Prepared { epochs: closed }),
            (&["$KV.=w.b.0.>"], Value::Null, EpochSettings::Absent { epochs: closed }),
            (&["$KV.b.>", "$KV.=w.b.7.>"], Value::Null, EpochSettings::Damaged { epochs: open }),
            (&["$KV.=w.b.7.>"], json!({ "src": "x.>", "dest": "y.>" }), EpochSettings::Damaged { epochs: closed }),
            (&["$KV.=w.b.7.>", "$KV.=w.b.8.>"], own(), EpochSettings::Damaged { epochs: closed }),
            (&["$KV.b.>", "$KV.=w.other.7.>"], Value::Null, EpochSettings::Absent { epochs: open }),
            (&[], Value::Null, EpochSettings::Absent { epochs: open }),
        ] {
            assert_eq!(EpochSettings::read("b", &stream(subjects, transform)), wanted, "{subjects:?}");
        }
    }

    #[test]
    fn refusal_names_the_missing_setting() {
        let text = |settings: EpochSettings, sent| settings.refusal(sent).map(|error| error.to_string());
        let damaged = EpochSettings::Damaged { epochs: WriteEpochs::Open };
        assert!(text(damaged, Some(7)).is_some_and(|text| text.contains("the subject transform")), "damaged");
        assert_eq!(text(damaged, None), None);
        let prepared = EpochSettings::Prepared { epochs: WriteEpochs::Open };
        assert!(text(prepared, Some(7)).is_some_and(|text| text.contains("the subject of write epochs")), "prepared");
        let active = EpochSettings::Active { epochs: WriteEpochs::Closed, epoch: 7 };
        assert_eq!(text(active, Some(7)), None);
        assert!(text(active, None).is_some_and(|text| text.contains("sent none, the bucket has 7")), "closed");
    }
}
