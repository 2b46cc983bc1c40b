//! Reads of the newest entries of many keys, in few requests.
//!
//! A server since 2.11 answers one request for up to 1,024 keys (`multi_last`, ADR-31). It replies with one message for
//! each existing entry, in revision order, and a final status. Any server that stores the bucket may reply. A mirror of
//! the bucket may reply too, even if the bucket has one replica. The final status contains the revision that the server
//! has reached. If the server is behind the required revision, the request is sent again. A read from the leader first
//! asks the leader for its last revision, which is then required.
//!
//! If such a request is not possible, each key is read separately, several at a time. This is the case for an older
//! server, for a user without the permission, and for a bucket without direct gets.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use serde_json::json;
use tokio::time::Instant;

use super::get::get;
use super::reply_stream::{ReplyStream, StreamedReply};
use crate::backend::nats::context::StreamContext;
use crate::backend::nats::jetstream::direct_get::DirectReply;
use crate::backend::{Backoff, Deadline, KeySpace, RawEntry, Read, ReadAt, next_output};
use crate::error::Result;
use crate::key::Key;
use crate::revision::Revision;

/// The maximum number of keys that are read separately, which is faster for few keys.
const SINGLE_GET_THRESHOLD: usize = 3;

/// The maximum number of keys in a request. A server returns at most 1,024 entries, and none if there are more.
const CHUNK_SIZE: usize = 1_000;

/// The maximum size of the entries in one answer, in bytes. All answers in flight must fit into the server's buffer for
/// one connection (64 MiB by default).
const MAX_REPLY_SIZE: usize = 8 * 1024 * 1024;

/// The maximum number of requests in flight.
const CHUNK_CONCURRENCY: usize = 4;

/// The number of keys that are read concurrently if each key is read separately.
const SINGLE_GET_CONCURRENCY: usize = 64;

/// How many times the same keys are requested before they are read separately.
const TRIES: u32 = 4;

/// How long the server may be silent before the requests are given up.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// The maximum size of a request without its key names, in bytes.
const REQUEST_OVERHEAD: usize = 256;

/// Reads the newest entry of each key, including delete markers, in the order of the keys.
pub(crate) async fn get_many(
    context: &StreamContext,
    space: KeySpace,
    keys: &[Key],
    read: Read,
    deadline: Deadline,
) -> Result<Vec<Option<RawEntry>>> {
    let mut batch = KeyBatch::new(space, keys);
    let mut silent_epoch = None;
    if batch.keys.len() > SINGLE_GET_THRESHOLD {
        silent_epoch = request_chunks(context, &mut batch, read, deadline).await?;
    }
    let remaining = batch.missing_keys();
    let KeyBatch { keys, entries, .. } = &mut batch;
    let left = remaining.into_iter().map(|at| get_single(context, (space, keys[at]), at, read, deadline));
    let mut left = stream::iter(left).buffer_unordered(SINGLE_GET_CONCURRENCY);
    while let Some((at, entry)) = next_output(&mut left).await.transpose()? {
        entries[at] = Some(entry);
    }
    drop(left);
    if let Some(epoch) = silent_epoch {
        context.multi_get.record_timeout(epoch);
    }
    Ok(batch.in_order())
}

async fn get_single(
    context: &StreamContext,
    (space, key): (KeySpace, &Key),
    at: usize,
    read: Read,
    deadline: Deadline,
) -> Result<(usize, Option<RawEntry>)> {
    let entry = get(context, space, key, ReadAt::Newest(read), deadline).await;
    Ok((at, entry.map_err(|error| space.name_key(error, key))?))
}

/// The distinct keys with their answers.
struct KeyBatch<'a> {
    space: KeySpace,
    keys: Vec<&'a Key>,
    numbers: HashMap<&'a str, usize>,
    entries: Vec<Option<Option<RawEntry>>>,
    /// The index of the distinct key for each position of the request.
    order: Vec<usize>,
}

impl<'a> KeyBatch<'a> {
    fn new(space: KeySpace, requests: &'a [Key]) -> Self {
        let mut keys = Vec::with_capacity(requests.len());
        let mut numbers = HashMap::with_capacity(requests.len());
        let order = requests.iter().map(|key| {
            *numbers.entry(key.as_str()).or_insert_with(|| {
                keys.push(key);
                keys.len() - 1
            })
        });
        let order = order.collect();
        let entries = keys.iter().map(|_| None).collect();
        Self { space, keys, numbers, entries, order }
    }

    fn missing_keys(&self) -> Vec<usize> {
        (0..self.keys.len()).filter(|at| self.entries[*at].is_none()).collect()
    }

