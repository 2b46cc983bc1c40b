//! The part of the suite that mutation tests of `key` and `codec` run.

mod codecs;
mod keys;
