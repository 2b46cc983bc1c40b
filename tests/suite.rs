//! All tests that see the public API alone, as one binary: one link, one shared server, all cores.

mod buckets;
mod layering;
mod modify;
mod support;
mod verbs;
