//! Strangers' bytes: none makes a reader panic, overflow the stack, or take more memory than they are worth. And
//! what strangers leave in a bucket disturbs nothing beside it.
//!
//! A binary of its own, since it counts what is allocated; and it is to be run in release as well.

mod bombs;
mod client;
mod corpus;
mod foreign;
mod memory;

// What the fuzz targets assert; the derive's files name `ctxt` so.
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
