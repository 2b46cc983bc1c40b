//! The backend interface: bytes, keys, revisions and preconditions. Backends do the I/O below it; the typed API is
//! above it.
//!
//! An application does not need this module. It is public for authors who write or wrap a backend. The contract is
//! below, and with the feature `conformance` it is a test suite (`kvtyped::conformance`).
//!
//! # Contract
//!
//! Each rule names the test that checks it.
//!
//! Writing:
//! * Revisions grow over the whole bucket (`revisions_increase_across_the_bucket`).
//! * A write without a precondition succeeds whatever its key holds (`unconditional_write_always_succeeds`).
//! * A precondition holds exactly if its revision is the revision of the newest entry of its key. That entry may be a
//!   delete marker (`precondition_accepts_only_newest_revision`).
//! * The precondition [`Revision::ZERO`] holds only if the key has no entry. A delete marker is an entry
//!   (`zero_precondition_needs_key_without_entry`).
//! * A precondition may name another key than the written one if the server is new enough, as [`Capabilities::key_ttl`]
//!   shows. Otherwise the write fails with `Unsupported` (`precondition_may_name_another_key`).
//! * A refused write changes nothing. Its error is a conflict that states that the write was not applied
//!   (`refused_write_changes_nothing`).
//! * If many writers expect the same revision, exactly one wins, and the others get a conflict
//!   (`exactly_one_writer_wins_each_revision`).
//! * A delete leaves a marker and keeps the history. A purge leaves a marker and removes everything before it
//!   (`delete_leaves_marker_and_keeps_history`, `purge_leaves_marker_and_drops_history`).
//! * No key keeps more entries than the bucket's history (`history_is_bounded`).
//! * An entry carries the operation id of its write, which no other write has (`entry_carries_its_operation_id`).
//! * An entry carries the record headers of its write (`entry_keeps_record_headers`), also if a batch wrote it
//!   (`batch_keeps_record_headers`), and also in a scan or watch of headers (`header_scan_returns_record_headers`). A
//!   delete marker has none.
//! * An empty value is a value (`empty_value_is_a_live_record`).
//! * A value over the limit of the bucket or the server fails with `TooLarge`, and a write to a full bucket with
//!   `BucketFull`. Neither changes anything (`oversized_value_is_refused`, `full_bucket_refuses_writes`).
//! * An erase removes the entries of a key up to the given revision and no later entry. It leaves no marker, and
//!   watches do not report it (`erase_keeps_later_entries`).
//!
//! Batches, if [`Capabilities::atomic`] is set and the bucket's [`atomic`](crate::config::BucketConfig::atomic) is on:
//! * Either all writes of a batch are applied, at consecutive revisions in the order of the writes, or none is
//!   (`batch_applies_every_write_in_order`). Delete markers may follow the writes to carry checks; see [`Batch::messages`].
//! * All preconditions and checks of a batch are evaluated at one moment, when the batch is applied
//!   (`batch_checks_preconditions_atomically`).
//! * A refused batch changes nothing. A conflict names its key if the backend knows it
//!   (`refused_batch_changes_nothing`).
//! * A watcher sees the entries of a batch consecutively, with no other entry between them
//!   (`watch_yields_batch_contiguously`).
//! * An empty batch does nothing. A batch of one message is a plain write, and works in every bucket
//!   (`single_message_batch_is_a_plain_write`).
//! * A batch fails with `InvalidBatch` if it writes a key twice, expects two revisions of one key, or has more than
//!   [`Batch::MAX_MESSAGES`] messages (`invalid_batch_is_refused`).
//! * Without the capability or the setting, a batch of several messages fails with `Unsupported`
//!   (`batch_needs_an_atomic_bucket`).
//!
//! Expiry, if [`Capabilities::key_ttl`] is set:
//! * A TTL removes the entry, never before its time, and leaves an `Expired` marker under a new revision
//!   (`ttl_expires_entry_and_leaves_marker`). An entry carries its TTL (`entry_carries_its_ttl`). The marker
//!   is a write that must fit: a bucket that is full, or whose `max_value_size` is under 100 bytes, keeps entries that
//!   should expire. A bucket that only expiry could make room in therefore stays full.
//! * A purge with a TTL leaves a marker that expires without another marker
//!   (`purge_marker_with_ttl_expires_silently`).
//! * A write without a TTL does not inherit the TTL of the entry that it replaces
//!   (`later_write_without_ttl_does_not_expire`).
//! * The bucket's own TTL removes every value (`bucket_ttl_removes_values`).
//! * With a history, a TTL is at least that of the limit markers, and the previous value reappears at its end
//!   (`ttl_in_history_is_at_least_that_of_markers`).
//! * A write with a TTL fails with `Unsupported` in a bucket without limit markers (`ttl_needs_limit_markers`).
//!
//! Reading:
//! * A read returns the newest entry of a key, which may be a delete marker, or `None` if the key has no entry
//!   (`read_returns_newest_entry`).
//! * A read at a revision returns the entry with that revision, if it is kept and belongs to the key
//!   (`read_at_revision_ignores_other_keys`).
//! * A leader read, and a read of at least the revision that a write returned, see that write
//!   (`leader_read_sees_acknowledged_writes`).
//! * A read of many keys returns for each key the result of a single read, in the order of the keys. A key that is
//!   given twice is returned twice (`read_many_matches_single_reads`). The number of keys and bytes has no
//!   limit (`read_many_has_no_size_limit`).
//! * A leader read of many keys sees every acknowledged write, and a read of at least a revision sees every
//!   acknowledged write up to that revision (`leader_read_many_sees_acknowledged_writes`). The result is not
//!   a snapshot: of two writes it may contain only the later one.
//! * A scan of the newest entries returns each key, with its value or delete marker, in the order of revisions. It
//!   ends, also if nothing matches (`scan_yields_each_key_once`, `scan_without_matches_ends`). A key that is written
//!   during the scan moves to its new revision. It is never missed and may be returned twice
//!   (`scan_misses_no_key_during_writes`), unless it is rewritten continuously, faster than the scan
//!   reads.
//! * A scan after a revision returns the entries with later revisions (`scan_after_revision_yields_later_entries`).
//!   Each entry carries the number of entries that follow it (`scan_reports_pending_count`).
//! * A scan fetches a bounded number of entries ahead of its reader. A dropped scan leaves nothing on the server
//!   (`dropped_scan_leaves_no_consumer`).
//! * A scan of the history returns every kept entry (`scan_of_history_yields_every_entry`).
//! * A scan returns each entry that matches at least one pattern once, even if patterns overlap. Without patterns it
//!   returns nothing (`scan_yields_only_matching_entries`). The number of keys and patterns has no limit
//!   (`scan_of_many_keys_is_complete`).
//! * A scan of headers omits the values (`scan_of_headers_omits_values`).
//!
//! Watching, for one watch session (the layer above the backend interface starts the next session):
//! * A watch first returns a description of the bucket, then the existing entries, then `Ready`, then new entries.
//!   Entries come in the order of revisions, each once (`watch_yields_entries_then_ready_then_changes`).
//! * If nothing matches, the watch is ready at once (`watch_without_matches_is_ready_at_once`).
//! * [`StartFrom::Newest`] starts with the newest entry of each key, which may be a delete marker. [`StartFrom::History`]
//!   starts with every kept entry (`watch_of_history_yields_every_entry`), [`StartFrom::Now`] returns only later writes
//!   (`watch_from_now_yields_only_later_writes`), and [`StartFrom::After`] starts with the kept entries of later revisions
//!   (`watch_after_revision_yields_later_entries`). The last one also reports whether entries are missing
//!   (`watch_after_revision_reports_gaps`). A session whose [`Delivered`] holds every key of
//!   the earlier sessions may decide that after it has delivered the later entries. If a removal may have been missed,
//!   it then returns [`WatchSignal::Incomplete`] in place of `Ready`.
//! * A watch reports deletes, purges and expiries when they happen (`watch_reports_every_kind_of_removal`).
//! * An attached watch delivers every change in order, also one that the next write removes before the watch is read,
//!   as long as its reader keeps up with the writers (`attached_watch_yields_every_change`).
//! * A watch returns only keys that match its patterns, each entry once even if patterns overlap
//!   (`watch_yields_only_matching_entries`), and omits the values on request (`watch_of_headers_omits_values`).
//! * A watch without new entries sends heartbeats with its position (`idle_watch_sends_heartbeats`).
//! * If its bucket is deleted, a watch ends within seconds with `BucketNotFound`, also if a new bucket has the same
//!   name (`watch_of_deleted_bucket_ends`). If it cannot continue for another reason, it ends with `Unavailable`. An
//!   error without a key is always the last item.
//! * A reader that does not read costs a bounded amount of memory. Newer entries of the same keys replace the entries
//!   that it misses, or the session ends (`unread_watch_catches_up_or_ends`).
//! * A dropped watch leaves nothing on the server (`dropped_watch_leaves_no_consumer`).
//!
//! Buckets:
//! * `create` refuses a name that is taken, `open` returns `None` if the bucket does not exist, and `delete` returns
//!   whether it existed (`create_of_existing_bucket_is_refused`, `missing_bucket_is_not_found`, `deleted_bucket_is_gone`).
//! * A setting that no server accepts, and a change that no server makes, fail with `InvalidConfig` and change nothing
//!   (`invalid_setting_is_refused`).
//! * A deleted bucket refuses writes and has no status (`deleted_bucket_is_gone`).
//! * A handle returns the complete configuration of its bucket with the requested settings
//!   (`handle_returns_complete_configuration`). An update changes the settings that are set and no others
//!   (`update_keeps_unset_settings`).
//! * A handle returns the creation time of its bucket. A changed epoch means that a new bucket may have that name
//!   (`handle_keeps_identity_of_its_bucket`).
//! * `names` lists every bucket (`names_list_every_bucket`).
//! * A reading of the clock, if there is one, and the time of a status agree with the times of entries
//!   (`clock_dates_entries`).
//! * The status counts the current entries (`status_counts_current_entries`).
//! * A purge fails with `Unsupported` in a bucket without rollups (`purge_needs_rollups`).
//!
//! Write epochs, if [`Capabilities::write_epochs`] is set:
//! * A new bucket with [`write_epochs`](crate::config::BucketConfig::write_epochs) has the epoch 1. A bucket without them
//!   has no epoch (`new_bucket_has_first_epoch`).
//! * A write with an epoch is applied only if the bucket has that epoch. Otherwise it fails with `EpochMoved` and changes
//!   nothing, also in a bucket without epochs (`write_of_other_epoch_is_refused`).
//! * A write without an epoch is accepted by an open bucket. A closed one refuses it with `EpochMoved`
//!   (`write_without_epoch_needs_open_bucket`).
//! * An update with a later epoch switches the epoch and the metadata at one moment
//!   (`update_switches_epoch_and_metadata`). A write in flight is applied before the switch or never.
//! * An epoch never decreases. An update with the current epoch changes neither the epoch nor the metadata, because
//!   another caller may have made that switch: the metadata say who (`epoch_never_decreases`). There is no
//!   compare-and-set on a configuration, so callers that may switch at the same time need a lease.
//! * An update gives an existing bucket write epochs, with an epoch that it never had. Open buckets can be closed, and
//!   closed ones opened, within the same epoch. Epochs cannot be turned off (`existing_bucket_gets_write_epochs`).
//! * Preconditions, deletes, purges, TTLs, scans and watches work as without epochs (`verbs_work_in_epochs`). An erase
//!   needs no epoch, because it writes no record. Counters and mirrors have no epochs. A write through a mirror names the
//!   epoch of its origin.
//! * All writes of a batch have the same epoch, and otherwise it fails with `InvalidBatch`. Its messages with checks have
//!   the epoch of the writes. A batch that only checks needs no epoch (`batch_has_one_epoch`).
//!
//! An update whose reply is lost reads the configuration, and is sent again only if the bucket does not have it.
//!
//! Index entries, in a bucket with [`index_entries`](crate::config::BucketConfig::index_entries):
//! * A key of the [`Index`](KeySpace::Index) space is independent of the same key in the other space. Both spaces share
//!   one sequence of revisions (`key_spaces_are_independent`).
//! * A scan, a watch and the status show records only (`index_entries_are_no_records`). A watch may resume across index
//!   entries (`watch_resumes_across_index_entries`).
//! * A key of the index space has one entry, whatever the history of the bucket (`index_entry_has_no_history`). It has no
//!   operation id: an entry whose acknowledgement is lost is written again, and the same entry with the expected
//!   predecessor counts as applied.
//! * An entry does not expire, also in a bucket with a TTL (`index_entry_outlives_the_ttl`). It has no TTL, no record
//!   headers and no write epoch, and is never a delete marker (`index_entry_is_a_plain_value`).
//! * Preconditions work within a space and across spaces (`precondition_may_name_another_space`).
//! * A batch may write both spaces, index entries first. Entries have no write epoch, and the records of the batch keep
//!   theirs (`batch_writes_both_spaces`).
//! * An erase up to a revision removes the entry if no later one replaced it, and leaves no marker
//!   (`erased_index_entry_leaves_nothing`).
//! * A listing returns the keys that match, from the leader, in the order of their bytes. A key that has an entry
//!   throughout the listing is returned once. In the space of records, a key with a delete marker is listed too
//!   (`listing_returns_keys_in_order`, `listing_survives_changes`). A count may be too high for a pattern with a half-open segment
//!   (`count_matches_the_listing`).
//! * In a bucket without the setting, a write of an entry fails with `Unsupported`. An update adds the setting and cannot
//!   remove it (`index_entries_need_the_setting`). A bucket with a TTL needs limit markers, and no update may add a TTL to
//!   a bucket with entries (`ttl_of_bucket_with_index_needs_limit_markers`).
//!
//! Counters, if the backend supports them ([`Capabilities::counters`]):
//! * Counters are created under an unused name. A bucket of records has no counters
//!   (`counters_and_records_use_separate_buckets`).
//! * An increment returns the new total. Every concurrent increment is counted (`increment_returns_the_new_total`,
//!   `concurrent_increments_count_once`).
//! * A counter does not wrap at the limits of `i64` (`counter_exceeds_64_bits`).
//! * A read sees every acknowledged increment, and returns `None` for a counter without an increment
//!   (`counter_read_sees_every_increment`).
//! * A scan returns each counter that matches its pattern once (`scan_yields_each_counter_once`).
//! * A removed counter restarts at zero (`removed_counter_restarts_at_zero`).
//!
//! Connection:
//! * A ping returns the time of a round trip. It fails with `Timeout` if its deadline has passed
//!   (`ping_measures_a_round_trip`).
//! * The state of the connection is known without I/O, and a working backend is connected
//!   (`working_backend_is_connected`).
//!
//! A scan is as fresh as a read of [`Read::Any`]. Every method ends at its deadline, or at most a moment later. If the
//! future of a write is dropped, the write may or may not be applied. A dropped read leaves nothing behind.

