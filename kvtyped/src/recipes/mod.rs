//! Coordination: what several processes agree on by a bucket.

#![allow(dead_code, unused_macros, unused_imports, reason = "its users come next")]

mod place;
mod slot;
