//! Integrations with other crates, each behind a feature.
//!
//! The name of a feature contains the version of a crate before 1.0, because each of its minor releases is incompatible
//! with the previous one. A later version of this crate adds a feature for the next version.
//!
//! | feature | module | what |
//! |---|---|---|
//! | `tower-sessions-0_15` | `tower_sessions_0_15` | a session store for `tower-sessions` |
//! | `tower` | `rate_limit` | a layer that limits requests across processes |
//! | `axum-0_8` | `axum_0_8` | errors as responses, revisions as `ETag`, `If-Match` as a precondition |
//! | `secrecy-0_10` | `secrecy_0_10` | secret strings in records and credentials |
//!
//! The package `kvtyped-web-service` in the folder `examples/web_service` of the repository uses the first three
//! together.

// Each file imports the public API of this crate only, by paths that begin with `kvtyped::`, and modules above itself.
#[cfg(any(feature = "tower-sessions-0_15", feature = "tower"))]
mod digest;
#[cfg(feature = "tower-sessions-0_15")]
pub mod tower_sessions_0_15;
#[cfg(feature = "tower")]
pub mod rate_limit;
#[cfg(feature = "axum-0_8")]
pub mod axum_0_8;
#[cfg(feature = "secrecy-0_10")]
pub mod secrecy_0_10;