// The interface, and the modules that implement it. Each module imports only from modules above it.
//
// | file | content |
// |---|---|
// | `deadline`, `backoff` | time limits and pauses |
// | `concurrent`, `detached` | many futures in one task; work that outlives its caller |
// | `delivered` | the keys that the sessions of one watch delivered |
// | `headers` | the headers of a record |
// | `key_space` | the key spaces of a bucket, and a listing of keys, as data |
// | `write`, `batch` | writes, as data |
// | `entry`, `scan`, `watch` | entries, scans and watch sessions, as data |
// | `connection_state` | the state of the connection to a server |
// | `account` | the usage and the limits of an account |
// | `status` | the capabilities of a backend, and the status of a bucket |
// | `counters` | the interface of counters |
// | `state` | the state machine of the embedded backend |
// | `local` | the interface over the state machine |
// | `memory`, `file`, `nats` | the backends, which do not import each other |
mod deadline;
mod backoff;
mod concurrent;
mod detached;
mod delivered;
mod headers;
mod key_space;
mod write;
mod batch;
mod entry;
mod scan;
mod watch;
mod connection_state;
mod account;
mod status;
mod counters;
mod state;
mod local;
pub mod memory;
#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "nats")]
pub mod nats;

pub use self::account::{AccountUsage, Usage};
pub use self::backoff::Backoff;
pub use self::batch::Batch;
pub(crate) use self::concurrent::next_output;
pub use self::connection_state::{ConnectionState, ServerInfo};
pub use self::counters::RawCounters;
pub use self::deadline::Deadline;
pub use self::delivered::Delivered;
pub(crate) use self::detached::{OnDrop, detached, run_in_background};
pub use self::entry::{Operation, RawEntry};
pub use self::headers::RecordHeaders;
pub use self::key_space::{KeySpace, ListKeysRequest};
pub use self::scan::{ScanItem, ScanRequest};
pub use self::status::{BucketIdentity, BucketStatus, Capabilities, ClockReading};
pub use self::watch::{StartFrom, WatchRequest, WatchSignal, WatchStarted};
pub use self::write::{OperationId, Precondition, Write, WriteKind};

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::watch::Receiver;
use tokio::time::Instant;

