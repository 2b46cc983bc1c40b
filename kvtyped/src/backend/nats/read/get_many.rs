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
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use serde_json::json;
use tokio::time::Instant;

use super::get;
use super::reply_stream::{ReplyStream, StreamedReply};
use crate::backend::nats::bucket::StreamContext;
use crate::backend::nats::jetstream::message::{StoredMessage, header};
use crate::backend::{Backoff, Deadline, RawEntry, Read, ReadAt, next_output};
use crate::error::Result;
use crate::key::Key;
use crate::revision::Revision;

/// The maximum number of keys that are read separately, which is faster for few keys.
const SINGLE_GET_THRESHOLD: usize = 3;

/// The maximum number of keys in a request. A server returns at most 1,024 entries, and none if there are more.
const CHUNK: usize = 1_000;

/// The maximum size of the entries in one answer, in bytes. All answers in flight must fit into the server's buffer for
/// one connection (64 MiB by default).
const ANSWER: usize = 8 * 1024 * 1024;

/// The maximum number of requests in flight.
const CHUNK_CONCURRENCY: usize = 4;

/// The number of keys that are read concurrently if each key is read separately.
const SINGLE_GET_CONCURRENCY: usize = 64;

/// How many times the same keys are requested before they are read separately.
const TRIES: u32 = 4;

/// How long the server may be silent before the requests are given up.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// The maximum size of a request without its key names, in bytes.
const FRAME: usize = 256;

/// Whether a bucket answers requests for many keys.
#[derive(Debug, Default)]
pub(crate) struct MultiGetSupport {
    /// The epoch of the connection that does not support such requests. Another connection may lead to another server,
    /// with other permissions.
    refused: AtomicU64,
    /// The number of consecutive requests without an answer while reads of single keys were answered.
    silences: AtomicU32,
}

impl MultiGetSupport {
    fn is_refused(&self, epoch: u64) -> bool {
        self.refused.load(Ordering::Relaxed) == epoch
    }

    fn mark_unsupported(&self, epoch: u64) {
        self.refused.store(epoch, Ordering::Relaxed);
    }

    fn mark_supported(&self) {
        self.silences.store(0, Ordering::Relaxed);
    }

    /// Records a request without an answer. On an application's own connection, denials are not reported and show as
    /// silence, so the second silence in a row counts as a refusal.
    fn record_timeout(&self, epoch: u64) {
        if self.silences.fetch_add(1, Ordering::Relaxed) > 0 {
            self.mark_supported();
            self.mark_unsupported(epoch);
        }
    }
}

/// Reads the newest entry of each key, including delete markers, in the order of the keys.
pub(crate) async fn read_many(
    place: &StreamContext,
    keys: &[Key],
    read: Read,
    deadline: Deadline,
) -> Result<Vec<Option<RawEntry>>> {
    let mut wanted = KeyBatch::new(keys);
    let mut was_silent = None;
    if wanted.keys.len() > SINGLE_GET_THRESHOLD {
        was_silent = ask(place, &mut wanted, read, deadline).await?;
    }
    let unanswered = wanted.missing_keys();
    let KeyBatch { keys, answers, .. } = &mut wanted;
    let left = unanswered.into_iter().map(|at| get_single(place, keys[at], at, read, deadline));
    let mut left = stream::iter(left).buffer_unordered(SINGLE_GET_CONCURRENCY);
    while let Some((at, entry)) = next_output(&mut left).await.transpose()? {
        answers[at] = Some(entry);
    }
    drop(left);
    if let Some(epoch) = was_silent {
        place.multi_get.record_timeout(epoch);
    }
    Ok(wanted.in_order())
}

async fn get_single(
    place: &StreamContext,
    key: &Key,
    at: usize,
    read: Read,
    deadline: Deadline,
) -> Result<(usize, Option<RawEntry>)> {
    let entry = get::read(place, key, ReadAt::Newest(read), deadline).await;
    Ok((at, entry.map_err(|error| error.with_key(key.as_str()))?))
}

/// The distinct keys with their answers.
struct KeyBatch<'a> {
    keys: Vec<&'a Key>,
    numbers: HashMap<&'a str, usize>,
    answers: Vec<Option<Option<RawEntry>>>,
    /// The index of the distinct key for each position of the request.
    order: Vec<usize>,
}

