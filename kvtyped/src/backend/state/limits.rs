//! The size of a write and the space for it, as a server counts them.
//!
//! From nats-server: `memStoreMsgSizeRaw` and `storeRawMsg` in `server/memstore.go`, `fileStoreMsgSizeRaw` and
//! `storeRawMsg` in `server/filestore.go`, and the checks before them in `server/stream.go` (`processJetStreamMsg`).
//! The headers are the headers that the NATS backend writes: one line per property of a write.

use std::time::Duration;

use crate::backend::{KeySpace, OperationId, Precondition, Write, WriteKind};
use crate::config::{BucketConfig, Storage, WriteEpochs};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::revision::Revision;
use crate::ttl::Ttl;

/// The largest message that a server accepts by default, including headers.
pub(crate) const MAX_PAYLOAD: usize = 1024 * 1024;

/// The size of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    headers: usize,
    body: usize,
}

impl Size {
    /// Returns the size of the message of a write.
    pub(crate) fn of_write(write: &Write, config: &BucketConfig) -> Self {
        let Write { space, key: _, kind, precondition, ttl, headers: record, epoch: _, id } = write;
        let mut headers = match space {
            KeySpace::Records => Headers::new().line("Nats-Msg-Id", OperationId::as_str(id).len()),
            KeySpace::Index => Headers::new().rollup_if(config.index_needs_rollup()),
        };
        headers = match kind {
            WriteKind::Put(_) => headers,
            WriteKind::Delete => headers.line("KV-Operation", "DEL".len()),
            WriteKind::Purge => headers.line("KV-Operation", "PURGE".len()).line("Nats-Rollup", "sub".len()),
        };
        if let Some(expected) = precondition {
            let Precondition { space, key, revision } = expected;
            headers = headers.line("Nats-Expected-Last-Subject-Sequence", digits(revision.get()));
            if write.names_subject_of(expected, config) {
                let subject = subject(&config.name, *space, key);
                headers = headers.line("Nats-Expected-Last-Subject-Sequence-Subject", subject);
            }
        }
        match ttl {
            Some(ttl) if ttl.is_never() => headers = headers.line("Nats-TTL", "never".len()),
            Some(ttl) => headers = headers.line("Nats-TTL", digits(ttl.as_secs())),
            None if write.is_index_entry() && config.ttl.is_some() => headers = headers.line("Nats-TTL", "never".len()),
            None => {}
        }
        record.for_each(|name, text| headers.0 = headers.line_len(name, text.len()));
        Self { headers: headers.end(), body: write.value().len() }
    }

    /// Adds the headers of a batch: the number of the message, and whether it is the last one.
    pub(crate) fn as_batch_message(self, id: &OperationId, number: usize, last: bool) -> Self {
        // The id of the batch is an operation id followed by the number of the attempt.
        let frame = Headers(0)
            .line("Nats-Batch-Id", id.as_str().len() + "-1".len())
            .line("Nats-Batch-Sequence", digits(number as u64));
        let frame = if last { frame.line("Nats-Batch-Commit", "1".len()) } else { frame };
        Self { headers: self.headers + frame.0, ..self }
    }

    /// Returns the size of the marker that a server leaves when the last entry of a key expires.
    pub(crate) fn expired_marker(lives: Ttl) -> Self {
        let headers = Headers::new()
            .line("Nats-Marker-Reason", "MaxAge".len())
            .line("Nats-TTL", go_duration(lives.as_duration()).len())
            .line("Nats-Rollup", "sub".len());
        Self { headers: headers.end(), body: 0 }
    }

    /// Returns the size that `max_value_size` limits.
    pub(crate) fn message(self) -> usize {
        self.headers + self.body
    }

    /// Returns the size that `max_bytes` limits: the record of the message in a store.
    pub(crate) fn record(self, storage: Storage, bucket: &str, space: KeySpace, key: &Key) -> u64 {
        let fixed = match storage {
            // Sequence and time.
            Storage::Memory => 16,
            // Length, sequence, time, length of the subject, length of the headers, checksum.
            Storage::File => 22 + 4 + 8,
        };
        (fixed + subject(bucket, space, key) + self.message()) as u64
    }

    /// Refuses a message that is larger than `limit`.
    pub(crate) fn check(self, limit: usize) -> Result<()> {
        if self.message() > limit {
            return Err(Error::new(ErrorKind::TooLarge { size: Some(self.message()), limit: Some(limit) }));
        }
        Ok(())
    }
}

/// Refuses a record that does not fit, as the discard policy `new` of a KV bucket does.
///
/// `replaced` is the size of the record that the history limit of the key removes. That record makes room only if it is
/// at least as large as the new one. (A delete or a purge has more bytes in its headers than most values have, so a
/// full bucket refuses both. In a replicated bucket the servers agree on a write before they remove any record,
/// `server/jetstream_batching.go`, so no record makes room.)
pub(crate) fn check_room(stored: u64, record: u64, max_bytes: Option<u64>, replaced: Option<u64>) -> Result<()> {
    match max_bytes {
        Some(limit) if stored + record > limit && replaced.is_none_or(|replaced| replaced < record) => {
            Err(Error::new(ErrorKind::BucketFull))
        }
        _ => Ok(()),
    }
}

/// Refuses a write of another write epoch than the bucket has.
pub(crate) fn check_epoch(write: &Write, config: &BucketConfig) -> Result<()> {
    if write.is_index_entry() {
        return Ok(());
    }
    let (sent, current) = (write.epoch, config.write_epoch);
    let is_accepted = match sent {
        Some(_) => sent == current,
        None => config.write_epochs != Some(WriteEpochs::Closed),
    };
    if is_accepted { Ok(()) } else { Err(Error::new(ErrorKind::EpochMoved { sent, current })) }
}

/// Returns a conflict if a precondition does not hold.
pub(crate) fn check_precondition(precondition: &Precondition, actual: Revision) -> Result<()> {
    if precondition.revision == actual {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict { expected: precondition.revision, actual: Some(actual) }))
}

/// The length of the headers of a message.
struct Headers(usize);

impl Headers {
    fn new() -> Self {
        Self("NATS/1.0\r\n".len())
    }

    fn rollup_if(self, is_rollup: bool) -> Self {
        if is_rollup { self.line("Nats-Rollup", "sub".len()) } else { self }
    }

    fn line(self, name: &str, value: usize) -> Self {
        Self(self.line_len(name, value))
    }

    fn line_len(&self, name: &str, value: usize) -> usize {
        self.0 + name.len() + ": ".len() + value + "\r\n".len()
    }

    fn end(self) -> usize {
        self.0 + "\r\n".len()
    }
}

fn subject(bucket: &str, space: KeySpace, key: &Key) -> usize {
    let prefix = match space {
        KeySpace::Records => "$KV.",
        KeySpace::Index => "$KV.=i.",
    };
    prefix.len() + bucket.len() + ".".len() + key.as_str().len()
}

fn digits(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// Formats whole seconds as Go formats a duration: `1h0m5s`.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}
