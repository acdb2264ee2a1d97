//! Answers as bytes.

use std::{
    cell::RefCell,
    io,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use http::{StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::Reply;
use crate::http::{
    Answer, Body, Head,
    headers::{self, Headers},
};

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

/// Sends an answer. `closes`: the last one of its connection. After an error nothing can be sent on the connection any more.
pub async fn send(to: &mut (impl AsyncWrite + Unpin), reply: Reply, closes: bool) -> io::Result<()> {
    let (head, body, length) = match reply {
        Reply::Whole { head, body, length } => (head, body, Some(length)),
        Reply::Answer(answer) => head_of(answer),
    };
    let head = finish(head, closes);
    match body {
        Body::Empty => to.write_all(&head).await?,
        Body::Full(bytes) => send_all(to, &head, bytes).await?,
        Body::Stream(_) => match length {
            Some(length) => stream(to, head, body, length).await?,
            None => stream_chunks(to, head, body).await?,
        },
    }
    to.flush().await
}

/// Adds whatever every answer ends with. The connection ends with this one if it `closes`.
fn finish(mut head: Head, closes: bool) -> Vec<u8> {
    if closes {
        head.line(&header::CONNECTION, b"close");
    }
    with_date(|date| head.line(&header::DATE, date));
    head.finish()
}

/// The head and the body of an answer, and how many bytes the body has; `None`: it is sent in chunks.
fn head_of(answer: Answer) -> (Head, Body, Option<u64>) {
    let (parts, body) = answer.into_parts();
    let mut head = Head::answer(parts.status);
    for (name, value) in &parts.headers {
        head.line(name, value.as_bytes());
    }
    if parts.status == StatusCode::NOT_MODIFIED || parts.status == StatusCode::NO_CONTENT {
        return (head, Body::Empty, Some(0));
    }
    if let Some(length) = headers::get(&parts.headers, header::CONTENT_LENGTH) {
        return (head, body, Some(length));
    }
    let length = body.size_hint().exact();
    match length {
        Some(length) => head.set(header::CONTENT_LENGTH, length),
        None => head.line(&header::TRANSFER_ENCODING, b"chunked"),
    }
    (head, body, length)
}

async fn send_all(to: &mut (impl AsyncWrite + Unpin), head: &[u8], body: Bytes) -> io::Result<()> {
    to.write_all_buf(&mut head.chain(body)).await
}

/// The next bytes of a body.
async fn next(body: &mut Body) -> io::Result<Option<Bytes>> {
    while let Some(frame) = body.frame().await {
        match frame.map_err(io::Error::other)?.into_data() {
            Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
            _ => {}
        }
    }
    Ok(None)
}

/// The first bytes of a body. If they take their time the head goes without them: the client is to know that something comes.
async fn first(
    to: &mut (impl AsyncWrite + Unpin),
    head: &mut Vec<u8>,
    body: &mut Body,
) -> io::Result<Option<Bytes>> {
    if let Some(first) = next(body).now_or_never() {
        return first;
    }
    to.write_all(head).await?;
    head.clear();
    next(body).await
}

/// Sends the parts of a body as they come, which must be so many bytes.
async fn stream(
    to: &mut (impl AsyncWrite + Unpin),
    mut head: Vec<u8>,
    mut body: Body,
    mut left: u64,
) -> io::Result<()> {
    let mut part = first(to, &mut head, &mut body).await?;
    while let Some(bytes) = part {
        left = left.checked_sub(bytes.len() as u64).ok_or_else(|| io::Error::other("a body is too long"))?;
        send_all(to, &std::mem::take(&mut head), bytes).await?;
        part = next(&mut body).await?;
    }
    if left > 0 { Err(io::Error::other("a body is too short")) } else { to.write_all(&head).await }
}

/// Sends the parts of a body as they come, each as a chunk.
async fn stream_chunks(
    to: &mut (impl AsyncWrite + Unpin),
    mut head: Vec<u8>,
    mut body: Body,
) -> io::Result<()> {
    let mut part = first(to, &mut head, &mut body).await?;
    while let Some(bytes) = part {
        head.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
        to.write_all_buf(&mut head.chain(bytes).chain(&b"\r\n"[..])).await?;
        head.clear();
        part = next(&mut body).await?;
    }
    head.extend_from_slice(b"0\r\n\r\n");
    to.write_all(&head).await
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http::Response;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::http::{body::BoxError, reply};

    /// What is sent, but for the date; `None` if the connection has to be cut.
    async fn sent(answer: Answer, closes: bool) -> Option<String> {
        let mut bytes = Vec::new();
        send(&mut bytes, Reply::Answer(answer), closes).await.ok()?;
        let text = String::from_utf8(bytes).unwrap();
        let is_date = |line: &&str| line.starts_with("date: ");
        assert_eq!(text.split("\r\n").filter(is_date).count(), 1, "{text}");
        Some(text.split("\r\n").filter(|line| !is_date(line)).collect::<Vec<_>>().join("|"))
    }

    fn streamed(length: Option<u64>, parts: &'static [Result<&'static str, &'static str>]) -> Answer {
        let frames = parts.iter().map(|part| match part {
            Ok(text) => Ok(Frame::data(Bytes::from_static(text.as_bytes()))),
            Err(error) => Err(BoxError::from(*error)),
        });
        let mut answer = Response::new(Body::stream(StreamBody::new(stream::iter(frames))));
        if let Some(length) = length {
            headers::set(answer.headers_mut(), header::CONTENT_LENGTH, length);
        }
        answer
    }

    #[tokio::test]
    async fn answers_as_they_are_sent() {
        let plain = reply::text(StatusCode::NOT_FOUND, "no\n");
        let expected =
            "HTTP/1.1 404 Not Found|content-type: text/plain; charset=utf-8|content-length: 3||no\n";
        assert_eq!(sent(plain, false).await.unwrap(), expected);
        let empty = || reply::empty(StatusCode::OK);
        assert_eq!(sent(empty(), false).await.unwrap(), "HTTP/1.1 200 OK|content-length: 0||");
        let closing = "HTTP/1.1 200 OK|content-length: 0|connection: close||";
        assert_eq!(sent(empty(), true).await.unwrap(), closing);
        for status in [StatusCode::NOT_MODIFIED, StatusCode::NO_CONTENT] {
            let without = sent(reply::text(status, "never sent"), false).await.unwrap();
            assert!(without.ends_with("charset=utf-8||") && !without.contains("length"), "{without}");
        }
    }

    #[tokio::test]
    async fn a_body_has_the_length_that_was_said_or_the_connection_ends() {
        let whole = sent(streamed(Some(5), &[Ok("ab"), Ok(""), Ok("cde")]), false).await.unwrap();
        assert_eq!(whole, "HTTP/1.1 200 OK|content-length: 5||abcde");
        assert_eq!(sent(streamed(Some(0), &[]), false).await.unwrap(), "HTTP/1.1 200 OK|content-length: 0||");
        assert!(sent(streamed(Some(5), &[Ok("abcd")]), false).await.is_none());
        assert!(sent(streamed(Some(5), &[Ok("abc"), Ok("def")]), false).await.is_none());
        assert!(sent(streamed(Some(5), &[Ok("abc"), Err("damaged")]), false).await.is_none());
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_comes_in_chunks() {
        let head = "HTTP/1.1 200 OK|transfer-encoding: chunked||";
        let whole = sent(streamed(None, &[Ok("0123456789"), Ok(""), Ok("abcdefg")]), false).await.unwrap();
        assert_eq!(whole, format!("{head}a|0123456789|7|abcdefg|0||"));
        assert_eq!(sent(streamed(None, &[]), false).await.unwrap(), format!("{head}0||"));
        assert!(sent(streamed(None, &[Ok("abc"), Err("damaged")]), false).await.is_none());
    }

    #[tokio::test]
    async fn the_head_does_not_wait_for_a_body_that_takes_its_time() {
        for length in [Some(3), None] {
            let (parts, mut body) = tokio::sync::mpsc::unbounded_channel::<Result<_, BoxError>>();
            let frames = stream::poll_fn(move |cx| body.poll_recv(cx));
            let mut answer = Response::new(Body::stream(StreamBody::new(frames)));
            if let Some(length) = length {
                headers::set(answer.headers_mut(), header::CONTENT_LENGTH, length);
            }
            let (mut to, mut client) = tokio::io::duplex(64 << 10);
            let sending = tokio::spawn(async move { send(&mut to, Reply::Answer(answer), false).await });
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            parts.send(Ok(Frame::data(Bytes::from_static(b"abc")))).unwrap();
            drop(parts);
            let mut body = String::new();
            client.read_to_string(&mut body).await.unwrap();
            assert_eq!(body, if length.is_some() { "abc" } else { "3\r\nabc\r\n0\r\n\r\n" });
            sending.await.unwrap().unwrap();
        }
    }
}
