//! The tests of the integrations are in `main.rs`.
