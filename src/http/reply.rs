//! Answers. Every error a client gets is JSON `{"error":"..."}` with the status that fits.

use http::{HeaderValue, Response, StatusCode, header};

use super::Body;

/// What handlers return.
pub type Answer = Response<Body>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

fn with_type(status: StatusCode, content_type: HeaderValue, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, content_type);
    answer
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Body::Empty);
    *answer.status_mut() = status;
    answer
}

/// A plain text answer.
pub fn text(status: StatusCode, text: impl Into<Body>) -> Answer {
    with_type(status, TEXT, text.into())
}

/// A JSON answer, ended by a newline so that it reads well in a terminal.
pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    match serde_json::to_string(value) {
        Ok(text) => with_type(status, JSON, (text + "\n").into()),
        Err(failed) => error(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer is no JSON: {failed}")),
    }
}

/// An error: `{"error":"..."}`.
pub fn error(status: StatusCode, message: impl std::fmt::Display) -> Answer {
    let body = serde_json::json!({ "error": message.to_string() });
    with_type(status, JSON, format!("{body}\n").into())
}

/// 405, with the methods that are allowed: `GET, HEAD`.
pub fn method_not_allowed(method: &http::Method, allow: &'static str) -> Answer {
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, format!("Unsupported method: {method}"));
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    answer
}