impl<'a> KeyBatch<'a> {
    fn new(asked: &'a [Key]) -> Self {
        let mut keys = Vec::with_capacity(asked.len());
        let mut numbers = HashMap::with_capacity(asked.len());
        let order = asked.iter().map(|key| {
            *numbers.entry(key.as_str()).or_insert_with(|| {
                keys.push(key);
                keys.len() - 1
            })
        });
        let order = order.collect();
        let answers = keys.iter().map(|_| None).collect();
        Self { keys, numbers, answers, order }
    }

    fn missing_keys(&self) -> Vec<usize> {
        (0..self.keys.len()).filter(|at| self.answers[*at].is_none()).collect()
    }

    fn in_order(self) -> Vec<Option<RawEntry>> {
        let Self { keys: _, numbers: _, mut answers, order } = self;
        let mut left = vec![0_usize; answers.len()];
        for at in &order {
            left[*at] += 1;
        }
        let answer = |at: usize| {
            left[at] -= 1;
            let answer = answers[at].as_mut().filter(|_| left[at] == 0).map(Option::take);
            answer.unwrap_or_else(|| answers[at].clone().flatten())
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
    gap: bool,
}

impl Chunk {
    fn new(keys: Vec<usize>, tries: u32) -> Self {
        Self { keys, tries, found: Vec::new(), pending: None, gap: false }
    }
}

/// The progress of a chunk after a message.
enum ChunkStatus {
    /// More messages are pending.
    No,
    /// The results of all keys are complete.
    Yes,
    /// The results of some keys are complete.
    Partly,
    /// The answer is unusable, and the chunk must be requested again.
    Again,
    /// The keys must be read separately.
    Never,
}

/// Requests as many keys as possible with requests for many keys. The remaining keys must be read separately. Returns
/// the epoch of the connection if the server did not answer.
async fn ask(place: &StreamContext, wanted: &mut KeyBatch<'_>, read: Read, deadline: Deadline) -> Result<Option<u64>> {
    let wire = place.api.connection();
    if !place.allow_direct || wire.is_restricted() || place.multi_get.is_refused(wire.epoch()) {
        return Ok(None);
    }
    let floor = match read {
        Read::Any => Revision::ZERO,
        Read::AtLeast(revision) => revision,
        Read::Leader => match place.leader_last(deadline).await {
            Ok(revision) => revision,
            // A user who may not request the last revision may still read the entries.
            Err(error) if error.is_denied() => return Ok(None),
            Err(error) => return Err(error),
        },
    };
    let mut backoff = Backoff::outage();
    loop {
        let replies = ReplyStream::subscribe(&place.api, &format!("DIRECT.GET.{}", place.stream), deadline).await?;
        let mut asking = MultiGetRun::new(place, wanted, floor, replies);
        match asking.run(deadline).await? {
            RunEnd::Over => return Ok(None),
            RunEnd::Silent => return Ok(Some(asking.epoch)),
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
    place: &'a StreamContext,
    wanted: &'a mut KeyBatch<'k>,
    /// The revision that a server must have reached.
    floor: Revision,
    replies: ReplyStream,
    epoch: u64,
    waiting: VecDeque<Chunk>,
    on_their_way: HashMap<u64, Chunk>,
    asked: u64,
}

impl<'a, 'k> MultiGetRun<'a, 'k> {
    fn new(place: &'a StreamContext, wanted: &'a mut KeyBatch<'k>, floor: Revision, replies: ReplyStream) -> Self {
        let most = place.api.connection().client().server_info().max_payload.saturating_sub(FRAME);
        let mut waiting = VecDeque::new();
        let (mut keys, mut bytes) = (Vec::new(), 0);
        for at in wanted.missing_keys() {
            let more = place.prefix.len() + wanted.keys[at].as_str().len() + r#""","#.len();
            if keys.len() == CHUNK || bytes + more > most {
                waiting.push_back(Chunk::new(std::mem::take(&mut keys), 0));
                bytes = 0;
            }
            keys.push(at);
            bytes += more;
        }
        waiting.push_back(Chunk::new(keys, 0));
        let epoch = place.api.connection().epoch();
        Self { place, wanted, floor, replies, epoch, waiting, on_their_way: HashMap::new(), asked: 0 }
    }

    async fn run(&mut self, deadline: Deadline) -> Result<RunEnd> {
        let mut backoff = Backoff::outage();
        loop {
            while self.on_their_way.len() < CHUNK_CONCURRENCY
                && let Some(chunk) = self.waiting.pop_front()
            {
                self.send(chunk, deadline).await?;
            }
            if self.on_their_way.is_empty() {
                return Ok(RunEnd::Over);
            }
            let until = deadline.at().min(Instant::now() + REPLY_TIMEOUT);
            let (number, message) = match self.replies.next(until).await? {
                StreamedReply::Message(number, message) => (number, message),
                StreamedReply::Denied => {
                    self.place.multi_get.mark_unsupported(self.epoch);
                    return Ok(RunEnd::Over);
                }
                StreamedReply::Broken => return Ok(RunEnd::Broken),
                StreamedReply::Silent if deadline.is_expired() => return Err(deadline.error()),
                StreamedReply::Silent => return Ok(RunEnd::Silent),
            };
            // A reply to an abandoned request may still arrive.
            let Some(mut chunk) = self.on_their_way.remove(&number) else { continue };
            match self.on_reply(&mut chunk, message)? {
                ChunkStatus::No => {
                    self.on_their_way.insert(number, chunk);
                }
                done => {
                    let again = matches!(done, ChunkStatus::Again);
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
        let Self { place, wanted, .. } = self;
        let subjects: Vec<_> = chunk.keys.iter().map(|at| place.subject(wanted.keys[*at])).collect();
        let body = json!({ "multi_last": subjects, "max_bytes": ANSWER });
        self.asked += 1;
        if self.replies.request(self.asked, Bytes::from(body.to_string()), deadline).await? {
            self.on_their_way.insert(self.asked, chunk);
        }
        Ok(())
    }

    /// Processes a message of a chunk.
    fn on_reply(&self, chunk: &mut Chunk, message: Message) -> Result<ChunkStatus> {
        let status = message.status.filter(|_| !StoredMessage::is_stored_message(&message));
        let Some(status) = status.map(|status| status.as_u16()) else {
            let Ok(pending) = number(&message, header::PENDING) else { return Ok(ChunkStatus::Never) };
            chunk.gap |= chunk.pending.is_some_and(|before| before != pending + 1);
            chunk.pending = Some(pending);
            let entry = StoredMessage::from_direct(message)?.entry(&self.place.prefix)?;
            if let Some(at) = self.wanted.numbers.get(entry.key.as_str()) {
                chunk.found.push((*at, entry));
            }
            return Ok(ChunkStatus::No);
        };
        self.place.multi_get.mark_supported();
        let said = message.description.as_deref().unwrap_or_default();
        Ok(match status {
            204 if number(&message, header::UP_TO).unwrap_or_default() < self.floor.get() => ChunkStatus::Again,
            // The number in the final status is one too low on some servers. The last message shows whether more
            // entries exist.
            204 if chunk.gap => ChunkStatus::Again,
            204 if chunk.pending == Some(0) => ChunkStatus::Yes,
            204 => ChunkStatus::Partly,
            // An entry was removed between the lookup and the read.
            404 if chunk.pending.is_some() || said.contains("Not Found") => ChunkStatus::Again,
            // This status does not show which revision the server has reached.
            404 if self.floor > Revision::ZERO => ChunkStatus::Never,
            404 => ChunkStatus::Yes,
            // No server responds, temporarily or permanently. A read of one key finds out which.
            503 => ChunkStatus::Never,
            status => {
                tracing::debug!(
                    stream = self.place.stream,
                    status,
                    said,
                    "the server does not answer requests for many keys"
                );
                if status != 413 {
                    self.place.multi_get.mark_unsupported(self.epoch);
                }
                ChunkStatus::Never
            }
        })
    }

    fn finish_chunk(&mut self, chunk: Chunk, done: ChunkStatus) {
        let Chunk { keys, tries, found, .. } = chunk;
        let answers = &mut self.wanted.answers;
        let progress = !found.is_empty();
        if matches!(done, ChunkStatus::Yes | ChunkStatus::Partly) {
            for (at, entry) in found {
                answers[at] = Some(Some(entry));
            }
        }
        match done {
            ChunkStatus::Yes => {
                for at in keys {
                    answers[at].get_or_insert(None);
                }
            }
            ChunkStatus::Partly | ChunkStatus::Again => {
                let keys = keys.into_iter().filter(|at| answers[*at].is_none()).collect();
                let fresh = matches!(done, ChunkStatus::Partly) && progress;
                self.waiting.push_back(Chunk::new(keys, if fresh { 0 } else { tries + 1 }));
            }
            ChunkStatus::No | ChunkStatus::Never => {}
        }
    }
}

fn number(message: &Message, name: &str) -> Result<u64, ()> {
    let text = message.headers.as_ref().and_then(|headers| headers.get_last(name)).ok_or(())?;
    text.as_str().parse().map_err(|_| ())
}
