//! The routes, with sessions and limits.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;

use axum::extract::{ConnectInfo, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::Stream;
use kvtyped::Event;
use kvtyped::integrations::axum_0_8::{ETag, HttpError, Precondition};
use kvtyped::integrations::rate_limit::{OnError, RateLimitLayer, key};
use kvtyped::integrations::tower_sessions_0_15::KvStore;
use kvtyped::prelude::*;
use kvtyped::recipes::{Election, Quota};
use serde_json::{Value, json};
use tokio::sync::watch;
use tower_sessions::cookie::SameSite;
use tower_sessions::{Expiry, Session, SessionManagerLayer};

use crate::config::{self, Config, Overlay, OverlayKey};
use crate::leader::{self, Node};
use crate::orders::Orders;
use crate::users::{User, Users};

/// The session keys.
const USER: &str = "user";
const VISITS: &str = "visits";

#[derive(Clone)]
struct App {
    node: String,
    store: Store,
    config: Live<Config>,
    overlays: Bucket<Overlay>,
    users: Users,
    orders: Orders,
    election: Election<Node>,
    stopping: watch::Receiver<bool>,
}

/// Opens all buckets of the service, so that wrong settings are found when it starts.
pub async fn open(store: &Store, node: &str, stopping: watch::Receiver<bool>) -> Result<Router, Box<dyn Error>> {
    let overlays = store.bucket().await?;
    let app = App {
        node: node.to_owned(),
        store: store.clone(),
        config: config::open(&overlays).await?,
        overlays,
        users: Users::open(store).await?,
        orders: Orders::new(store),
        election: leader::election(store),
        stopping,
    };
    let sessions = SessionManagerLayer::new(KvStore::new(store.bucket().await?))
        .with_expiry(Expiry::OnInactivity(time::Duration::HOUR))
        .with_same_site(SameSite::Lax)
        // The example has no TLS. A real service keeps the default, `true`.
        .with_secure(false);

    let limiter = store.rate_limiter("web_orders_rate", Quota::per_minute(30).burst(10)).max_bytes(16 << 20).await?;
    let peer = |request: &Parts| request.extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    let limit = RateLimitLayer::new(limiter, key::peer_ip(peer), OnError::FailOpen);

    Ok(Router::new()
        .route("/api/orders", post(place_order).layer(limit))
        .route("/api/users", post(register))
        .route("/api/login", post(login))
        .route("/api/logout", post(logout))
        .route("/api/state", get(state))
        .layer(sessions)
        // These need no session.
        .route("/api/config", get(read_config).put(write_config))
        .route("/api/events", get(events))
        .route("/", get(|| async { Html(include_str!("page.html")) }))
        .route("/health/live", get(|| async { "alive" }))
        .route("/health/ready", get(ready))
        .with_state(app))
}

async fn state(State(app): State<App>, session: Session) -> Result<Json<Value>, Problem> {
    let visits = session.get::<u32>(VISITS).await?.unwrap_or(0) + 1;
    session.insert(VISITS, visits).await?;
    Ok(Json(json!({
        "node": app.node,
        "leader": app.election.leader().await?.map(|leader| leader.name.clone()),
        "config": *app.config.load(),
        "config_error": app.config.last_error().map(|error| error.to_string()),
        "user": session.get::<User>(USER).await?.map(|user| user.name),
        "visits": visits,
    })))
}

#[derive(Deserialize)]
struct Registration {
    name: String,
    email: String,
}

async fn register(State(app): State<App>, Json(request): Json<Registration>) -> Result<Response, Problem> {
    let user = app.users.register(&request.name, &request.email).await?;
    Ok((StatusCode::CREATED, Json(json!({ "id": user.id, "name": user.name }))).into_response())
}

#[derive(Deserialize)]
struct Login {
    email: String,
}

/// Logs in by e-mail address alone. A real service checks a password or a token here.
async fn login(State(app): State<App>, session: Session, Json(request): Json<Login>) -> Result<StatusCode, Problem> {
    let Some(user) = app.users.find(&request.email).await? else {
        return Err(Problem::Refused(StatusCode::UNAUTHORIZED, "there is no such user"));
    };
    // A new id, so that an id from before the login is worth nothing.
    session.cycle_id().await?;
    session.insert(USER, user).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn logout(session: Session) -> Result<StatusCode, Problem> {
    session.flush().await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct NewOrder {
    items: u32,
}

async fn place_order(
    State(app): State<App>,
    session: Session,
    headers: HeaderMap,
    Json(request): Json<NewOrder>,
) -> Result<Response, Problem> {
    let Some(user) = session.get::<User>(USER).await? else {
        return Err(Problem::Refused(StatusCode::UNAUTHORIZED, "log in first"));
    };
    let Some(key) = headers.get("idempotency-key").and_then(|key| key.to_str().ok()) else {
        return Err(Problem::Refused(StatusCode::BAD_REQUEST, "the header `Idempotency-Key` is missing"));
    };
    if request.items == 0 || request.items > app.config.load().max_items {
        return Err(Problem::Refused(StatusCode::UNPROCESSABLE_ENTITY, "the number of items is out of range"));
    }
    let order = app.orders.place(user.id, key, request.items).await?;
    Ok((StatusCode::CREATED, Json(order)).into_response())
}

/// Returns the layer in the bucket, with its revision as `ETag`.
async fn read_config(State(app): State<App>) -> Result<Entry<Overlay>, HttpError> {
    app.overlays.get(&OverlayKey).await?.ok_or_else(HttpError::not_found)
}

/// Writes the layer in the bucket. With `If-Match`, two administrators do not overwrite each other. A real service
/// checks here who may do this.
async fn write_config(
    State(app): State<App>,
    precondition: Precondition,
    Json(overlay): Json<Overlay>,
) -> Result<ETag, HttpError> {
    precondition.write(&app.overlays, &overlay).await
}

/// Tells the page of each change of the configuration, so that it shows the change at once.
async fn events(State(app): State<App>) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, HttpError> {
    let events = app.overlays.watch(..).await?.map(|event| {
        let event = match event {
            Ok(Event::Put(entry)) => sse::Event::default().event("config").id(entry.revision().to_string()),
            Ok(Event::Removed { .. }) => sse::Event::default().event("config"),
            // The watch may have missed events. It lists all records again.
            Ok(Event::Resync) => sse::Event::default().event("resync"),
            _ => sse::Event::default().comment(""),
        };
        // Without data, a browser ignores an event.
        Ok(event.data(""))
    });
    // An open response would delay the end of the process.
    Ok(Sse::new(events.take_until(leader::stopped(app.stopping))).keep_alive(KeepAlive::default()))
}

/// Whether this process can serve requests. For the readiness of an orchestrator only: if the server is down, a restart
/// of every process would not help.
async fn ready(State(app): State<App>) -> (StatusCode, &'static str) {
    match tokio::time::timeout(Duration::from_secs(1), app.store.health()).await {
        Ok(Ok(health)) if health.is_healthy() => (StatusCode::OK, "ready"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "not connected"),
    }
}

/// A failed request.
enum Problem {
    Refused(StatusCode, &'static str),
    Failed(HttpError),
}

impl<E: Into<HttpError>> From<E> for Problem {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        match self {
            Self::Refused(status, reason) => (status, Json(json!({ "error": reason }))).into_response(),
            Self::Failed(error) => error.into_response(),
        }
    }
}
