//! A tower layer that limits requests across all processes.
//!
//! ```
//! # use kvtyped::prelude::*;
//! use kvtyped::integrations::rate_limit::{OnError, RateLimitLayer, key};
//! use kvtyped::recipes::Quota;
//!
//! const API_KEY: http::HeaderName = http::HeaderName::from_static("x-api-key");
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), kvtyped::Error> {
//! # let store = Store::memory();
//! let limiter = store.rate_limiter("api", Quota::per_minute(60).burst(10)).max_bytes(16 << 20).await?;
//! let layer = RateLimitLayer::new(limiter, key::header(API_KEY), OnError::FailOpen);
//! // let app = Router::new().route("/api/orders", get(orders)).layer(layer);
//! # let _ = layer;
//! # Ok(())
//! # }
//! ```
//!
//! A request over the quota gets the status 429 with `Retry-After` in whole seconds, rounded up.
//!
//! * The layer waits at most 100 ms for the limiter ([`RateLimitLayer::timeout`]). Await the limiter when the program
//!   starts, as above: the first use opens its bucket, which takes longer.
//! * An allowed request costs a read and a write of the limiter. A denied key is remembered until its next request can
//!   be allowed, so further denied requests cause no request to the server.
//! * A client that invents keys creates a record for each. Set [`max_bytes`](kvtyped::recipes::RateLimiter::max_bytes)
//!   of the limiter. A full bucket is an error of the limiter, so [`OnError`] decides.
//! * Route health checks and `OPTIONS` around the layer. Put the layer inside of a CORS layer: without CORS headers, a
//!   browser reports an opaque error in place of the status 429.

pub mod key;
mod denials;
mod layer;

pub use self::layer::{OnError, RateLimit, RateLimitLayer, ResponseFuture};
