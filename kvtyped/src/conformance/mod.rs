//! The [contract of backends](crate::backend#contract) as a test suite.
//!
//! Every rule of the contract is a function of the same name here, in the module of its section. For your own backend,
//! [`conformance_tests!`](crate::conformance_tests) creates a test per rule. To run all rules in one test:
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

pub mod batching;
pub mod buckets;
pub mod counters;
pub mod expiry;
pub mod reading;
mod watch_probe;
mod subject;
pub mod watching;
pub mod writing;

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
            writing::revisions_grow_over_the_whole_bucket
            writing::a_write_without_a_guard_always_lands
            writing::a_guard_lets_exactly_its_revision_pass
            writing::a_guard_of_zero_needs_a_key_without_any_entry
            writing::a_guard_may_stand_on_another_key
            writing::a_refused_write_changes_nothing
            writing::one_of_many_writers_wins_each_revision
            writing::a_delete_leaves_a_marker_and_keeps_history
            writing::a_purge_leaves_a_marker_and_drops_history
            writing::history_is_bounded
            writing::an_entry_carries_its_operation_id
            writing::an_empty_value_is_a_value
            writing::a_value_over_the_limit_is_refused
            writing::a_full_bucket_refuses_writes
            writing::an_erasure_takes_nothing_that_is_later
            batching::a_batch_is_applied_as_a_whole
            batching::a_batch_holds_every_guard_at_one_moment
            batching::a_refused_batch_changes_nothing
            batching::a_watcher_sees_a_batch_contiguous
            batching::a_batch_of_one_message_is_a_write
            batching::a_batch_that_makes_no_sense_is_refused
            batching::a_batch_needs_a_bucket_that_takes_it
            expiry::a_ttl_removes_the_value_and_leaves_a_marker
            expiry::an_entry_carries_its_ttl
            expiry::a_purge_marker_with_a_ttl_goes_in_silence
            expiry::a_later_write_without_a_ttl_stays
            expiry::the_bucket_ttl_removes_values
            expiry::a_ttl_needs_limit_markers
            reading::a_read_finds_the_newest_entry
            reading::a_read_at_a_revision_finds_only_the_keys_own
            reading::a_leader_read_sees_every_acknowledged_write
            reading::a_read_of_many_gives_what_single_reads_give
            reading::a_read_of_many_has_no_largest_number
            reading::a_leader_read_of_many_sees_every_acknowledged_write
            reading::a_scan_gives_each_key_once
            reading::a_scan_misses_nothing_that_is_written_meanwhile
            reading::a_scan_after_a_revision_gives_what_is_later
            reading::a_scan_tells_how_many_are_behind
            reading::a_dropped_scan_leaves_nothing
            reading::a_scan_of_nothing_ends
            reading::a_scan_of_history_gives_every_entry
            reading::a_scan_keeps_to_its_patterns
            reading::a_scan_of_headers_leaves_the_values_out
            reading::a_scan_of_many_keys_gives_them_all
            watching::a_watch_tells_what_is_there_then_ready_then_news
            watching::a_watch_of_nothing_is_ready_at_once
            watching::a_watch_of_history_tells_every_entry
            watching::a_watch_since_now_tells_nothing_old
            watching::a_watch_after_a_revision_tells_what_came_later
            watching::a_watch_after_a_revision_tells_whether_something_is_missing
            watching::a_watch_tells_every_kind_of_removal
            watching::an_attached_watch_tells_every_change
            watching::a_watch_keeps_to_its_patterns
            watching::a_watch_of_headers_leaves_the_values_out
            watching::a_watch_tells_that_it_is_alive
            watching::a_watch_ends_with_its_bucket
            watching::a_watch_that_is_not_read_costs_little
            watching::a_dropped_watch_leaves_nothing
            buckets::a_bucket_is_created_once
            buckets::a_missing_bucket_is_none
            buckets::a_deleted_bucket_is_gone
            buckets::a_handle_tells_that_its_bucket_may_be_another
            buckets::a_wrong_setting_is_refused
            buckets::a_bucket_tells_its_configuration
            buckets::an_update_keeps_what_it_does_not_say
            buckets::names_list_every_bucket
            buckets::the_status_is_fresh
            buckets::a_purge_needs_rollups
            counters::counters_and_records_have_buckets_of_their_own
            counters::an_addition_tells_the_new_total
            counters::every_addition_is_counted_once
            counters::a_counter_goes_beyond_64_bits
            counters::a_counter_tells_what_was_added
            counters::a_scan_gives_each_counter_once
            counters::a_removed_counter_begins_anew
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
