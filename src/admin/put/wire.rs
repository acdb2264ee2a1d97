//! HTTP to one address: a coordinator, or the nginx that blobs are read through.

use std::{str::FromStr, time::Duration};

use http::{Method, Request, Response, Uri, uri::Authority};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

use super::retry::{Again, Failure};
use crate::{
    client::error::root_cause,
    http::{Body, RequestId},
};

/// For a connection to open, over the Internet too.
const CONNECT: Duration = Duration::from_secs(5);

/// Without a byte taken or given, and from the last byte to the answer: a write level of `all` waits for every server.
const STALL: Duration = Duration::from_secs(60);

/// Idle connections close after this, before the other side closes them (node.js after 5 s).
const IDLE: Duration = Duration::from_secs(4);

/// An answer to an upload is a line of JSON; more of it is not read.
pub(super) const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Where requests go: `http://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl(Authority);

impl FromStr for BaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?} {why}: write http://host:port");
        let uri: Uri = text.parse().map_err(|_| wrong("is no address"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(wrong("asks for TLS, which this command does not speak")),
            _ => return Err(wrong("does not begin with http://")),
        }
        if uri.path() != "/" || uri.query().is_some() {
            return Err(wrong("has a path"));
        }
        match uri.into_parts().authority {
            Some(authority) if !authority.host().is_empty() && !authority.as_str().contains('@') => {
                Ok(Self(authority))
            }
            _ => Err(wrong("has no host, or a user name")),
        }
    }
}

/// Connections to one address.
#[derive(Clone)]
pub(super) struct Wire {
    http: Client<HttpConnector, Body>,
    base: BaseUrl,
}

impl Wire {
    /// Connects to nothing yet. Must be called inside a tokio runtime.
    pub(super) fn new(base: BaseUrl) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Self { http, base }
    }

    /// A request for `/<path>`, with an id by which it is found in the servers' logs.
    pub(super) fn request(&self, method: Method, path: &str, body: Body) -> Result<Request<Body>, Failure> {
        let uri = Uri::builder().scheme("http").authority(self.base.0.clone()).path_and_query(path).build();
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri.map_err(Failure::never)?;
        RequestId::fresh().write_to(request.headers_mut());
        Ok(request)
    }

    /// Sends a request and gives the answer's head if it is a success. Waits as long as it takes.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, Failure> {
        let response = self.http.request(request).await.map_err(|error| broken(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(refused(response).await) }
    }
}

/// Waits for a step, at most for [`STALL`].
pub(super) async fn in_time<T>(step: impl Future<Output = T>) -> Result<T, Failure> {
    let stalled = |_| Failure::soon(format!("no progress for {} s", STALL.as_secs()));
    tokio::time::timeout(STALL, step).await.map_err(stalled)
}

fn broken(error: &hyper_util::client::legacy::Error) -> Failure {
    let what = if error.is_connect() { "cannot connect" } else { "the connection broke" };
    Failure::soon(format!("{what}: {}", root_cause(error)))
}

async fn refused(response: Response<Incoming>) -> Failure {
    let status = response.status();
    let again = Again::of(status, response.headers());
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect();
    let text = match in_time(body).await {
        Ok(Ok(body)) => message(&body.to_bytes()),
        _ => String::new(),
    };
    let colon = if text.is_empty() { "" } else { ": " };
    Failure { text: format!("{status}{colon}{text}"), again }
}

/// The `error` of a JSON answer, or its beginning as it is.
fn message(body: &[u8]) -> String {
    const MAX_CHARS: usize = 300;
    let said = serde_json::from_slice::<serde_json::Value>(body).ok();
    let said = said.and_then(|said| Some(said.get("error")?.as_str()?.to_owned()));
    let text = said.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    text.chars().take(MAX_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for text in ["http://127.0.0.1:12001", "http://host/", "http://[::1]:80", "HTTP://h:1"] {
            assert!(text.parse::<BaseUrl>().is_ok(), "{text}");
        }
        for text in [
            "",
            "127.0.0.1:12001",
            "https://h:1",
            "http://",
            "http://h:1/x",
            "http://h:1?q",
            "http://u:p@h:1",
            "ftp://h",
        ] {
            assert!(text.parse::<BaseUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn messages_are_short_and_harmless() {
        assert_eq!(message(br#"{"error":"no room"}"#), "no room");
        assert_eq!(message(b"<html>\n\x1b[31mbad"), "<html>  [31mbad");
        assert_eq!(message(&[b'x'; 1000]).len(), 300);
    }
}
