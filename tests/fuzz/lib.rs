//! What is fuzzed, as a library that the targets share.

// The derive's files name it so.
#[path = "../../kvtyped-derive/src/ctxt.rs"]
#[allow(dead_code, reason = "the derive reports more")]
mod ctxt;
pub mod properties;
