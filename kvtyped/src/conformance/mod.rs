//! The [contract of backends](crate::backend#contract) as a test suite.
//!
//! Each rule of the contract names its function here, in the module of its section. For your own backend,
//! [`conformance_tests!`](crate::conformance_tests) creates a test per function. To run all of them in one test:
//!
//! ```
//! use std::sync::Arc;
//! use kvtyped::backend::memory::MemoryBackend;
//! use kvtyped::conformance::{self, BackendUnderTest};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let subject = BackendUnderTest::new(Arc::new(MemoryBackend::new()));
//! conformance::run_all(&subject).await;
//! # }
//! ```
//!
//! The suite creates buckets with unique names and removes them. It takes up to half a minute with a real clock,
//! because it waits for entries to expire.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "a test suite asserts")]

mod subject;
pub mod writing;
pub mod batching;
pub mod expiry;
pub mod reading;
mod watch_probe;
pub mod watching;
pub mod buckets;
pub mod epochs;
pub mod index_entries;
pub mod counters;
pub mod connection;

use std::panic::{AssertUnwindSafe, resume_unwind};

use futures::FutureExt;
use futures::future::LocalBoxFuture;

pub use self::subject::BackendUnderTest;
pub use crate::jitter::seed;

type ContractTest = (&'static str, for<'a> fn(&'a BackendUnderTest) -> LocalBoxFuture<'a, ()>);

/// Passes every rule to the macro `$then` after `$first`. The only list of the rules.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_rules {
    ([$($then:tt)+] $($first:tt)*) => {
        $($then)+! {
            $($first)*
            writing::revisions_increase_across_the_bucket
            writing::unconditional_write_always_succeeds
            writing::precondition_accepts_only_newest_revision
            writing::zero_precondition_needs_key_without_entry
            writing::precondition_may_name_another_key
            writing::refused_write_changes_nothing
            writing::exactly_one_writer_wins_each_revision
            writing::delete_leaves_marker_and_keeps_history
            writing::purge_leaves_marker_and_drops_history
            writing::history_is_bounded
            writing::entry_carries_its_operation_id
            writing::entry_keeps_record_headers
            writing::empty_value_is_a_live_record
            writing::oversized_value_is_refused
            writing::full_bucket_refuses_writes
            writing::erase_keeps_later_entries
            batching::batch_applies_every_write_in_order
            batching::batch_keeps_record_headers
            batching::batch_checks_preconditions_atomically
            batching::refused_batch_changes_nothing
            batching::watch_yields_batch_contiguously
            batching::single_message_batch_is_a_plain_write
            batching::invalid_batch_is_refused
            batching::batch_needs_an_atomic_bucket
            expiry::ttl_expires_entry_and_leaves_marker
            expiry::entry_carries_its_ttl
            expiry::purge_marker_with_ttl_expires_silently
            expiry::later_write_without_ttl_does_not_expire
            expiry::bucket_ttl_removes_values
            expiry::ttl_in_history_is_at_least_that_of_markers
            expiry::ttl_needs_limit_markers
            reading::read_returns_newest_entry
            reading::read_at_revision_ignores_other_keys
            reading::leader_read_sees_acknowledged_writes
            reading::read_many_matches_single_reads
            reading::read_many_has_no_size_limit
            reading::leader_read_many_sees_acknowledged_writes
            reading::scan_yields_each_key_once
            reading::scan_misses_no_key_during_writes
            reading::scan_after_revision_yields_later_entries
            reading::scan_reports_pending_count
            reading::dropped_scan_leaves_no_consumer
            reading::scan_without_matches_ends
            reading::scan_of_history_yields_every_entry
            reading::scan_yields_only_matching_entries
            reading::scan_of_headers_omits_values
            reading::header_scan_returns_record_headers
            reading::scan_of_many_keys_is_complete
            watching::watch_yields_entries_then_ready_then_changes
            watching::watch_without_matches_is_ready_at_once
            watching::watch_of_history_yields_every_entry
            watching::watch_from_now_yields_only_later_writes
            watching::watch_after_revision_yields_later_entries
            watching::watch_after_revision_reports_gaps
            watching::watch_reports_every_kind_of_removal
            watching::attached_watch_yields_every_change
            watching::watch_yields_only_matching_entries
            watching::watch_of_headers_omits_values
            watching::idle_watch_sends_heartbeats
            watching::watch_of_deleted_bucket_ends
            watching::unread_watch_catches_up_or_ends
            watching::dropped_watch_leaves_no_consumer
            buckets::create_of_existing_bucket_is_refused
            buckets::missing_bucket_is_not_found
            buckets::deleted_bucket_is_gone
            buckets::handle_keeps_identity_of_its_bucket
            buckets::invalid_setting_is_refused
            buckets::handle_returns_complete_configuration
            buckets::update_keeps_unset_settings
            buckets::names_list_every_bucket
            buckets::clock_dates_entries
            buckets::status_counts_current_entries
            buckets::purge_needs_rollups
            epochs::new_bucket_has_first_epoch
            epochs::write_of_other_epoch_is_refused
            epochs::write_without_epoch_needs_open_bucket
            epochs::update_switches_epoch_and_metadata
            epochs::epoch_never_decreases
            epochs::existing_bucket_gets_write_epochs
            epochs::verbs_work_in_epochs
            epochs::batch_has_one_epoch
            index_entries::key_spaces_are_independent
            index_entries::index_entries_are_no_records
            index_entries::watch_resumes_across_index_entries
            index_entries::index_entry_has_no_history
            index_entries::index_entry_outlives_the_ttl
            index_entries::index_entry_is_a_plain_value
            index_entries::precondition_may_name_another_space
            index_entries::batch_writes_both_spaces
            index_entries::erased_index_entry_leaves_nothing
            index_entries::listing_returns_keys_in_order
            index_entries::listing_survives_changes
            index_entries::count_matches_the_listing
            index_entries::index_entries_need_the_setting
            index_entries::ttl_of_bucket_with_index_needs_limit_markers
            counters::counters_and_records_use_separate_buckets
            counters::increment_returns_the_new_total
            counters::concurrent_increments_count_once
            counters::counter_exceeds_64_bits
            counters::counter_read_sees_every_increment
            counters::scan_yields_each_counter_once
            counters::removed_counter_restarts_at_zero
            connection::ping_measures_a_round_trip
            connection::working_backend_is_connected
        }
    };
}

