//! JSON: decoding returns a value or an error, and consumes all bytes.

use kvtyped::codec::Json;
use serde_json::Value;

use super::codecs::{each_type, reads};

/// Checks arbitrary bytes.
///
/// # Panics
///
/// Panics if a property does not hold.
pub fn check(bytes: &[u8]) {
    // A prefix of a number is also a number.
    each_type!(Json, bytes, b"\0", false);
    reads::<Json, Value>(bytes, b"\0", false);
}
