//! The part of the suite for the file backend.
// The included tests do not use everything in the shared modules.
#![allow(dead_code, unused_imports, unused_macros)]

mod file;
mod needs;
mod support;
