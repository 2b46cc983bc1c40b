//! The part of the suite for mutation tests of the compare-and-set loop.
// The included tests do not use everything in the shared modules.
#![allow(dead_code, unused_imports, unused_macros)]

mod modify;
mod needs;
mod simulation;
mod support;
mod transactions;
