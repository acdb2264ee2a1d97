//! One connection to one server, kept open from request to request. It is driven by the task that waits for the answer:
//! no second task, no channel between threads, so that little is measured but the server.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::http1::{self, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    blobs::Content,
    failure::{Failure, Kind, MAX_WORDS_BYTES},
};
use crate::{admin::address::ServerUrl, client::error::root_cause, http::headers, model::WriteLevel};

/// Where requests go.
pub struct Place {
    host: String,
    port: u16,
    host_header: HeaderValue,
    /// For each whole request.
    within: Duration,
}

impl Place {
    /// A server, and how long it may take for one request.
    pub fn new(url: &ServerUrl, within: Duration) -> Self {
        let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
        let host_header = HeaderValue::try_from(format!("{host}:{}", url.port));
        Self {
            host: url.host.clone(),
            port: url.port,
            host_header: host_header.expect("host names were checked when they were read"),
            within,
        }
    }
}

/// A request.
pub struct Ask {
    /// Its method.
    pub method: Method,
    /// Its target, with the slash.
    pub path: String,
    /// Its body.
    pub body: Content,
    /// Copies to wait for.
    pub write: Option<WriteLevel>,
}

/// A connection that is opened when it is needed.
pub struct Wire {
    place: Arc<Place>,
    open: Option<Open>,
    /// Connections that were closed between two requests and opened again.
    reconnects: u64,
}

/// What has to be polled for anything to come or go; `None` once the connection ended.
type Driver = Option<Pin<Box<Connection<TokioIo<TcpStream>, Content>>>>;

/// hyper's connection, and by what it is asked.
struct Open {
    sender: SendRequest<Content>,
    driver: Driver,
    /// Whether it answered before.
    used: bool,
}

impl Wire {
    /// Connects to nothing yet.
    pub fn new(place: Arc<Place>) -> Self {
        Self { place, open: None, reconnects: 0 }
    }

    /// How many connections were closed between two requests since this was last asked.
    pub fn take_reconnects(&mut self) -> u64 {
        std::mem::take(&mut self.reconnects)
    }

    /// Opens the connection, unless it is.
    pub async fn connect(&mut self) -> Result<(), Failure> {
        let opened = tokio::time::timeout(self.place.within, self.ready());
        opened.await.map_err(|_| Failure::new(Kind::Timeout, "connecting"))?.map(drop)
    }

    /// Sends a request, and gives the answer's body to `read` if its status is what `right` says. The status.
    pub async fn ask(
        &mut self,
        ask: &Ask,
        right: impl Fn(StatusCode) -> bool,
        read: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<StatusCode, Failure> {
        let within = self.place.within;
        let answer = match tokio::time::timeout(within, self.exchange(ask, right, read)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::new(Kind::Timeout, format!("{} s", within.as_secs()))),
        };
        if answer.as_ref().is_err_and(|failure| !matches!(failure.kind, Kind::Status(_))) {
            // What is still to come on it belongs to nobody.
            self.open = None;
        }
        answer
    }

