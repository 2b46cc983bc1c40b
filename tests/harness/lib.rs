//! Starts real NATS servers for the tests.