    fn in_order(self) -> Vec<Option<RawEntry>> {
        let Self { mut entries, order, .. } = self;
        let mut left = vec![0_usize; entries.len()];
        for at in &order {
            left[*at] += 1;
        }
        let answer = |at: usize| {
            left[at] -= 1;
            let answer = entries[at].as_mut().filter(|_| left[at] == 0).map(Option::take);
            answer.unwrap_or_else(|| entries[at].clone().flatten())
        };
        order.into_iter().map(answer).collect()
    }
}

/// Keys that share one request.
struct Chunk {
    keys: Vec<usize>,
    tries: u32,
    found: Vec<(usize, RawEntry)>,
    /// The number of messages after the last one, according to its header.
    pending: Option<u64>,
    /// Whether a message was lost.
    has_gap: bool,
}

impl Chunk {
    fn new(keys: Vec<usize>, tries: u32) -> Self {
        Self { keys, tries, found: Vec::new(), pending: None, has_gap: false }
    }
}

/// The progress of a chunk after a message.
enum ChunkStatus {
    /// More messages are pending.
    More,
    /// The results of all keys are complete.
    Complete,
    /// The results of some keys are complete.
    Partial,
    /// The answer is unusable, and the chunk must be requested again.
    Retry,
    /// The keys must be read separately.
    Unsupported,
}

/// Requests as many keys as possible with requests for many keys. The remaining keys must be read separately. Returns
/// the epoch of the connection if the server did not answer.
async fn request_chunks(
    context: &StreamContext,
    batch: &mut KeyBatch<'_>,
    read: Read,
    deadline: Deadline,
) -> Result<Option<u64>> {
    let connection = context.api.connection();
    // A mirror need not store the index entries of its origin.
    let is_elsewhere = batch.space == KeySpace::Index && context.config.mirror.is_some();
    let is_refused = connection.is_restricted() || context.multi_get.is_refused(connection.epoch());
    if !context.allow_direct || is_refused || is_elsewhere {
        return Ok(None);
    }
    let min_revision = match read {
        Read::Any => Revision::ZERO,
        Read::AtLeast(revision) => revision,
        Read::Leader => match context.leader_last(deadline).await {
            Ok(revision) => revision,
            // A user who may not request the last revision may still read the entries.
            Err(error) if error.is_denied() => return Ok(None),
            Err(error) => return Err(error),
        },
    };
    let mut backoff = Backoff::outage();
    loop {
        let replies = ReplyStream::subscribe(&context.api, &format!("DIRECT.GET.{}", context.stream), deadline).await?;
        let mut run = MultiGetRun::new(context, batch, min_revision, replies);
        match run.run(deadline).await? {
            RunEnd::Over => return Ok(None),
            RunEnd::Silent => return Ok(Some(run.epoch)),
            RunEnd::Broken if backoff.pause(deadline).await => {}
            RunEnd::Broken => return Err(deadline.error()),
        }
    }
}

/// The reason why the requests ended.
enum RunEnd {
    Over,
    Silent,
    Broken,
}

struct MultiGetRun<'a, 'k> {
    context: &'a StreamContext,
    batch: &'a mut KeyBatch<'k>,
    /// The prefix of the subjects of the keys.
    prefix: String,
    /// The revision that a server must have reached.
    min_revision: Revision,
    replies: ReplyStream,
    epoch: u64,
    waiting: VecDeque<Chunk>,
    in_flight: HashMap<u64, Chunk>,
    requests: u64,
}

impl<'a, 'k> MultiGetRun<'a, 'k> {
    fn new(
        context: &'a StreamContext,
        batch: &'a mut KeyBatch<'k>,
        min_revision: Revision,
        replies: ReplyStream,
    ) -> Self {
        let max_size = context.api.connection().client().server_info().max_payload.saturating_sub(REQUEST_OVERHEAD);
        let prefix = context.read_prefix(batch.space);
        let mut waiting = VecDeque::new();
        let (mut keys, mut bytes) = (Vec::new(), 0);
        for at in batch.missing_keys() {
            let more = prefix.len() + batch.keys[at].as_str().len() + r#""","#.len();
            if keys.len() == CHUNK_SIZE || bytes + more > max_size {
                waiting.push_back(Chunk::new(std::mem::take(&mut keys), 0));
                bytes = 0;
            }
            keys.push(at);
            bytes += more;
        }
        waiting.push_back(Chunk::new(keys, 0));
        let epoch = context.api.connection().epoch();
        Self { context, batch, prefix, min_revision, replies, epoch, waiting, in_flight: HashMap::new(), requests: 0 }
    }

