//! The part of the suite that mutation tests of leases run.
// Not all of it uses all that the suite shares.
#![allow(dead_code, unused_imports, unused_macros)]

mod election;
mod group;
mod locks;
mod needs;
mod once;
mod rate;
mod semaphore;
mod simulation;
mod support;
mod tenures;
