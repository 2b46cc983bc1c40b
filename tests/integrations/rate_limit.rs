//! The rate limit layer: one quota over processes, outages, and keys that clients forge.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::http::request::Parts;
use axum::http::{HeaderName, Request, Response, StatusCode};
use harness::{Mode, Proxy, Server};
use kvtyped::integrations::rate_limit::{OnError, RateLimitLayer, key};
use kvtyped::observe::{Observer, OperationReport};
use kvtyped::prelude::*;
use kvtyped::recipes::{Quota, RateLimiter};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{SECOND, World, is_supported, on_both_backends, unique};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A burst of five, and one more each minute: the test does not outlast the quota.
const QUOTA: Quota = Quota::new(1, Duration::from_secs(60)).burst(5);

async fn limiter(store: &Store, name: &str) -> RateLimiter {
    store.rate_limiter(name, QUOTA).await.expect("the bucket opens")
}

fn by_api_key(limiter: RateLimiter) -> RateLimitLayer {
    // Long enough for a slow machine; the default is tested on its own.
    RateLimitLayer::new(limiter, key::header(API_KEY), OnError::FailClosed).timeout(5 * SECOND)
}

/// Counts the checks of the limiter.
#[derive(Default)]
struct Checks(AtomicU64);

impl Observer for Checks {
    fn operation(&self, report: &OperationReport<'_>) {
        self.0.fetch_add(u64::from(report.operation == "check"), Ordering::Relaxed);
    }
}

/// Sends a request through the layer to a service that accepts all.
async fn send(layer: &RateLimitLayer, header: HeaderName, value: &str) -> Response<String> {
    let request = Request::builder().header(header, value).body(()).unwrap();
    let accept = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new("accepted".to_owned())) });
    layer.layer(accept).oneshot(request).await.unwrap()
}

/// Sends requests in turn through the layers, and returns the status of each.
async fn statuses(layers: &[&RateLimitLayer], requests: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for request in 0..requests {
        statuses.push(send(layers[request % layers.len()], API_KEY, "a").await.status().as_u16());
    }
    statuses
}

on_both_backends! {
    async fn two_processes_share_one_quota(world: World) {
        let name = unique("rate");
        let one = by_api_key(limiter(&world.store, &name).await);
        let two = by_api_key(limiter(&world.another().await, &name).await);
        assert_eq!(statuses(&[&one, &two], 8).await, [200, 200, 200, 200, 200, 429, 429, 429]);

        let denied = send(&one, API_KEY, "a").await;
        let seconds: u64 = denied.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((50..=62).contains(&seconds), "{seconds}");
        assert_eq!(denied.body(), "too many requests\n");
        assert_eq!(send(&one, API_KEY, "b").await.status(), StatusCode::OK, "each key has its own quota");
    }

    async fn denied_flood_needs_one_check_per_key(world: World) {
        let checks = Arc::<Checks>::default();
        let store = world.store.clone().with_observer(checks.clone());
        let layer = by_api_key(limiter(&store, &unique("rate")).await);
        for key in ["a", "b"] {
            for _ in 0..5 {
                assert_eq!(send(&layer, API_KEY, key).await.status(), StatusCode::OK);
            }
        }
        let before = checks.0.load(Ordering::Relaxed);
        for _ in 0..200 {
            for key in ["a", "b"] {
                assert_eq!(send(&layer, API_KEY, key).await.status(), StatusCode::TOO_MANY_REQUESTS);
            }
        }
        assert_eq!(checks.0.load(Ordering::Relaxed) - before, 2, "the first denial of each key");
    }

    async fn request_without_key_is_not_limited(world: World) {
        let layer = by_api_key(limiter(&world.store, &unique("rate")).await);
        for _ in 0..8 {
            assert_eq!(send(&layer, HeaderName::from_static("x-other"), "a").await.status(), StatusCode::OK);
        }
        assert_eq!(layer.unlimited(), 8);
    }

    async fn forged_forwarded_address_changes_nothing(world: World) {
        let layer = RateLimitLayer::new(limiter(&world.store, &unique("rate")).await, key::forwarded(1), OnError::FailClosed);
        let layer = layer.timeout(5 * SECOND);
        for request in 0..8 {
            let forged = format!("198.51.100.{request}, 192.0.2.1");
            let status = send(&layer, HeaderName::from_static("x-forwarded-for"), &forged).await.status();
            assert_eq!(status, if request < 5 { 200 } else { 429 }, "{request}");
        }
    }

    async fn draft_headers_count_down(world: World) {
        let layer = by_api_key(limiter(&world.store, &unique("rate")).await);
        assert!(!send(&layer, API_KEY, "other").await.headers().contains_key("ratelimit"), "they are off by default");
        let layer = layer.draft_headers(true);
        for remaining in (0..5).rev() {
            let response = send(&layer, API_KEY, "a").await;
            assert_eq!(response.headers()["ratelimit"], format!("\"default\";r={remaining}"));
            assert_eq!(response.headers()["ratelimit-policy"], "\"default\";q=1;w=60");
        }
        let denied = send(&layer, API_KEY, "a").await;
        let wait = denied.headers()["retry-after"].to_str().unwrap();
        assert_eq!(denied.headers()["ratelimit"], format!("\"default\";r=0;t={wait}"));
    }

    async fn denied_response_is_chosen(world: World) {
        let layer = by_api_key(limiter(&world.store, &unique("rate")).await).on_denied(|wait| {
            Response::builder().status(420).body(format!("calm down for {} s", wait.as_secs())).unwrap()
        });
        statuses(&[&layer], 5).await;
        let denied = send(&layer, API_KEY, "a").await;
        assert_eq!(denied.status(), 420);
        assert!(denied.body().starts_with("calm down for ") && denied.headers().contains_key("retry-after"));
    }

    async fn secret_and_long_keys_are_stored_as_digests(world: World) {
        let name = unique("rate");
        let layer = by_api_key(limiter(&world.store, &name).await);
        send(&layer, API_KEY, "s3cret-sentinel").await;
        let long = |_: &Parts| Some("s3cret-sentinel".repeat(100));
        let layer = RateLimitLayer::new(limiter(&world.store, &name).await, long, OnError::FailClosed).timeout(5 * SECOND);
        assert_eq!(statuses(&[&layer], 6).await, [200, 200, 200, 200, 200, 429]);
        let error = limiter(&world.store, &name).await.check_n(&"k".repeat(200), 99).await.unwrap_err();
        assert!(!error.to_string().contains("sentinel"), "{error}");
    }
}

