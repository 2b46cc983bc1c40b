//! JSON: values or errors, all of the bytes or none.

use kvtyped::codec::Json;
use serde_json::Value;

use super::codecs::{each_type, reads};

/// Tries bytes.
///
/// # Panics
///
/// If a property does not hold.
pub fn check(bytes: &[u8]) {
    // A part of a number is a number.
    each_type!(Json, bytes, b"\0", false);
    reads::<Json, Value>(bytes, b"\0", false);
}
