//! Buckets in JetStream.
