//! The part of the suite for mutation tests of leases.
// The included tests do not use everything in the shared modules.
#![allow(dead_code, unused_imports, unused_macros)]

mod election;
mod group;
mod locks;
mod needs;
mod once;
mod rate_limiter;
mod semaphore;
mod simulation;
mod support;
mod lease_terms;
