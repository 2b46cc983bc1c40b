//! The waist: bytes, keys, revisions and guards; below it I/O, above it types.
//!
//! An application never needs this module. It is public for those who write a backend of their own, or wrap one: the
//! contract is below, and with the feature `conformance` it is a test suite (`kvtyped::conformance`).
//!
//! # Contract
//!
//! Each sentence is a test of the same name.
//!
//! Writing:
//! * Revisions grow over the whole bucket (`revisions_grow_over_the_whole_bucket`).
//! * A write without a guard lands on whatever is there (`a_write_without_a_guard_always_lands`).
//! * A guard lets pass exactly the revision that it names, which is the revision of the newest entry of its key, marker
//!   or not (`a_guard_lets_exactly_its_revision_pass`).
//! * The guard [`Revision::ZERO`] lets pass only where the key has no entry at all; a marker is an entry
//!   (`a_guard_of_zero_needs_a_key_without_any_entry`).
//! * A guard may stand on another key than the one that is written, where [`Capabilities::key_ttl`] says that the server
//!   is so new; else it is `Unsupported` (`a_guard_may_stand_on_another_key`).
//! * A refused write changes nothing, and its error is a conflict that is not applied (`a_refused_write_changes_nothing`).
//! * Of many writers at one revision exactly one wins, the others get a conflict (`one_of_many_writers_wins_each_revision`).
//! * A delete leaves a marker and keeps the history; a purge leaves a marker and nothing before it
//!   (`a_delete_leaves_a_marker_and_keeps_history`, `a_purge_leaves_a_marker_and_drops_history`).
//! * No key keeps more entries than the bucket's history (`history_is_bounded`).
//! * The operation id of a write, which no other write has, is returned with its entry
//!   (`an_entry_carries_its_operation_id`).
//! * An empty value is a value (`an_empty_value_is_a_value`).
//! * A value over the bucket's or the server's limit is `TooLarge`, a full bucket is `BucketFull`, and neither changes
//!   anything (`a_value_over_the_limit_is_refused`, `a_full_bucket_refuses_writes`).
//!
//! * What is erased of a key goes without a marker and without a word to those who watch, and nothing that is later than the
//!   revision which was named (`an_erasure_takes_nothing_that_is_later`).
//!
//! Batches, where [`Capabilities::atomic`] says so and the bucket's [`atomic`](crate::BucketConfig::atomic) is on:
//! * All writes of a batch are applied, at revisions that follow one another in the order of the writes, or none is
//!   (`a_batch_is_applied_as_a_whole`). Markers behind them may carry checks; see [`Batch::messages`].
//! * Every guard and every check is held at one moment, the one at which the batch is applied
//!   (`a_batch_holds_every_guard_at_one_moment`).
//! * A refused batch changes nothing; a conflict names its key where that is known (`a_refused_batch_changes_nothing`).
//! * A watcher sees the entries of a batch one after the other, with nothing between (`a_watcher_sees_a_batch_contiguous`).
//! * A batch of nothing does nothing; one of a single message is a write, and needs no more than that, wherever it is
//!   (`a_batch_of_one_message_is_a_write`).
//! * A key that is written twice, two revisions expected of one key, and more than [`Batch::MAX_MESSAGES`] messages are
//!   `InvalidBatch` (`a_batch_that_makes_no_sense_is_refused`).
//! * Elsewhere, a batch of several messages is `Unsupported` (`a_batch_needs_a_bucket_that_takes_it`).
//!
//! Expiry, where [`Capabilities::key_ttl`] says so:
//! * A TTL removes the entry, never before its time, and leaves an `Expired` marker under a new revision
//!   (`a_ttl_removes_the_value_and_leaves_a_marker`); an entry tells its TTL (`an_entry_carries_its_ttl`).
//!   The marker is a write that must fit: a bucket that is full, or whose `max_value_size` is under 100 bytes, keeps what
//!   should expire, and a bucket that waits for room by expiry alone waits for ever.
//! * A purge with a TTL leaves a marker that goes without another (`a_purge_marker_with_a_ttl_goes_in_silence`).
//! * A write without a TTL over one that has one does not expire (`a_later_write_without_a_ttl_stays`).
//! * The bucket's own TTL removes every value (`the_bucket_ttl_removes_values`).
//! * A TTL is `Unsupported` in a bucket without limit markers (`a_ttl_needs_limit_markers`).
//!
//! Reading:
//! * The newest entry of a key is read, marker or not, or nothing where there is none (`a_read_finds_the_newest_entry`).
//! * A read at a revision finds that entry, if it is kept and of that key (`a_read_at_a_revision_finds_only_the_keys_own`).
//! * A leader read, and a read of at least the revision that a write returned, see that write
//!   (`a_leader_read_sees_every_acknowledged_write`).
//! * A read of many gives for each key what a read of it gives, in the order asked, also for one that is asked for twice
//!   (`a_read_of_many_gives_what_single_reads_give`). It has no largest number of keys, nor of bytes
//!   (`a_read_of_many_has_no_largest_number`).
//! * A leader read of many, and one of at least a revision, see every write that was acknowledged, up to that revision
//!   (`a_leader_read_of_many_sees_every_acknowledged_write`). What it gives is no snapshot: of two writes it may see the
//!   later one alone.
//! * A scan of the latest gives each key, marker or not, in the order of revisions, and ends, also where there is nothing
//!   (`a_scan_gives_each_key_once`, `a_scan_of_nothing_ends`). A key that is written meanwhile moves to where its new
//!   revision is: it may come twice, and does come (`a_scan_misses_nothing_that_is_written_meanwhile`), unless it is
//!   written again and again faster than it is read.
//! * A scan after a revision gives what has a later one (`a_scan_after_a_revision_gives_what_is_later`). Each entry tells
//!   how many are behind it (`a_scan_tells_how_many_are_behind`).
//! * A scan that is read slowly, or not to its end, has fetched no more than a bounded amount; dropped, it leaves nothing
//!   on the server (`a_dropped_scan_leaves_nothing`).
//! * A scan of the history gives every kept entry (`a_scan_of_history_gives_every_entry`).
//! * A scan gives what one of its patterns matches, once, however they overlap, and nothing where there is no pattern
//!   (`a_scan_keeps_to_its_patterns`). It has no largest number of keys or patterns
//!   (`a_scan_of_many_keys_gives_them_all`).
//! * A scan of headers leaves the values out (`a_scan_of_headers_leaves_the_values_out`).
//!
//! Watching, one sitting at a time (what goes on after its end is decided above):
//! * A watch begins with the facts of the bucket, tells what is there, then `Ready`, then what is written, in the order of
//!   revisions, each entry once (`a_watch_tells_what_is_there_then_ready_then_news`).
//! * Where nothing matches, it is ready at once (`a_watch_of_nothing_is_ready_at_once`).
//! * Since the newest, it tells each key's newest entry, marker or not; since the history, every entry that is kept
//!   (`a_watch_of_history_tells_every_entry`); since now, only what is written later
//!   (`a_watch_since_now_tells_nothing_old`); after a revision, what is kept of a later one
//!   (`a_watch_after_a_revision_tells_what_came_later`), and whether that is everything
//!   (`a_watch_after_a_revision_tells_whether_something_is_missing`). A session whose [`Delivered`] holds every key of
//!   the earlier sessions may decide that after it has delivered the later entries. If a removal may have been missed,
//!   it then returns [`Signal::Incomplete`] in place of `Ready`.
//! * It tells deletes, purges and expiries as they happen (`a_watch_tells_every_kind_of_removal`).
//! * An attached watch delivers every change in order, also one that the next write removes before the watch is read,
//!   as long as its reader keeps up with the writers (`an_attached_watch_tells_every_change`).
//! * It keeps to its patterns, however they overlap (`a_watch_keeps_to_its_patterns`), and leaves the values out if it is
//!   told to (`a_watch_of_headers_leaves_the_values_out`).
//! * While nothing happens it tells that it is alive, and how far it is (`a_watch_tells_that_it_is_alive`).
//! * If its bucket goes, it ends within seconds, with `BucketNotFound`, also where another bucket has the name by then
//!   (`a_watch_ends_with_its_bucket`). If it cannot go on for another reason, it ends with `Unavailable`: an error that
//!   names no key is its last word.
//! * A reader that does not read costs a bounded amount of memory; whatever it misses is made up for by newer entries of
//!   the same keys, or ends the sitting (`a_watch_that_is_not_read_costs_little`).
//! * When it is dropped, nothing of it stays on the server (`a_dropped_watch_leaves_nothing`).
//!
//! Buckets:
//! * `create` refuses a name that is taken, `open` finds none where there is none, and `delete` tells whether there was
//!   one (`a_bucket_is_created_once`, `a_missing_bucket_is_none`, `a_deleted_bucket_is_gone`).
//! * A setting that no server takes, and a change that none makes, is `InvalidConfig` and changes nothing
//!   (`a_wrong_setting_is_refused`).
//! * What is gone takes no write, and has no status (`a_deleted_bucket_is_gone`).
//! * A bucket's configuration is told as it was wanted, and complete (`a_bucket_tells_its_configuration`), and an update
//!   changes what it says and nothing else (`an_update_keeps_what_it_does_not_say`).
//! * A handle tells when its bucket was made, and by another epoch that the bucket of its name may be another by now
//!   (`a_handle_tells_that_its_bucket_may_be_another`).
//! * `names` lists every bucket (`names_list_every_bucket`).
//! * The status counts what is stored now (`the_status_is_fresh`).
//! * A purge is `Unsupported` in a bucket without rollups (`a_purge_needs_rollups`).
//!
//! Counters, where the backend has them ([`Capabilities::counters`]):
//! * They are made under a name that is free; under the name of a bucket of records there are none
//!   (`counters_and_records_have_buckets_of_their_own`).
//! * An addition tells the new total, and of many at once each is counted
//!   (`an_addition_tells_the_new_total`, `every_addition_is_counted_once`).
//! * A counter does not wrap at the ends of `i64` (`a_counter_goes_beyond_64_bits`).
//! * A read sees every addition that was acknowledged; a counter to which nothing was added is none
//!   (`a_counter_tells_what_was_added`).
//! * A scan gives each counter that its pattern matches once (`a_scan_gives_each_counter_once`).
//! * A removed counter begins at zero (`a_removed_counter_begins_anew`).
//!
//! A scan is as fresh as a read of [`Read::Any`]. Every method gives up at its deadline, at most a moment later. A
//! dropped future of a write leaves it unknown whether the write is applied; a dropped read leaves nothing.

