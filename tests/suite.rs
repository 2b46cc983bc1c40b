//! All tests that see the public API alone, as one binary: one link, one shared server, all cores.

mod buckets;
mod bulk;
mod cache;
mod codecs;
mod conformance;
mod counters;
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
mod promises;
mod rate;
mod recovery;
mod support;
mod transactions;
mod verbs;
mod watch;
