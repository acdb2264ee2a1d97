//! Answers as bytes.

use std::{
    cell::RefCell,
    fmt::{self, Display, Write},
    io,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::{Buf, Bytes};
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::Reply;
use crate::http::{Answer, Body, headers::Headers};

/// Room for the head of nearly every answer.
const USUAL_BYTES: usize = 512;

/// The head of an answer, in the form in which it is sent.
#[derive(Debug)]
pub struct Head(Vec<u8>);

impl Head {
    /// The first line.
    pub fn new(status: StatusCode) -> Self {
        let mut bytes = Vec::with_capacity(USUAL_BYTES);
        bytes.extend_from_slice(b"HTTP/1.1 ");
        bytes.extend_from_slice(status.as_str().as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        bytes.extend_from_slice(b"\r\n");
        Self(bytes)
    }

    fn begin(&mut self, name: &HeaderName) {
        self.0.extend_from_slice(name.as_str().as_bytes());
        self.0.extend_from_slice(b": ");
    }

    fn line(&mut self, name: &HeaderName, value: &[u8]) {
        self.begin(name);
        self.0.extend_from_slice(value);
        self.0.extend_from_slice(b"\r\n");
    }

    /// Whatever every answer ends with. The connection ends with this one if it `closes`.
    fn end(mut self, closes: bool) -> Vec<u8> {
        if closes {
            self.line(&header::CONNECTION, b"close");
        }
        with_date(|date| self.line(&header::DATE, date));
        self.0.extend_from_slice(b"\r\n");
        self.0
    }
}

impl Headers for Head {
    fn set(&mut self, name: HeaderName, value: impl Display) {
        self.begin(&name);
        let from = self.0.len();
        // Into memory, so it cannot fail.
        let _ = write!(Text(&mut self.0), "{value}");
        debug_assert!(!self.0[from..].iter().any(u8::is_ascii_control), "{name} is no header's value");
        self.0.extend_from_slice(b"\r\n");
    }

    fn add(&mut self, name: HeaderName, value: HeaderValue) {
        self.line(&name, value.as_bytes());
    }
}

/// Text at the end of bytes.
struct Text<'a>(&'a mut Vec<u8>);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// The date of now, written once a second.
fn with_date(with: impl FnOnce(&[u8])) {
    thread_local!(static WRITTEN: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) });
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    WRITTEN.with_borrow_mut(|(written, date)| {
        if *written != second || date.is_empty() {
            (*written, *date) = (second, httpdate::fmt_http_date(now));
        }
        with(date.as_bytes());
    });
}

/// Sends an answer. `closes`: the last one of its connection.
pub async fn send(to: &mut (impl AsyncWrite + Unpin), reply: Reply, closes: bool) -> io::Result<()> {
    let (head, body, has_length) = match reply {
        Reply::Whole(head, body) => (head, body, true),
        Reply::Answer(answer) => head_of(answer),
    };
    let head = head.end(closes);
    match body {
        Body::Empty => to.write_all(&head).await,
        Body::Full(bytes) => send_all(to, &head, bytes).await,
        Body::Stream(_) => stream(to, head, body, has_length).await,
    }
}

/// The head and the body of an answer, and whether the head says how long the body is.
fn head_of(answer: Answer) -> (Head, Body, bool) {
    let (parts, body) = answer.into_parts();
    let mut head = Head::new(parts.status);
    for (name, value) in &parts.headers {
        head.line(name, value.as_bytes());
    }
    let has_no_body = parts.status == StatusCode::NOT_MODIFIED || parts.status == StatusCode::NO_CONTENT;
    if has_no_body || parts.headers.contains_key(header::CONTENT_LENGTH) {
        return (head, if has_no_body { Body::Empty } else { body }, true);
    }
    let length = body.size_hint().exact();
    match length {
        Some(length) => head.set(header::CONTENT_LENGTH, length),
        None => head.line(&header::TRANSFER_ENCODING, b"chunked"),
    }
    (head, body, length.is_some())
}

async fn send_all(to: &mut (impl AsyncWrite + Unpin), head: &[u8], body: Bytes) -> io::Result<()> {
    to.write_all_buf(&mut head.chain(body)).await
}

/// Sends the parts of a body as they come, in chunks where nobody knows how many bytes there are.
async fn stream(
    to: &mut (impl AsyncWrite + Unpin),
    mut head: Vec<u8>,
    mut body: Body,
    has_length: bool,
) -> io::Result<()> {
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(io::Error::other)?.into_data() else { continue };
        if has_length {
            send_all(to, &std::mem::take(&mut head), bytes).await?;
        } else if !bytes.is_empty() {
            let _ = write!(Text(&mut head), "{:x}\r\n", bytes.len());
            send_all(to, &std::mem::take(&mut head), bytes).await?;
            head.extend_from_slice(b"\r\n");
        }
    }
    if !has_length {
        head.extend_from_slice(b"0\r\n\r\n");
    }
    to.write_all(&head).await
}
