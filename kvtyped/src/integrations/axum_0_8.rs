//! Errors as responses, revisions as `ETag`, and `If-Match` as a precondition, for `axum` 0.8.
//!
//! `State<Store>` and `State<Bucket<T>>` need no integration: both are cheap to clone. `#[derive(FromRef)]` of axum
//! provides them from a larger state.
//!
//! ```
//! # use kvtyped::prelude::*;
//! use axum_core::response::IntoResponse;
//! use kvtyped::integrations::axum_0_8::{ETag, HttpError, Precondition};
//!
//! #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
//! #[kv(key = "{id}")]
//! struct Note { id: u64, text: String }
//!
//! // Handlers: `State(notes): State<Bucket<Note>>`, `Path(id): Path<u64>`, `Json(note): Json<Note>`.
//! async fn read(notes: Bucket<Note>, id: u64) -> Result<Entry<Note>, HttpError> {
//!     notes.get(&NoteKey::new(id)).await?.ok_or_else(HttpError::not_found)
//! }
//!
//! async fn write(notes: Bucket<Note>, precondition: Precondition, note: Note) -> Result<ETag, HttpError> {
//!     precondition.write(&notes, &note).await
//! }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), kvtyped::Error> {
//! # let notes: Bucket<Note> = Store::memory().bucket().await?;
//! # let note = Note { id: 1, text: "a".into() };
//!
//! let tag = write(notes.clone(), Precondition::None, note.clone()).await.unwrap();
//! let response = read(notes.clone(), 1).await.into_response();
//! assert_eq!(response.headers()["etag"], "\"1\"");
//!
//! write(notes.clone(), Precondition::Revision(tag.0), note.clone()).await.unwrap();
//! let lost = write(notes, Precondition::Revision(tag.0), note).await.unwrap_err();
//! assert_eq!(lost.status(), 412);
//! # Ok(())
//! # }
//! ```
//!
//! # Errors as responses
//!
//! | error | status |
//! |---|---|
//! | an unknown outcome, of any kind | 500 with `"outcome": "unknown"`: the client must read before it repeats the request |
//! | `NotFound` | 404 |
//! | `Conflict`, `AlreadyExists` | 409; 412 if the request had a precondition |
//! | `NotUnique` | 409 |
//! | `Aborted`, `Fenced` | 409 |
//! | `TooLarge` | 413 |
//! | `InvalidKey`, `Invalid`, `FingerprintMismatch` | 422 |
//! | `RetriesExhausted`, `Unavailable`, `Timeout` | 503 with `Retry-After: 1` |
//! | all others | 500 |
//!
//! The body is `application/problem+json`. The body contains no key, bucket or cause. The log contains them.

use std::convert::Infallible;

use axum_core::body::Body;
use axum_core::extract::FromRequestParts;
use axum_core::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use kvtyped::prelude::*;
use kvtyped::recipes::OnceError;
use kvtyped::{Error, ErrorKind};

/// An [`Error`] as a response; see [the table](self#errors-as-responses). The operator `?` converts an [`Error`], and with the
/// feature `tower-sessions-0_15` also an error of a session.
#[derive(Debug)]
pub struct HttpError {
    error: Error,
    had_precondition: bool,
}

impl HttpError {
    /// Returns the error of a missing record: status 404.
    pub fn not_found() -> Self {
        Error::new(ErrorKind::NotFound).into()
    }

    /// Marks the error of a request with a precondition: a conflict gets the status 412 in place of 409.
    #[must_use]
    pub fn of_precondition(mut self) -> Self {
        self.had_precondition = true;
        self
    }

