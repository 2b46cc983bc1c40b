//! The layer and its service.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use kvtyped::recipes::RateLimiter;
use tower_layer::Layer;
use tower_service::Service;

use super::denials::Denials;
use crate::integrations::digest::digest;

/// The longest key that is stored as it is.
const MAX_KEY: usize = 64;

/// The default time limit of a check.
const TIMEOUT: Duration = Duration::from_millis(100);

type KeyFn = dyn Fn(&Parts) -> Option<String> + Send + Sync;
type DeniedFn = dyn Fn(Duration) -> Response<String> + Send + Sync;

/// The reaction to an error of the limiter, for example during an outage of its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnError {
    /// Lets requests pass without a limit.
    FailOpen,
    /// Refuses requests with the status 503.
    FailClosed,
}

/// A layer that limits requests across all processes; see the [module](super).
#[derive(Clone)]
pub struct RateLimitLayer {
    limiter: RateLimiter,
    on_denied: Arc<DeniedFn>,
    has_draft_headers: bool,
    state: Arc<State>,
}

/// The result of a check.
enum Verdict {
    /// The request passes. The response reports the remaining number of requests if the limiter returned it.
    Pass(Option<u32>),
    Refuse(Response<String>),
}

/// The state that all services of a layer share.
struct State {
    key: Box<KeyFn>,
    on_error: OnError,
    denials: Denials,
    unlimited: AtomicU64,
    /// Whether the last check failed. Only the first failure of a sequence is logged at `warn`.
    is_failing: AtomicBool,
}

impl RateLimitLayer {
    /// Creates a layer with the quota of this limiter for each key. [`key`](super::key) has functions for common keys.
    /// A request whose key is `None` is not limited.
    pub fn new(
        limiter: RateLimiter,
        key: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
        on_error: OnError,
    ) -> Self {
        let state = State {
            key: Box::new(key),
            on_error,
            denials: Denials::default(),
            unlimited: AtomicU64::new(0),
            is_failing: AtomicBool::new(false),
        };
        let on_denied = |_| answer(StatusCode::TOO_MANY_REQUESTS, "too many requests\n");
        let limiter = limiter.timeout(TIMEOUT);
        Self { limiter, on_denied: Arc::new(on_denied), has_draft_headers: false, state: Arc::new(state) }
    }

    /// Sets how long a request waits for the limiter. The default is 100 ms. A check that takes longer is an error.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.limiter = self.limiter.timeout(timeout);
        self
    }

    /// Sets the response to a denied request, which gets the time until the next request is allowed. The layer adds
    /// `Retry-After` if the response has none.
    pub fn on_denied(mut self, response: impl Fn(Duration) -> Response<String> + Send + Sync + 'static) -> Self {
        self.on_denied = Arc::new(response);
        self
    }

    /// Adds the headers `RateLimit-Policy` and `RateLimit` to responses. They are a draft of the IETF
    /// (`draft-ietf-httpapi-ratelimit-headers`, version 10), and their names changed between its versions.
    pub fn draft_headers(mut self, on: bool) -> Self {
        self.has_draft_headers = on;
        self
    }

    /// Returns the number of requests that passed without a limit, because their key was `None` or the limiter failed.
    pub fn unlimited(&self) -> u64 {
        self.state.unlimited.load(Ordering::Relaxed)
    }

    async fn check(&self, key: Option<String>) -> Verdict {
        let Self { limiter, on_denied, has_draft_headers: _, state } = self;
        let Some(key) = key else {
            state.unlimited.fetch_add(1, Ordering::Relaxed);
            return Verdict::Pass(None);
        };
        let key = if key.len() > MAX_KEY { digest(key.as_bytes()) } else { key };
        let denied = |wait| {
            let mut response = with_retry_after(on_denied(wait), wait);
            self.add_draft_headers(response.headers_mut(), 0, Some(wait));
            Verdict::Refuse(response)
        };
        if let Some(wait) = state.denials.remaining(&key) {
            return denied(wait);
        }
        let decision = match limiter.check(&key).await {
            Ok(decision) => decision,
            Err(error) => {
                state.log(&error);
                return match state.on_error {
                    OnError::FailOpen => {
                        state.unlimited.fetch_add(1, Ordering::Relaxed);
                        Verdict::Pass(None)
                    }
                    OnError::FailClosed => {
                        let refused = answer(StatusCode::SERVICE_UNAVAILABLE, "the rate limiter is unavailable\n");
                        Verdict::Refuse(with_retry_after(refused, Duration::from_secs(1)))
                    }
                };
            }
        };
        state.is_failing.store(false, Ordering::Relaxed);
        let Some(wait) = decision.retry_after() else { return Verdict::Pass(Some(decision.remaining())) };
        state.denials.insert(key, wait);
        denied(wait)
    }

    fn add_draft_headers(&self, headers: &mut HeaderMap, remaining: u32, wait: Option<Duration>) {
        if !self.has_draft_headers {
            return;
        }
        let quota = self.limiter.quota();
        let window = whole_seconds(quota.period());
        let policy = format!("\"default\";q={};w={window}", quota.events());
        let wait = wait.map_or_else(String::new, |wait| format!(";t={}", whole_seconds(wait)));
        for (name, value) in [("ratelimit-policy", policy), ("ratelimit", format!("\"default\";r={remaining}{wait}"))] {
            // Digits and quotes are a valid header value.
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
    }
}

