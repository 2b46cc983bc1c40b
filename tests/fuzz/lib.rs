//! What is fuzzed, as a library that the targets share.

// The derive's files name it so.
#[path = "../../kvtyped-derive/src/ctxt.rs"]
mod ctxt;
pub mod properties;
