//! All tests that see the public API alone, as one binary: one link, one shared server, all cores.

mod buckets;
mod bulk;
mod cache;
mod codecs;
mod conformance;
mod counters;
mod election;
mod golden;
mod group;
mod holders;
mod ids;
mod interop;
mod keys;
mod layering;
mod lists;
mod locks;
mod many;
mod model;
mod modify;
mod nats;
mod needs;
mod once;
mod promises;
mod rate;
mod recovery;
mod semaphore;
#[allow(dead_code, reason = "the tests of hostile input need more of it")]
mod shapes;
mod simulation;
mod support;
mod transactions;
mod verbs;
mod versions;
mod watch;
