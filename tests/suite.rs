//! All tests that see the public API alone, as one binary: one link, one shared server, all cores.

mod buckets;
mod cache;
mod codecs;
mod conformance;
mod election;
mod group;
mod holders;
mod interop;
mod keys;
mod layering;
mod lists;
mod locks;
mod many;
mod model;
mod modify;
mod nats;
mod once;
mod promises;
mod recovery;
mod semaphore;
mod support;
mod transactions;
mod verbs;
mod watch;
