//! The part of the suite for mutation tests of `key` and `codec`.

mod codecs;
mod keys;
mod schemas;
#[allow(dead_code, reason = "the tests of hostile input need more of it")]
mod shapes;
