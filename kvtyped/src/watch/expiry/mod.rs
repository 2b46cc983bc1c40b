//! Expiry of records in buckets whose server writes no markers: buckets with `max_bytes`, servers before 2.11, and
//! streams of other clients.

mod tracker;

mod stream;

pub(super) use self::stream::expire;
