//! Errors, `ETag` and preconditions as HTTP responses.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use harness::{Mode, Proxy};
use kvtyped::integrations::axum_0_8::{ETag, HttpError, Precondition};
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support::{SECOND, World, on_both_backends, unique};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "{id}")]
struct Note {
    id: String,
    text: String,
}

type Notes = State<Bucket<Note>>;

async fn read(State(notes): Notes, Path(id): Path<String>) -> Result<Entry<Note>, HttpError> {
    notes.get(&NoteKey::new(id)).await?.ok_or_else(HttpError::not_found)
}

async fn write(State(notes): Notes, on: Precondition, Json(note): Json<Note>) -> Result<ETag, HttpError> {
    on.write(&notes, &note).await
}

async fn create(State(notes): Notes, Json(note): Json<Note>) -> Result<ETag, HttpError> {
    Ok(ETag(notes.create(&note).await?))
}

async fn app(world: &World) -> Router {
    let notes: Bucket<Note> = world.store.bucket().name(unique("notes")).max_value_size(1_024).await.unwrap();
    Router::new().route("/notes/{id}", get(read).put(write).post(create)).with_state(notes)
}

async fn json_body(response: Response) -> Value {
    let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

async fn fetch(app: &Router, id: &str) -> Response {
    app.clone().oneshot(Request::get(format!("/notes/{id}")).body(Body::empty()).unwrap()).await.unwrap()
}

/// Writes a note, and returns the status and the tag.
async fn send(app: &Router, method: &str, text: &str, headers: &[(&str, &str)]) -> (u16, Option<String>) {
    let request = Request::builder().method(method).uri("/notes/a").header("content-type", "application/json");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let note = json!({ "id": "a", "text": text }).to_string();
    let response = app.clone().oneshot(request.body(Body::from(note)).unwrap()).await.unwrap();
    let tag = response.headers().get("etag").map(|tag| tag.to_str().unwrap().to_owned());
    (response.status().as_u16(), tag)
}

on_both_backends! {
    async fn etag_makes_writes_conditional(world: World) {
        let app = app(&world).await;
        assert_eq!(fetch(&app, "a").await.status(), StatusCode::NOT_FOUND);
        assert_eq!(send(&app, "PUT", "no", &[("if-match", "*")]).await.0, 412, "it does not exist");
        let (status, first) = send(&app, "PUT", "one", &[("if-none-match", "*")]).await;
        let first = first.expect("a tag");
        assert_eq!(status, 204);

        let response = fetch(&app, "a").await;
        assert_eq!(response.headers()["etag"].to_str().unwrap(), first);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(json_body(response).await, json!({ "id": "a", "text": "one" }));

        let (status, second) = send(&app, "PUT", "two", &[("if-match", &first)]).await;
        assert_eq!((status, second == Some(first.clone())), (204, false));
        assert_eq!(send(&app, "PUT", "lost", &[("if-match", &first)]).await.0, 412);
        assert_eq!(send(&app, "PUT", "lost", &[("if-match", "W/\"1\"")]).await.0, 412);
        assert_eq!(send(&app, "PUT", "lost", &[("if-none-match", "*")]).await.0, 412);
        assert_eq!(send(&app, "POST", "lost", &[]).await.0, 409);
        assert_eq!(json_body(fetch(&app, "a").await).await["text"], "two");
        assert_eq!(send(&app, "PUT", "three", &[("if-match", "*")]).await.0, 204);
        assert_eq!(send(&app, "PUT", "four", &[]).await.0, 204);
        assert_eq!(json_body(fetch(&app, "a").await).await["text"], "four");
        assert_eq!(send(&app, "PUT", &"x".repeat(2_000), &[]).await.0, 413);
    }

    async fn problem_contains_no_key_bucket_or_cause(world: World) {
        let app = app(&world).await;
        let response = fetch(&app, &"sentinel".repeat(1_000)).await;
        assert_eq!((response.status(), &response.headers()["content-type"]), (StatusCode::UNPROCESSABLE_ENTITY, &"application/problem+json".parse().unwrap()));
        let problem = json_body(response).await;
        assert_eq!(problem, json!({ "type": "about:blank", "title": "Unprocessable Entity", "status": 422 }));
    }
}

/// The log has the reason, and the response does not.
#[tokio::test]
async fn failed_session_is_a_problem_without_its_reason() {
    let reason = tower_sessions::session_store::Error::Backend("sentinel".into());
    let error = HttpError::from(tower_sessions::session::Error::from(reason));
    assert!(error.error().report().contains("sentinel"));
    let response = error.into_response();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let title = "Internal Server Error";
    let problem = json!({ "type": "about:blank", "title": title, "status": 500, "outcome": "unknown" });
    assert_eq!(json_body(response).await, problem);
}

#[tokio::test]
async fn error_kinds_have_statuses() {
    let temporary = Duration::from_millis(1);
    for (kind, status) in [
        (ErrorKind::NotFound, 404),
        (ErrorKind::Conflict { expected: Revision::ZERO, actual: None }, 409),
        (ErrorKind::AlreadyExists, 409),
        (ErrorKind::NotUnique { index: "email", owner: "7".into() }, 409),
        (ErrorKind::Aborted, 409),
        (ErrorKind::Fenced, 409),
        (ErrorKind::TooLarge { size: None, limit: None }, 413),
        (ErrorKind::InvalidKey, 422),
        (ErrorKind::Invalid { path: "check" }, 422),
        (ErrorKind::FingerprintMismatch, 422),
        (ErrorKind::RetriesExhausted { attempts: 1, elapsed: temporary }, 503),
        (ErrorKind::Unavailable { reason: "no leader".into() }, 503),
        (ErrorKind::Timeout { after: temporary }, 503),
        (ErrorKind::BucketNotFound, 500),
        (ErrorKind::Unauthorized, 500),
        (ErrorKind::Closed, 500),
        (ErrorKind::Decode { codec: "json", detail: "sentinel".into() }, 500),
    ] {
        let response = HttpError::from(Error::new(kind.clone())).into_response();
        let retry = response.headers().contains_key("retry-after");
        assert_eq!((response.status().as_u16(), retry), (status, status == 503), "{kind}");
        assert!(!json_body(response).await.to_string().contains("sentinel"), "{kind}");

        let unknown = HttpError::from(Error::new(kind.clone()).unknown_outcome()).of_precondition().into_response();
        assert_eq!((unknown.status().as_u16(), unknown.headers().contains_key("retry-after")), (500, false), "{kind}");
        assert_eq!(json_body(unknown).await["outcome"], "unknown", "{kind}");
    }
}

/// A client must not repeat a write whose acknowledgement is lost for good.
#[tokio::test]
async fn lost_acknowledgement_is_an_unknown_outcome() {
    let proxy = Proxy::start(harness::shared().await.addr()).await;
    let store = Store::connect(proxy.url()).await.unwrap();
    let notes: Bucket<Note> = store.bucket().name(unique("notes")).timeout(2 * SECOND).await.unwrap();
    let app = Router::new().route("/notes/{id}", get(read).put(write)).with_state(notes);
    proxy.set(Mode::DropReplies);
    let request = Request::put("/notes/a").header("content-type", "application/json");
    let note = Body::from(json!({ "id": "a", "text": "one" }).to_string());
    let response = app.oneshot(request.body(note).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(json_body(response).await["outcome"], "unknown");
}
