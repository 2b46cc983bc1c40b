//! The scenarios that every store of `tower-sessions` must pass, over HTTP requests with cookies.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::get;
use kvtyped::integrations::tower_sessions_0_15::KvStore;
use time::OffsetDateTime;
use tower::ServiceExt;
use tower_sessions::{Expiry, Session, SessionManagerLayer};

use crate::support::{World, on_both_backends};

const HOUR: time::Duration = time::Duration::HOUR;

/// A service with sessions.
struct App(Router);

impl App {
    async fn new(world: &World) -> Self {
        Self::with(world, Some(HOUR), None).await
    }

    async fn with(world: &World, life: Option<time::Duration>, domain: Option<&'static str>) -> Self {
        let store = KvStore::new(world.sessions().await.expect("the bucket opens"));
        let mut layer = SessionManagerLayer::new(store).with_secure(true);
        if let Some(life) = life {
            layer = layer.with_expiry(Expiry::OnInactivity(life));
        }
        if let Some(domain) = domain {
            layer = layer.with_domain(domain);
        }
        let set = |session: Session| async move { session.insert("foo", 42).await.expect("it is stored") };
        let value = |session: Session| async move {
            let found = session.get::<usize>("foo").await.expect("it is read");
            found.map_or("none".to_owned(), |found| found.to_string())
        };
        let remove = |session: Session| async move {
            session.remove::<usize>("foo").await.expect("it is removed");
        };
        let shorten = |session: Session| async move {
            session.set_expiry(Some(Expiry::OnInactivity(time::Duration::MINUTE)));
        };
        let routes = Router::new()
            .route("/", get(|_: Session| async { "hello" }))
            .route("/insert", get(set))
            .route("/get", get(value))
            .route("/remove", get(remove))
            .route("/shorten", get(shorten))
            .route("/cycle", get(|session: Session| async move { session.cycle_id().await.expect("it is cycled") }))
            .route("/flush", get(|session: Session| async move { session.flush().await.expect("it is flushed") }));
        Self(routes.layer(layer))
    }

    async fn get(&self, path: &str, cookie: Option<&str>) -> Reply {
        let request = Request::get(path);
        let request = match cookie {
            Some(cookie) => request.header("cookie", format!("id={cookie}")),
            None => request,
        };
        let response = self.0.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = axum::body::to_bytes(response.into_body(), 1_000).await.unwrap();
        Reply { status, headers, body: String::from_utf8_lossy(&body).into_owned() }
    }

    /// Starts a session with a value and returns its cookie.
    async fn session(&self) -> String {
        self.get("/insert", None).await.cookie().expect("a session starts")
    }
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Reply {
    fn set_cookie(&self) -> Option<&str> {
        self.headers.get("set-cookie").and_then(|cookie| cookie.to_str().ok())
    }

    /// Returns the session id of the cookie that the reply sets.
    fn cookie(&self) -> Option<String> {
        let value = self.set_cookie()?.strip_prefix("id=")?;
        value.split(';').next().filter(|id| !id.is_empty()).map(str::to_owned)
    }

    fn max_age(&self) -> Option<i64> {
        let attributes = self.set_cookie()?.split("; ");
        attributes.filter_map(|attribute| attribute.strip_prefix("Max-Age=")).next()?.parse().ok()
    }
}

on_both_backends! {
    async fn no_session_set(world: World) {
        let reply = App::new(&world).await.get("/", None).await;
        assert_eq!((reply.status, reply.body.as_str(), reply.set_cookie()), (StatusCode::OK, "hello", None));
    }

    async fn bogus_session_cookie(world: World) {
        let app = App::new(&world).await;
        let bogus = "AAAAAAAAAAAAAAAAAAAAAA";
        let reply = app.get("/insert", Some(bogus)).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_ne!(reply.cookie().expect("a new session"), bogus);
    }

    async fn malformed_session_cookie(world: World) {
        let app = App::new(&world).await;
        let reply = app.get("/", Some("malformed")).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_ne!(reply.cookie().as_deref(), Some("malformed"));
    }

    async fn insert_session(world: World) {
        let reply = App::new(&world).await.get("/insert", None).await;
        let cookie = reply.set_cookie().expect("a session starts").to_owned();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && cookie.contains("Secure"), "{cookie}");
        assert!(cookie.contains("Path=/"), "{cookie}");
    }

    async fn session_max_age(world: World) {
        let reply = App::new(&world).await.get("/insert", None).await;
        assert!(reply.max_age().is_some_and(|age| (3_590..=3_600).contains(&age)), "{:?}", reply.set_cookie());
        let reply = App::with(&world, None, None).await.get("/insert", None).await;
        assert_eq!(reply.max_age(), None, "it lasts as long as the browser");
    }

    async fn get_session(world: World) {
        let app = App::new(&world).await;
        let cookie = app.session().await;
        let reply = app.get("/get", Some(&cookie)).await;
        assert_eq!((reply.body.as_str(), reply.set_cookie()), ("42", None), "a read writes nothing");
    }

    async fn get_no_value(world: World) {
        assert_eq!(App::new(&world).await.get("/get", None).await.body, "none");
    }

    async fn remove_last_value(world: World) {
        let app = App::new(&world).await;
        let cookie = app.session().await;
        app.get("/remove", Some(&cookie)).await;
        assert_eq!(app.get("/get", Some(&cookie)).await.body, "none");
    }

    async fn cycle_session_id(world: World) {
        let app = App::new(&world).await;
        let old = app.session().await;
        let new = app.get("/cycle", Some(&old)).await.cookie().expect("a new id");
        assert_ne!(old, new);
        assert_eq!(app.get("/get", Some(&new)).await.body, "42");
        assert_eq!(app.get("/get", Some(&old)).await.body, "none");
    }

    async fn flush_session(world: World) {
        let app = App::new(&world).await;
        let cookie = app.session().await;
        let reply = app.get("/flush", Some(&cookie)).await;
        assert_eq!((reply.cookie(), reply.max_age()), (None, Some(0)), "{:?}", reply.set_cookie());
        assert_eq!(app.get("/get", Some(&cookie)).await.body, "none");
    }

    async fn changed_expiry_is_stored(world: World) {
        let app = App::new(&world).await;
        let cookie = app.session().await;
        let reply = app.get("/shorten", Some(&cookie)).await;
        assert!(reply.max_age().is_some_and(|age| (50..=60).contains(&age)), "{:?}", reply.set_cookie());
        assert_eq!(app.get("/get", Some(&cookie)).await.body, "42");
    }

    async fn set_domain(world: World) {
        let reply = App::with(&world, Some(HOUR), Some("localhost")).await.get("/insert", None).await;
        assert!(reply.set_cookie().is_some_and(|cookie| cookie.contains("Domain=localhost")), "{:?}", reply.set_cookie());
    }

    async fn expired(world: World) {
        let app = App::with(&world, Some(time::Duration::milliseconds(300)), None).await;
        let start = OffsetDateTime::now_utc();
        let cookie = app.session().await;
        let ends = async || (app.get("/get", Some(&cookie)).await.body == "none").then_some(());
        harness::wait::until("the session ends", crate::support::SOON, ends).await;
        assert!(OffsetDateTime::now_utc() - start < time::Duration::seconds(1), "before the TTL of its record");
    }
}
