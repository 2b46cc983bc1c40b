//! Hostile input: no input makes a reader panic, overflow the stack, or allocate more memory than its size justifies.
//! Foreign messages in a bucket do not affect other records.
//!
//! A separate binary, because it counts allocations. Run it in release mode as well.

mod deep_nesting;
mod client;
mod corpus;
mod foreign;
mod memory;
mod unknown_fields;

// The properties of the fuzz targets. The files of the derive that they include refer to this module as `ctxt`.
#[path = "../../kvtyped-derive/src/ctxt.rs"]
#[allow(dead_code, reason = "the derive reports more")]
mod ctxt;
#[path = "../fuzz/properties/mod.rs"]
#[allow(unreachable_pub, reason = "the fuzz targets call it")]
mod properties;
#[path = "../shapes.rs"]
mod shapes;
#[path = "../support.rs"]
#[allow(dead_code, unused_imports, unused_macros, reason = "the suite needs more of it")]
mod support;
