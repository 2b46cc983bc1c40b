//! Properties that hold for arbitrary bytes. libFuzzer searches for counterexamples. The tests of the workspace replay
//! the inputs in `../corpus/`.
//!
//! Each property is a file with a function `check`, which panics if the property does not hold.

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

/// Splits bytes into `N` texts at the byte 0xff, which never occurs in UTF-8.
fn texts<const N: usize>(bytes: &[u8]) -> [String; N] {
    let mut parts = bytes.splitn(N, |byte| *byte == 0xff);
    std::array::from_fn(|_| String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned())
}
