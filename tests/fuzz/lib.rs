//! The fuzzed properties, as a library that all targets share.

// The files of the derive refer to this module by this name.
#[path = "../../kvtyped-derive/src/ctxt.rs"]
#[allow(dead_code, reason = "the derive reports more")]
mod ctxt;
pub mod properties;