impl State {
    fn log(&self, error: &kvtyped::Error) {
        // The error contains the key, which may be the address of a client. The kind has no key.
        let (kind, on_error) = (error.kind(), self.on_error);
        if self.is_failing.swap(true, Ordering::Relaxed) {
            tracing::debug!(%kind, ?on_error, "the rate limiter failed");
        } else {
            tracing::warn!(%kind, ?on_error, "the rate limiter failed; further failures are logged at debug");
        }
    }
}

fn answer(status: StatusCode, text: &str) -> Response<String> {
    let mut response = Response::new(text.to_owned());
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}

/// Adds `Retry-After`, in whole seconds and rounded up, if it is missing.
fn with_retry_after(mut response: Response<String>, wait: Duration) -> Response<String> {
    response.headers_mut().entry(RETRY_AFTER).or_insert_with(|| HeaderValue::from(whole_seconds(wait)));
    response
}

/// Rounds up.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> RateLimit<S> {
        RateLimit { layer: self.clone(), inner }
    }
}

/// A service behind a [`RateLimitLayer`].
#[derive(Debug, Clone)]
pub struct RateLimit<S> {
    layer: RateLimitLayer,
    inner: S,
}

/// The future of a response of a [`RateLimit`].
///
/// If it is dropped, the request may or may not count.
pub type ResponseFuture<B, E> = Pin<Box<dyn Future<Output = Result<Response<B>, E>> + Send>>;

impl<S, B, R> Service<Request<B>> for RateLimit<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: From<String> + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = ResponseFuture<R, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The service that was polled is the ready one. Its clone may not be ready, and stays for the next request.
        let next = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, next);
        let layer = self.layer.clone();
        let (parts, body) = request.into_parts();
        let key = (layer.state.key)(&parts);
        Box::pin(async move {
            match layer.check(key).await {
                Verdict::Refuse(refused) => Ok(refused.map(R::from)),
                Verdict::Pass(remaining) => {
                    let mut response = ready.call(Request::from_parts(parts, body)).await?;
                    if let Some(remaining) = remaining {
                        layer.add_draft_headers(response.headers_mut(), remaining, None);
                    }
                    Ok(response)
                }
            }
        })
    }
}

impl fmt::Debug for RateLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer")
            .field("limiter", &self.limiter)
            .field("on_error", &self.state.on_error)
            .finish_non_exhaustive()
    }
}