    async fn run(&mut self, deadline: Deadline) -> Result<RunEnd> {
        let mut backoff = Backoff::outage();
        loop {
            while self.in_flight.len() < CHUNK_CONCURRENCY
                && let Some(chunk) = self.waiting.pop_front()
            {
                self.send(chunk, deadline).await?;
            }
            if self.in_flight.is_empty() {
                return Ok(RunEnd::Over);
            }
            let until = deadline.at().min(Instant::now() + REPLY_TIMEOUT);
            let (number, reply) = match self.replies.next(until).await? {
                StreamedReply::Message(number, message) => (number, DirectReply::new(message)),
                StreamedReply::Denied => {
                    self.context.multi_get.mark_unsupported(self.epoch);
                    return Ok(RunEnd::Over);
                }
                StreamedReply::Broken => return Ok(RunEnd::Broken),
                StreamedReply::Silent if deadline.is_expired() => return Err(deadline.error()),
                StreamedReply::Silent => return Ok(RunEnd::Silent),
            };
            // A reply to an abandoned request may still arrive.
            let Some(mut chunk) = self.in_flight.remove(&number) else { continue };
            match self.on_reply(&mut chunk, reply)? {
                ChunkStatus::More => {
                    self.in_flight.insert(number, chunk);
                }
                done => {
                    let again = matches!(done, ChunkStatus::Retry);
                    self.finish_chunk(chunk, done);
                    // A server that is behind soon catches up.
                    if again && !backoff.pause(deadline).await {
                        return Err(deadline.error());
                    }
                }
            }
        }
    }

    async fn send(&mut self, chunk: Chunk, deadline: Deadline) -> Result<()> {
        // A few keys are read separately. So is a key whose name fills a request.
        if chunk.keys.len() <= SINGLE_GET_THRESHOLD || chunk.tries == TRIES {
            return Ok(());
        }
        let Self { batch, prefix, .. } = self;
        let subjects: Vec<_> = chunk.keys.iter().map(|at| format!("{prefix}{}", batch.keys[*at])).collect();
        let body = json!({ "multi_last": subjects, "max_bytes": MAX_REPLY_SIZE });
        self.requests += 1;
        if self.replies.request(self.requests, Bytes::from(body.to_string()), deadline).await? {
            self.in_flight.insert(self.requests, chunk);
        }
        Ok(())
    }

    /// Processes a message of a chunk.
    fn on_reply(&self, chunk: &mut Chunk, reply: DirectReply) -> Result<ChunkStatus> {
        let Some(status) = reply.status() else {
            let Some(pending) = reply.pending() else { return Ok(ChunkStatus::Unsupported) };
            chunk.has_gap |= chunk.pending.is_some_and(|before| before != pending + 1);
            chunk.pending = Some(pending);
            let entry = reply.into_stored()?.entry(&self.prefix)?;
            if let Some(at) = self.batch.numbers.get(entry.key.as_str()) {
                chunk.found.push((*at, entry));
            }
            return Ok(ChunkStatus::More);
        };
        self.context.multi_get.mark_supported();
        let description = reply.description();
        Ok(match status {
            204 if reply.up_to().unwrap_or_default() < self.min_revision.get() => ChunkStatus::Retry,
            // The number in the final status is one too low on some servers. The last message shows whether more
            // entries exist.
            204 if chunk.has_gap => ChunkStatus::Retry,
            204 if chunk.pending == Some(0) => ChunkStatus::Complete,
            204 => ChunkStatus::Partial,
            // An entry was removed between the lookup and the read.
            404 if chunk.pending.is_some() || description.contains("Not Found") => ChunkStatus::Retry,
            // This status does not show which revision the server has reached.
            404 if self.min_revision > Revision::ZERO => ChunkStatus::Unsupported,
            404 => ChunkStatus::Complete,
            // No server responds, temporarily or permanently. A read of one key finds out which.
            503 => ChunkStatus::Unsupported,
            status => {
                tracing::debug!(
                    stream = self.context.stream,
                    status,
                    description,
                    "the server does not answer requests for many keys"
                );
                if status != 413 {
                    self.context.multi_get.mark_unsupported(self.epoch);
                }
                ChunkStatus::Unsupported
            }
        })
    }

    fn finish_chunk(&mut self, chunk: Chunk, done: ChunkStatus) {
        let Chunk { keys, tries, found, .. } = chunk;
        let entries = &mut self.batch.entries;
        let progress = !found.is_empty();
        if matches!(done, ChunkStatus::Complete | ChunkStatus::Partial) {
            for (at, entry) in found {
                entries[at] = Some(Some(entry));
            }
        }
        match done {
            ChunkStatus::Complete => {
                for at in keys {
                    entries[at].get_or_insert(None);
                }
            }
            ChunkStatus::Partial | ChunkStatus::Retry => {
                let keys = keys.into_iter().filter(|at| entries[*at].is_none()).collect();
                let fresh = matches!(done, ChunkStatus::Partial) && progress;
                self.waiting.push_back(Chunk::new(keys, if fresh { 0 } else { tries + 1 }));
            }
            ChunkStatus::More | ChunkStatus::Unsupported => {}
        }
    }
}
