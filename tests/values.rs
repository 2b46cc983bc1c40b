//! The part of the suite that mutation tests of `key` and `codec` run.

mod codecs;
mod keys;
#[allow(dead_code, reason = "the tests of hostile input need more of it")]
mod shapes;
