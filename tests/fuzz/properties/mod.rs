//! What holds for any bytes whatever. `libFuzzer` looks for bytes for which it does not; the tests of the workspace try
//! those that it found worth keeping, `../corpus/`.
//!
//! Each property is a file with a function `check`, which panics where the property does not hold.

pub mod codecs;
pub mod filter;
pub mod json;
pub mod key;
pub mod msgpack;
pub mod stored;
pub mod template;
pub mod text;
pub mod units;
pub mod url;

/// So many texts out of bytes: a byte that no UTF-8 has ends each but the last.
fn texts<const N: usize>(bytes: &[u8]) -> [String; N] {
    let mut parts = bytes.splitn(N, |byte| *byte == 0xff);
    std::array::from_fn(|_| String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned())
}
