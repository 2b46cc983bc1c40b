//! MessagePack: decoding returns a value or an error, and consumes all bytes.

use kvtyped::codec::MsgPack;

use super::codecs::each_type;

/// Checks arbitrary bytes.
///
/// # Panics
///
/// Panics if a property does not hold.
pub fn check(bytes: &[u8]) {
    each_type!(MsgPack, bytes, b"\xc0", true);
}