#[tokio::test]
async fn quota_survives_server_restart() {
    if !is_supported().await {
        return;
    }
    let server = Server::start().await;
    let world = World::at(&server.url()).await;
    let before = by_api_key(limiter(&world.store, "rate").await);
    assert_eq!(statuses(&[&before], 4).await, [200, 200, 200, 200]);
    server.kill().await;
    server.restart().await;
    // A new layer, which remembers no denial.
    let world = World::at(&server.url()).await;
    let after = by_api_key(limiter(&world.store, "rate").await);
    assert_eq!(statuses(&[&after], 3).await, [200, 429, 429]);
}

#[tokio::test]
async fn failed_limiter_opens_or_closes() {
    if !is_supported().await {
        return;
    }
    let server = Server::start().await;
    let world = World::at(&server.url()).await;
    let limiter = limiter(&world.store, "rate").await;
    server.kill().await;
    let open = RateLimitLayer::new(limiter.clone(), key::header(API_KEY), OnError::FailOpen);
    assert_eq!(statuses(&[&open], 3).await, [200, 200, 200]);
    assert_eq!(open.unlimited(), 3);
    let closed = RateLimitLayer::new(limiter, key::header(API_KEY), OnError::FailClosed);
    let refused = send(&closed, API_KEY, "a").await;
    assert_eq!(
        (refused.status(), refused.headers()["retry-after"].to_str().unwrap()),
        (StatusCode::SERVICE_UNAVAILABLE, "1")
    );
}

/// A server that stalls delays a request by the timeout of the layer, 100 ms. A denied key needs no server.
#[tokio::test]
async fn stalled_server_delays_no_request_for_long() {
    if !is_supported().await {
        return;
    }
    let proxy = Proxy::start(harness::shared().await.addr()).await;
    let world = World::at(&proxy.url()).await;
    let limiter = limiter(&world.store, &unique("rate")).await;
    let layer = by_api_key(limiter.clone());
    assert_eq!(statuses(&[&layer], 6).await, [200, 200, 200, 200, 200, 429]);
    let quick = RateLimitLayer::new(limiter, key::header(API_KEY), OnError::FailOpen);

    proxy.set(Mode::Stall);
    let start = Instant::now();
    assert_eq!(send(&quick, API_KEY, "new").await.status(), StatusCode::OK);
    assert!(start.elapsed() >= SECOND / 10 && start.elapsed() < SECOND, "{:?}", start.elapsed());

    // The layer with the long timeout would be busy for hours if it asked the server.
    let start = Instant::now();
    assert_eq!(statuses(&[&layer], 10_000).await, [429; 10_000]);
    assert!(start.elapsed() < 5 * SECOND, "{:?}", start.elapsed());
}

/// A service that accepts a call only if it was polled to be ready since the last one, as tower demands. A clone starts
/// unready.
#[derive(Default)]
struct Strict {
    is_ready: bool,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Service<Request<()>> for Strict {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        assert!(std::mem::take(&mut self.is_ready), "the service is called without being ready");
        ready(Ok(Response::new(String::new())))
    }
}

#[tokio::test]
async fn ready_service_is_called() {
    let layer = by_api_key(limiter(&Store::memory(), "rate").await);
    let mut service = layer.layer(Strict::default());
    for expected in [200, 200, 200, 200, 200, 429] {
        let request = Request::builder().header(API_KEY, "a").body(()).unwrap();
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(response.status(), expected);
    }
}