    /// Returns the error.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// Returns the status of the response.
    pub fn status(&self) -> StatusCode {
        if self.error.outcome() == Outcome::Unknown {
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        match self.error.kind() {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict { .. } | ErrorKind::AlreadyExists if self.had_precondition => {
                StatusCode::PRECONDITION_FAILED
            }
            ErrorKind::Conflict { .. }
            | ErrorKind::AlreadyExists
            | ErrorKind::NotUnique { .. }
            | ErrorKind::Aborted
            | ErrorKind::Fenced => StatusCode::CONFLICT,
            ErrorKind::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::InvalidKey | ErrorKind::Invalid { .. } | ErrorKind::FingerprintMismatch => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            ErrorKind::RetriesExhausted { .. } | ErrorKind::Unavailable { .. } | ErrorKind::Timeout { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<Error> for HttpError {
    fn from(error: Error) -> Self {
        Self { error, had_precondition: false }
    }
}

impl From<OnceError<Infallible>> for HttpError {
    fn from(error: OnceError<Infallible>) -> Self {
        Error::from(error).into()
    }
}

impl From<OnceError<Error>> for HttpError {
    fn from(error: OnceError<Error>) -> Self {
        Error::from(error).into()
    }
}

/// A session that cannot be read or written gives the status 500, with an unknown outcome.
#[cfg(feature = "tower-sessions-0_15")]
impl From<tower_sessions_core::session::Error> for HttpError {
    fn from(error: tower_sessions_core::session::Error) -> Self {
        let detail = "the session cannot be read or written".to_owned();
        // The error does not tell a failed read from a failed write.
        Error::new(ErrorKind::Backend { code: None, detail }).unknown_outcome().caused_by(error).into()
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let (status, error) = (self.status(), &self.error);
        if status.is_server_error() {
            tracing::error!(status = status.as_u16(), ?error, "a request failed");
        } else {
            tracing::debug!(status = status.as_u16(), ?error, "a request failed");
        }
        let mut problem = serde_json::json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
        });
        if error.outcome() == Outcome::Unknown {
            problem["outcome"] = "unknown".into();
        }
        let mut response = Response::new(Body::from(problem.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// The revision of a record as the header `ETag` of a response.
///
/// As a response on its own, it has the status 204. As a part of a response, such as `(ETag(revision), Json(record))`,
/// it adds the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ETag(pub Revision);

impl ETag {
    fn value(self) -> HeaderValue {
        // Digits in quotes are a valid header value.
        HeaderValue::try_from(format!("\"{}\"", self.0)).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
    }
}

impl IntoResponse for ETag {
    fn into_response(self) -> Response {
        (StatusCode::NO_CONTENT, self, Body::empty()).into_response()
    }
}

impl axum_core::response::IntoResponseParts for ETag {
    type Error = Infallible;

    fn into_response_parts(
        self,
        mut response: axum_core::response::ResponseParts,
    ) -> Result<axum_core::response::ResponseParts, Infallible> {
        response.headers_mut().insert(ETAG, self.value());
        Ok(response)
    }
}

/// The record as JSON, with its revision as `ETag`. A record that does not encode gives the status 500.
impl<T: KvModel + Serialize> IntoResponse for Entry<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(self.value()) {
            Ok(json) => {
                let json_type = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
                (ETag(self.revision()), [json_type], Body::from(json)).into_response()
            }
            Err(_) => {
                // The message of the encoder may contain a part of the record.
                let detail = "a response is not JSON".to_owned();
                HttpError::from(Error::new(ErrorKind::Encode { codec: "json", detail })).into_response()
            }
        }
    }
}

/// The precondition of a request: an extractor of `If-Match` and `If-None-Match: *`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Precondition {
    /// The request has none.
    None,
    /// `If-Match: "17"`: the record has this revision.
    Revision(Revision),
    /// `If-Match: *`: the record exists.
    Exists,
    /// `If-None-Match: *`: the record does not exist.
    Missing,
    /// `If-Match` with a tag that no record has, such as a weak one.
    Never,
}

impl Precondition {
    /// Reads the precondition of a request. Of several tags, all but the first revision are ignored.
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let lines: Vec<_> = headers.get_all(IF_MATCH).iter().map(text).collect();
        let mut tags = lines.iter().flat_map(|line| line.split(',')).map(str::trim);
        match &*lines {
            [] if headers.get(IF_NONE_MATCH).is_some_and(|value| value == "*") => Self::Missing,
            [] => Self::None,
            [any] if any.trim() == "*" => Self::Exists,
            _ => tags.find_map(revision).map_or(Self::Never, Self::Revision),
        }
    }

    /// Writes a record under this precondition: by `put`, `update`, `create`, or over an existing record.
    ///
    /// # Errors
    ///
    /// Returns an error with the status 412 if the record does not meet the precondition. Otherwise returns the errors
    /// of the write.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, the record may or may not be written.
    pub async fn write<T: KvModel + Clone>(&self, bucket: &Bucket<T>, record: &T) -> Result<ETag, HttpError> {
        let failed = || Error::new(ErrorKind::Conflict { expected: Revision::ZERO, actual: None });
        let written = match self {
            Self::None => bucket.put(record).await,
            Self::Revision(revision) => bucket.update(record, *revision).await,
            Self::Missing => bucket.create(record).await,
            Self::Exists => {
                let key = record.key();
                let write = bucket.transform(&key, |current| match current {
                    Some(_) => Change::Put(record.clone()),
                    None => Change::Keep,
                });
                write.await.and_then(|entry| entry.map(|entry| entry.revision()).ok_or_else(failed))
            }
            Self::Never => Err(failed()),
        };
        written.map(ETag).map_err(|error| HttpError::from(error).of_precondition())
    }
}

/// Returns the revision of a strong tag.
fn revision(tag: &str) -> Option<Revision> {
    let digits = tag.strip_prefix('"')?.strip_suffix('"')?;
    // `u64` also parses a sign, which no tag of this module has.
    let is_number = digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number).map(Revision::new)
}

impl<S: Send + Sync> FromRequestParts<S> for Precondition {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precondition_is_read_from_headers() {
        let revision = |number| Precondition::Revision(Revision::new(number));
        for (headers, expected) in [
            (&[] as &[(_, _)], Precondition::None),
            (&[(IF_MATCH, "\"17\"")], revision(17)),
            (&[(IF_MATCH, " \"17\" , \"18\"")], revision(17)),
            (&[(IF_MATCH, "\"other\", \"18\"")], revision(18)),
            (&[(IF_MATCH, "\"other\""), (IF_MATCH, "\"18\"")], revision(18)),
            (&[(IF_MATCH, "*")], Precondition::Exists),
            (&[(IF_MATCH, "W/\"17\"")], Precondition::Never),
            (&[(IF_MATCH, "17")], Precondition::Never),
            (&[(IF_MATCH, "\"+17\"")], Precondition::Never),
            (&[(IF_MATCH, "\"\"")], Precondition::Never),
            (&[(IF_MATCH, "")], Precondition::Never),
            (&[(IF_NONE_MATCH, "*")], Precondition::Missing),
            (&[(IF_NONE_MATCH, "\"17\"")], Precondition::None),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(name, HeaderValue::from_static(value));
            }
            assert_eq!(Precondition::of(&map), expected, "{headers:?}");
        }
    }
}