macro_rules! rules {
    ($($module:ident::$rule:ident)*) => {
        &[$((stringify!($rule), |subject| Box::pin($module::$rule(subject)))),*]
    };
}

static RULES: &[ContractTest] = __conformance_rules!([rules]);

/// Returns the names of all rules, in the order of the contract.
pub fn names() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|(name, _)| *name)
}

/// Tests one rule, and removes the buckets that the rule created, even if it fails.
///
/// # Panics
///
/// Panics if the backend violates the rule, or if no rule has this name.
pub async fn run(subject: &BackendUnderTest, name: &str) {
    let (name, rule) =
        RULES.iter().find(|(other, _)| *other == name).unwrap_or_else(|| panic!("no rule has the name `{name}`"));
    let subject = subject.fresh();
    let result = AssertUnwindSafe(rule(&subject)).catch_unwind().await;
    subject.clean().await;
    if let Err(payload) = result {
        let message = payload.downcast_ref::<String>().cloned();
        match message.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned())) {
            Some(message) => panic!("{subject:?} violates the rule `{name}`: {message}"),
            None => resume_unwind(payload),
        }
    }
}

/// Tests every rule in turn.
///
/// # Panics
///
/// Panics at the first rule that the backend violates.
pub async fn run_all(subject: &BackendUnderTest) {
    for name in names() {
        run(subject, name).await;
    }
}

/// Creates a `#[tokio::test]` with the name of the rule for every rule of the [contract](crate::backend#contract).
///
/// Takes an expression of the type [`BackendUnderTest`](crate::conformance::BackendUnderTest) or `Arc<dyn Backend>`. The expression may
/// use `.await`, and each test evaluates it. The calling crate needs tokio with `macros` and `rt-multi-thread`.
///
/// ```
/// mod memory {
///     use std::sync::Arc;
///     use kvtyped::backend::{Backend, memory::MemoryBackend};
///
///     kvtyped::conformance_tests!(Arc::new(MemoryBackend::new()) as Arc<dyn Backend>);
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! conformance_tests {
    ($subject:expr $(,)?) => {
        $crate::__conformance_rules!([$crate::__conformance_tests][$subject]);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ([$subject:expr] $($module:ident::$rule:ident)*) => {
        $(
            #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                let subject = ::core::convert::Into::<$crate::conformance::BackendUnderTest>::into($subject);
                $crate::conformance::run(&subject, ::core::stringify!($rule)).await;
            }
        )*
    };
}