mod backoff;
mod batch;
mod concurrent;
mod counters;
mod deadline;
mod delivered;
mod detached;
mod entry;
mod scan;
mod status;
mod watch;
mod write;

pub mod memory;
#[cfg(feature = "nats")]
pub mod nats;

pub use self::backoff::Backoff;
pub use self::batch::Batch;
pub(crate) use self::concurrent::next_output;
pub use self::counters::RawCounters;
pub use self::deadline::Deadline;
pub use self::delivered::Delivered;
pub(crate) use self::detached::{Dropped, detached, start};
pub use self::entry::{Operation, RawEntry};
pub use self::scan::{Scan, Scanned};
pub use self::status::{BucketStatus, Capabilities, Incarnation};
pub use self::watch::{Begun, Signal, Since, Watch};
pub use self::write::{Guard, OperationId, Write, WriteKind};

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::config::BucketConfig;
use crate::error::Result;
use crate::key::Key;
use crate::revision::Revision;

/// A place that holds buckets. The [contract](self#contract) says what each method promises.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// What this backend can do. A server is asked once, and again after each loss of the connection: it may be another then.
    fn capabilities(&self, deadline: Deadline) -> BoxFuture<'_, Result<Capabilities>>;

    /// Makes a bucket; what the configuration does not say gets its default.
    fn create(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>>;

    /// Finds a bucket.
    fn open<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<Option<Arc<dyn RawBucket>>>>;

    /// Changes what the configuration says of the bucket of its name, and nothing else.
    fn update(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>>;

    /// Removes a bucket with all that is in it; tells whether there was one.
    fn delete<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<bool>>;

    /// The counters of this name, which are made if the name is free; what the configuration does not say gets its default.
    /// Nothing if the backend has none, or if the name is that of a bucket of records.
    fn counters(&self, config: BucketConfig, deadline: Deadline)
    -> BoxFuture<'_, Result<Option<Arc<dyn RawCounters>>>>;

    /// The names of all buckets, in order.
    fn names(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<String>>>;

    /// Sends what is to be sent and lets go of what was opened here, a connection of its own included.
    fn close(&self) -> BoxFuture<'_, Result<()>>;
}

/// One bucket. The [contract](self#contract) says what each method promises.
pub trait RawBucket: fmt::Debug + Send + Sync + 'static {
    /// Its configuration as it was when it was opened, complete.
    fn config(&self) -> &BucketConfig;

    /// Which bucket this was opened on, and whether it may be another by now. Costs nothing.
    fn incarnation(&self) -> Incarnation;

    /// How it is now.
    fn status(&self, deadline: Deadline) -> BoxFuture<'_, Result<BucketStatus>>;

    /// Writes one entry and tells its revision.
    fn write(&self, write: Write, deadline: Deadline) -> BoxFuture<'_, Result<Revision>>;

    /// Writes all entries of a batch or none, and tells the revisions of the writes in their order.
    fn commit(&self, batch: Batch, deadline: Deadline) -> BoxFuture<'_, Result<Vec<Revision>>>;

    /// Removes the entries of a key up to a revision without a trace; tells how many there were.
    fn erase<'a>(&'a self, key: &'a Key, upto: Revision, deadline: Deadline) -> BoxFuture<'a, Result<u64>>;

    /// Reads one entry of a key.
    fn read<'a>(&'a self, key: &'a Key, at: At, deadline: Deadline) -> BoxFuture<'a, Result<Option<RawEntry>>>;

    /// Reads the newest entry of each of these keys: as many answers as keys, in their order.
    fn read_many<'a>(
        &'a self,
        keys: &'a [Key],
        read: Read,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Vec<Option<RawEntry>>>>;

    /// Reads the entries of all keys that match, as they are about now.
    ///
    /// An entry whose key is not legal is an error in its place, after which the scan goes on; an error without a key
    /// ends it.
    fn scan(&self, scan: Scan) -> BoxStream<'static, Result<Scanned>>;

    /// Tells what is there, and then what changes, for one sitting, which begins when it is first asked.
    ///
    /// Errors are as of [`scan`](Self::scan).
    fn watch(&self, watch: Watch) -> BoxStream<'static, Result<Signal>>;
}

/// Which entry of a key is read, and how sure it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The newest.
    Newest(Read),
    /// The one with this revision.
    Revision(Revision),
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Read {
    /// Whatever server is nearest. In a replicated bucket this may miss a write that was just acknowledged, and may go
    /// back in time from one read to the next.
    #[default]
    Any,
    /// The leader of the bucket: sees every write that was acknowledged. Not linearizable all the same: a leader that
    /// was cut off may answer for some seconds more.
    Leader,
    /// Any server that has at least this revision: the revision that a write of yours returned, say. A server whose newest
    /// record of the key is older may be behind, so the leader is asked then, and, in a replicated bucket, whether it has
    /// the revision itself: one that was cut off has not, and is asked again until another leads. `Timeout` if that does not
    /// come to pass in time.
    AtLeast(Revision),
}
