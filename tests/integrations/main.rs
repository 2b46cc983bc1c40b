//! Tests of the integrations, in memory and on real servers.

mod axum_responses;
mod rate_limit;
mod secrets;
mod session_routes;
mod sessions;
mod support;