    async fn exchange(
        &mut self,
        ask: &Ask,
        right: impl Fn(StatusCode) -> bool,
        mut read: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<StatusCode, Failure> {
        let mut answer = self.send(ask).await;
        if let Err(Unanswered { stale: true, .. }) = answer {
            // It was closed just when the request went out: that is the end of keep-alive, not a failure.
            self.reconnects += 1;
            self.open = None;
            answer = self.send(ask).await;
        }
        let response = answer.map_err(|unanswered| unanswered.failure)?;
        let open = self.open.as_mut().expect("it has just answered");
        open.used = true;
        let status = response.status();
        let mut body = response.into_body();
        if right(status) {
            while let Some(bytes) = open.next(&mut body).await? {
                read(&bytes)?;
            }
            return Ok(status);
        }
        let mut words = Vec::new();
        while let Some(bytes) = open.next(&mut body).await? {
            words.extend_from_slice(&bytes[..bytes.len().min(MAX_WORDS_BYTES.saturating_sub(words.len()))]);
        }
        Err(Failure::new(Kind::Status(status), message(&words)))
    }

    async fn send(&mut self, ask: &Ask) -> Result<Response<Incoming>, Unanswered> {
        let fatal = |failure| Unanswered { failure, stale: false };
        let request = request(ask, &self.place).map_err(fatal)?;
        let open = self.ready().await.map_err(fatal)?;
        let used = open.used;
        let answer = open.sender.send_request(request);
        drive(&mut open.driver, answer).await.map_err(|error| Unanswered {
            stale: used && (error.is_incomplete_message() || error.is_canceled() || is_reset(&error)),
            failure: Failure::new(Kind::Broken, root_cause(&error)),
        })
    }

    /// The connection, opened if it is not, or not any more.
    async fn ready(&mut self) -> Result<&mut Open, Failure> {
        let kept = match &mut self.open {
            None => false,
            Some(open) => {
                let ready = drive(&mut open.driver, open.sender.ready()).await.is_ok();
                self.reconnects += u64::from(!ready);
                ready
            }
        };
        if !kept {
            self.open = Some(Open::to(&self.place).await?);
        }
        Ok(self.open.as_mut().expect("it was just opened"))
    }
}

/// A request that got no answer.
struct Unanswered {
    failure: Failure,
    /// The connection had been kept open, and was closed before a byte of an answer.
    stale: bool,
}

impl Open {
    async fn to(place: &Place) -> Result<Self, Failure> {
        let refused = |error: &dyn std::fmt::Display| Failure::new(Kind::Connect, error);
        let stream = TcpStream::connect((place.host.as_str(), place.port)).await;
        let stream = stream.map_err(|error| refused(&error))?;
        stream.set_nodelay(true).map_err(|error| refused(&error))?;
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| refused(&error))?;
        let mut open = Self { sender, driver: Some(Box::pin(driver)), used: false };
        drive(&mut open.driver, open.sender.ready()).await.map_err(|error| refused(&error))?;
        Ok(open)
    }

    /// The next bytes of an answer.
    async fn next(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
        loop {
            match drive(&mut self.driver, body.frame()).await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Failure::new(Kind::Broken, root_cause(&error))),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

/// Waits for what a connection gives, and meanwhile has the connection work.
async fn drive<T>(driver: &mut Driver, step: impl Future<Output = T>) -> T {
    let mut step = pin!(step);
    poll_fn(|cx| {
        if let Some(connection) = driver
            && connection.as_mut().poll(cx).is_ready()
        {
            // How it ended, the step says too.
            *driver = None;
        }
        step.as_mut().poll(cx)
    })
    .await
}

fn is_reset(error: &hyper::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause {
        if let Some(io) = deeper.downcast_ref::<std::io::Error>() {
            return matches!(io.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe);
        }
        cause = deeper.source();
    }
    false
}

fn request(ask: &Ask, place: &Place) -> Result<Request<Content>, Failure> {
    let uri = Uri::from_maybe_shared(Bytes::from(ask.path.clone()));
    let uri = uri.map_err(|error| Failure::new(Kind::Broken, format!("{}: {error}", ask.path)))?;
    let mut request = Request::new(ask.body.clone());
    *request.method_mut() = ask.method.clone();
    *request.uri_mut() = uri;
    request.headers_mut().insert(header::HOST, place.host_header.clone());
    if ask.method == Method::PUT {
        request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(ask.body.len()));
    }
    if let Some(write) = ask.write {
        headers::set(request.headers_mut(), headers::WRITE, write);
    }
    Ok(request)
}

/// The `error` of a JSON answer, or its beginning as it is.
fn message(words: &[u8]) -> String {
    let said = serde_json::from_slice::<serde_json::Value>(words).ok();
    let said = said.and_then(|said| Some(said.get("error")?.as_str()?.to_owned()));
    said.unwrap_or_else(|| String::from_utf8_lossy(words).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_told_the_host_that_was_typed() {
        let host = |url: &str| Place::new(&url.parse().unwrap(), Duration::ZERO).host_header;
        assert_eq!(host("http://one:8080"), "one:8080");
        assert_eq!(host("http://[::1]"), "[::1]:80");
    }

    #[test]
    fn an_error_in_json_is_told_without_the_json() {
        assert_eq!(message(br#"{"error":"no room"}"#), "no room");
        assert_eq!(message(b"<html>bad"), "<html>bad");
    }
}
