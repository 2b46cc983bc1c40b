//! The part of the suite that mutation tests of the compare-and-set loop run.
// Not all of it uses all that the suite shares.
#![allow(dead_code, unused_imports, unused_macros)]

mod modify;
mod needs;
mod simulation;
mod support;
mod transactions;