use crate::config::BucketConfig;
use crate::error::{Error, Result};
use crate::key::{Key, Pattern};
use crate::revision::Revision;

/// A storage system with buckets. The [contract](self#contract) defines each method.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Returns the capabilities of this backend. A server is asked once, and again after each loss of the connection,
    /// because another server may answer then.
    fn capabilities(&self, deadline: Deadline) -> BoxFuture<'_, Result<Capabilities>>;

    /// Returns the name that the program gave its connection, if any, for the default owner of leases.
    fn connection_name(&self) -> Option<&str> {
        None
    }

    /// Returns the JetStream domain, if the program chose one, for the spans of operations.
    fn domain(&self) -> Option<&str> {
        None
    }

    /// Creates a bucket. Unset settings get their defaults.
    fn create(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>>;

    /// Opens a bucket. Returns `None` if it does not exist.
    fn open<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<Option<Arc<dyn RawBucket>>>>;

    /// Changes the settings that `config` sets in the bucket of that name, and no others.
    fn update(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>>;

    /// Deletes a bucket with its contents. Returns whether it existed.
    fn delete<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<bool>>;

    /// Opens the counters of this name, and creates them if the name is unused. Unset settings get their defaults.
    /// Returns `None` if the backend does not support counters, or if a bucket of records has that name.
    fn counters(&self, config: BucketConfig, deadline: Deadline)
    -> BoxFuture<'_, Result<Option<Arc<dyn RawCounters>>>>;

    /// Returns the names of all buckets, in order.
    fn names(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<String>>>;

    /// Measures a round trip to the server. The default implementation is for a backend in this process: it requests
    /// the capabilities.
    fn ping(&self, deadline: Deadline) -> BoxFuture<'_, Result<Duration>> {
        Box::pin(async move {
            let started = Instant::now();
            self.capabilities(deadline).await?;
            Ok(started.elapsed())
        })
    }

    /// Returns the state of the connection and its changes. Performs no I/O. The default implementation is for a
    /// backend without a connection. A wrapper of a backend must forward the call.
    fn connection(&self) -> Receiver<ConnectionState> {
        ConnectionState::permanent()
    }

    /// Returns the usage and the limits of the account: one item, or one for each tier. The default implementation is
    /// for a backend without accounts, and returns no item. A wrapper of a backend must forward the call.
    fn account(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<AccountUsage>>> {
        let _ = deadline;
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Copies everything into a new file, while writers continue. Only the backend of a file supports this.
    fn backup(&self, path: PathBuf) -> BoxFuture<'_, Result<()>> {
        let _ = path;
        let found = "a backend without a file";
        Box::pin(async move { Err(Error::unsupported("a store in a file (`file:`), for a backup", found)) })
    }

    /// Sends the pending messages and closes everything that this backend opened, including its own connection.
    fn close(&self) -> BoxFuture<'_, Result<()>>;
}

/// One bucket. The [contract](self#contract) defines each method.
pub trait RawBucket: fmt::Debug + Send + Sync + 'static {
    /// Returns the complete configuration as it was when the bucket was opened.
    fn config(&self) -> &BucketConfig;

    /// Returns the identity of the bucket and the epoch of the connection. Performs no I/O.
    fn identity(&self) -> BucketIdentity;

    /// Returns a reading of the clock that dates entries, from when the bucket was opened or later. Performs no I/O.
    /// `None` if the backend has none, and the local clock is used in its place.
    fn clock(&self) -> Option<ClockReading> {
        None
    }

    /// Returns the current status.
    fn status(&self, deadline: Deadline) -> BoxFuture<'_, Result<BucketStatus>>;

    /// Works like [`status`](Self::status), but `values` may count index entries too. Counting the records alone can take
    /// another request.
    fn uncounted_status(&self, deadline: Deadline) -> BoxFuture<'_, Result<BucketStatus>> {
        self.status(deadline)
    }

    /// Writes one entry and returns its revision.
    fn write(&self, write: Write, deadline: Deadline) -> BoxFuture<'_, Result<Revision>>;

    /// Writes all entries of a batch or none. Returns the revisions of the writes, in their order.
    fn commit(&self, batch: Batch, deadline: Deadline) -> BoxFuture<'_, Result<Vec<Revision>>>;

    /// Removes the entries of a key up to a revision, without a marker. Returns their number.
    fn purge_through<'a>(
        &'a self,
        space: KeySpace,
        key: &'a Key,
        through: Revision,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<u64>>;

    /// Reads one entry of a key.
    fn read<'a>(
        &'a self,
        space: KeySpace,
        key: &'a Key,
        at: ReadAt,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<RawEntry>>>;

    /// Reads the newest entry of each key. Returns one result per key, in the order of the keys.
    fn read_many<'a>(
        &'a self,
        space: KeySpace,
        keys: &'a [Key],
        read: Read,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Vec<Option<RawEntry>>>>;

    /// Returns the keys that match, in pages, at the leader. Reads no values.
    fn list_keys(&self, list: ListKeysRequest) -> BoxStream<'static, Result<Vec<Key>>>;

    /// Returns the number of keys that match, at the leader. Too high if the backend cannot filter by the pattern. The
    /// default implementation lists the keys.
    fn count_keys<'a>(
        &'a self,
        space: KeySpace,
        pattern: &'a Pattern,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<u64>> {
        let idle_timeout = deadline.remaining();
        let pages = self.list_keys(ListKeysRequest { space, pattern: pattern.clone(), idle_timeout });
        let count = pages.try_fold(0, async |count, page| Ok(count + page.len() as u64));
        Box::pin(async move { deadline.timeout(count).await? })
    }

    /// Reads the entries of all matching keys, about as fresh as [`Read::Any`].
    ///
    /// An entry with an invalid key yields an error in its position, and the scan continues. An error without a key
    /// ends the scan.
    fn scan(&self, scan: ScanRequest) -> BoxStream<'static, Result<ScanItem>>;

    /// Returns the existing entries and then the changes of one watch session. The session starts at the first poll.
    ///
    /// Errors follow the rules of [`scan`](Self::scan).
    fn watch(&self, watch: WatchRequest) -> BoxStream<'static, Result<WatchSignal>>;
}

/// Selects the entry of a key to read, and its consistency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadAt {
    /// The newest entry.
    Newest(Read),
    /// The entry with this revision.
    Revision(Revision),
}

/// The consistency of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Read {
    /// The nearest server answers. In a replicated bucket, the read may miss a write that was just acknowledged, and
    /// may return older data than the read before.
    #[default]
    Any,
    /// The leader of the bucket answers, and sees every acknowledged write. The read is not linearizable: a leader that
    /// was cut off may answer for some seconds more.
    Leader,
    /// Any server that has at least this revision answers, for example the revision that your write returned. A server
    /// whose newest record of the key is older may be behind, so the leader is asked next. In a replicated bucket, the
    /// leader must also have the revision itself. A leader that was cut off does not have it, and is asked again until
    /// a new leader is elected. The read fails with `Timeout` if no server has the revision in time.
    AtLeast(Revision),
}
