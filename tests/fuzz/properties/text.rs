//! Plain text and plain bytes.

use std::net::IpAddr;

use kvtyped::codec::{Bytes, Codec, Text};

use super::codecs::reads;

/// Checks arbitrary bytes.
///
/// # Panics
///
/// Panics if a property does not hold.
pub fn check(bytes: &[u8]) {
    reads::<Text, bool>(bytes, b"\0", true);
    reads::<Text, char>(bytes, b"\0", false);
    reads::<Text, u64>(bytes, b"\0", false);
    reads::<Text, i8>(bytes, b"\0", false);
    reads::<Text, f64>(bytes, b"\0", false);
    reads::<Text, IpAddr>(bytes, b"\0", false);
    reads::<Text, String>(bytes, b"\xff", false);
    let read: Vec<u8> = Bytes::decode(bytes).expect("all bytes are bytes");
    assert_eq!(read, bytes);
    assert_eq!(Bytes::encode(&read).expect("all bytes are bytes"), bytes);
    let read: bytes::Bytes = Bytes::decode(bytes).expect("all bytes are bytes");
    assert_eq!(read, bytes);
    assert_eq!(<Text as Codec<String>>::decode(bytes).is_ok(), std::str::from_utf8(bytes).is_ok());
}
