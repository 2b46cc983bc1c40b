//! MessagePack: values or errors, all of the bytes or none.

use kvtyped::codec::MsgPack;

use super::codecs::each_type;

/// Tries bytes.
///
/// # Panics
///
/// If a property does not hold.
pub fn check(bytes: &[u8]) {
    each_type!(MsgPack, bytes, b"\xc0", true);
}
