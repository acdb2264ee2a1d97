//! One connection to one server, kept open from request to request. Requests are written and answers are read by the task that
//! waits for them, without hyper: what measures shares the machine with what is measured, and should need little of it.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::{Buf, BytesMut};
use http::{HeaderValue, Method, StatusCode, header, uri::PathAndQuery};
use httparse::Status;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    blobs::Content,
    failure::{Failure, Kind, MAX_WORDS_BYTES},
};
use crate::{
    admin::address::ServerUrl,
    client::answer::{self, Framing},
    http::{
        Head,
        headers::{self, Headers},
    },
    model::WriteLevel,
};

/// Room for the head of an answer, and all of a small one.
const FEW_BYTES: usize = 4 << 10;

/// The most that is read at once.
const MANY_BYTES: usize = 256 << 10;

/// The size of a chunk, or a trailer, is on a line that is never longer.
const LONGEST_LINE_BYTES: usize = 16 << 10;

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
        if self.open.is_none() {
            let opened = tokio::time::timeout(self.place.within, Open::to(&self.place)).await;
            self.open = Some(opened.map_err(|_| Failure::new(Kind::Timeout, "connecting"))??);
        }
        Ok(())
    }

    /// Sends a request, and gives the answer's body to `read` if its status is what `right` says. The status.
    pub async fn ask(
        &mut self,
        ask: &Ask,
        right: impl Fn(StatusCode) -> bool,
        read: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<StatusCode, Failure> {
        let within = self.place.within;
        let exchange = self.exchange(ask, right, read);
        match tokio::time::timeout(within, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::new(Kind::Timeout, format!("{} s", within.as_secs()))),
        }
    }

    async fn exchange(
        &mut self,
        ask: &Ask,
        right: impl Fn(StatusCode) -> bool,
        mut read: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<StatusCode, Failure> {
        let request = write_head(ask, &self.place)?;
        // Not its owner any more until all of the answer was read: what is still to come on it would belong to nobody.
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open::to(&self.place).await?,
        };
        let mut sent = open.send(&request, &ask.body).await;
        if sent.is_err() && open.is_used && open.input.is_empty() {
            // It was closed just when the request went out: that is the end of keep-alive, not a failure.
            self.reconnects += 1;
            open = Open::to(&self.place).await?;
            sent = open.send(&request, &ask.body).await;
        }
        let answer = sent?;
        let result = if right(answer.status) {
            open.read(answer.framing, &mut read).await.map(|()| answer.status)
        } else {
            let mut words = Vec::new();
            let mut keep = |part: &[u8]| {
                words.extend_from_slice(&part[..part.len().min(MAX_WORDS_BYTES - words.len())]);
                Ok(())
            };
            open.read(answer.framing, &mut keep).await?;
            Err(Failure::new(Kind::Status(answer.status), message(&words)))
        };
        let is_read = result.as_ref().err().is_none_or(|failure| matches!(failure.kind, Kind::Status(_)));
        if is_read && answer.keeps && open.input.is_empty() {
            self.open = Some(open);
        } else if is_read {
            self.reconnects += 1;
        }
        result
    }
}

/// An open connection.
struct Open {
    stream: TcpStream,
    /// What came and is not yet understood.
    input: BytesMut,
    /// Whether it answered before.
    is_used: bool,
}

/// The head of an answer.
struct Answer {
    status: StatusCode,
    framing: Framing,
    /// The server takes another request: it said so, and got all of this one.
    keeps: bool,
}

impl Open {
    async fn to(place: &Place) -> Result<Self, Failure> {
        let refused = |error: io::Error| Failure::new(Kind::Connect, error);
        let stream = TcpStream::connect((place.host.as_str(), place.port)).await.map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        Ok(Self { stream, input: BytesMut::new(), is_used: false })
    }

    /// Sends a request and reads the head of the answer.
    async fn send(&mut self, head: &[u8], body: &Content) -> Result<Answer, Failure> {
        let is_whole = self.write(head, body.clone()).await.map_err(broken)?;
        loop {
            if let Some(head) = answer::head(&self.input).map_err(|what| Failure::new(Kind::Broken, what))? {
                self.input.advance(head.length);
                if !head.status.is_informational() {
                    self.is_used = true;
                    let keeps = head.keeps && is_whole;
                    return Ok(Answer { status: head.status, framing: head.body, keeps });
                }
            } else {
                self.hear(FEW_BYTES).await?;
            }
        }
    }

    /// Writes head and body; `false` if the server said something, or closed, before it had all.
    async fn write(&mut self, mut head: &[u8], mut body: Content) -> io::Result<bool> {
        loop {
            let part = body.next(MANY_BYTES).unwrap_or_default();
            if head.is_empty() && part.is_empty() {
                return Ok(true);
            }
            match self.write_parts(&mut [head, &part].map(IoSlice::new)).await {
                Ok(true) => head = b"",
                // Of a kept connection it is the end. Of another one, what it said before it closed is read.
                Err(error) if self.is_used || !is_gone(&error) => return Err(error),
                Ok(false) | Err(_) => return Ok(false),
            }
        }
    }

    async fn write_parts(&mut self, mut parts: &mut [IoSlice<'_>]) -> io::Result<bool> {
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match self.write_or_hear(parts).await? {
                Some(0) => return Err(io::ErrorKind::WriteZero.into()),
                Some(wrote) => IoSlice::advance_slices(&mut parts, wrote),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Writes some of it: how many bytes. `None`: the server said something.
    async fn write_or_hear(&mut self, parts: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        poll_fn(|cx| {
            let mut room = [const { MaybeUninit::uninit() }; FEW_BYTES];
            let mut room = ReadBuf::uninit(&mut room);
            if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, &mut room) {
                self.input.extend_from_slice(room.filled());
                return Poll::Ready(match read {
                    Ok(()) if room.filled().is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
                    read => read.map(|()| None),
                });
            }
            Pin::new(&mut self.stream).poll_write_vectored(cx, parts).map_ok(Some)
        })
        .await
    }

    /// Reads what comes next. Its end is a failure.
    async fn hear(&mut self, most: usize) -> Result<(), Failure> {
        self.input.reserve(most);
        match self.stream.read_buf(&mut self.input).await.map_err(broken)? {
            0 => Err(Failure::new(Kind::Broken, "the connection was closed in mid answer")),
            _ => Ok(()),
        }
    }

    /// Reads the body of an answer.
    async fn read(
        &mut self,
        framing: Framing,
        read: &mut impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match framing {
            Framing::Length(length) => self.read_length(length as u64, read).await,
            Framing::Chunked => self.read_chunks(read).await,
            Framing::Close => loop {
                read(&self.input)?;
                self.input.clear();
                self.input.reserve(MANY_BYTES);
                if self.stream.read_buf(&mut self.input).await.map_err(broken)? == 0 {
                    return Ok(());
                }
            },
        }
    }

    async fn read_length(
        &mut self,
        mut left: u64,
        read: &mut impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        loop {
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let here = self.input.len().min(most);
            read(&self.input[..here])?;
            self.input.advance(here);
            left -= here as u64;
            if left == 0 {
                return Ok(());
            }
            self.hear(most.min(MANY_BYTES)).await?;
        }
    }

    async fn read_chunks(
        &mut self,
        read: &mut impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        loop {
            let line = self.line().await?;
            let Ok(Status::Complete((_, size))) = httparse::parse_chunk_size(&line) else {
                return Err(Failure::new(Kind::Broken, "its answer has a chunk without a size"));
            };
            if size == 0 {
                // Trailers, and the empty line behind them.
                while self.line().await?.len() > 2 {}
                return Ok(());
            }
            self.read_length(size, read).await?;
            if self.line().await?.len() > 2 {
                return Err(Failure::new(Kind::Broken, "its answer has a chunk that is longer than it says"));
            }
        }
    }

    /// The next line, with its end.
    async fn line(&mut self) -> Result<BytesMut, Failure> {
        loop {
            if let Some(end) = self.input.windows(2).position(|two| two == b"\r\n") {
                return Ok(self.input.split_to(end + 2));
            }
            if self.input.len() > LONGEST_LINE_BYTES {
                return Err(Failure::new(Kind::Broken, "its answer has a chunk without a size"));
            }
            self.hear(FEW_BYTES).await?;
        }
    }
}

fn broken(error: io::Error) -> Failure {
    Failure::new(Kind::Broken, error)
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset)
}

fn write_head(ask: &Ask, place: &Place) -> Result<Vec<u8>, Failure> {
    PathAndQuery::try_from(ask.path.as_str())
        .map_err(|error| Failure::new(Kind::Broken, format!("{}: {error}", ask.path)))?;
    let mut head = Head::request(ask.method.as_str(), &ask.path);
    head.line(&header::HOST, place.host_header.as_bytes());
    if ask.method == Method::PUT {
        head.set(header::CONTENT_LENGTH, ask.body.len());
    }
    if let Some(write) = ask.write {
        head.set(headers::WRITE, write);
    }
    Ok(head.finish())
}

/// The `error` of a JSON answer, or its beginning as it is.
fn message(words: &[u8]) -> String {
    let said = serde_json::from_slice::<serde_json::Value>(words).ok();
    let said = said.and_then(|said| Some(said.get("error")?.as_str()?.to_owned()));
    said.unwrap_or_else(|| String::from_utf8_lossy(words).into_owned())
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;
    use crate::admin::bench::blobs::Blobs;

    #[test]
    fn a_server_is_told_the_host_that_was_typed() {
        let host = |url: &str| Place::new(&url.parse().unwrap(), Duration::ZERO).host_header;
        assert_eq!(host("http://one:8080"), "one:8080");
        assert_eq!(host("http://[::1]"), "[::1]:80");
    }

    /// What a server is asked that answers each request of two connections so, and what is heard of it.
    async fn heard(answer: &'static str, path: &str, bytes: u64) -> (Wire, Result<(u16, String), Failure>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut came = Vec::new();
                    while stream.read_buf(&mut came).await.is_ok_and(|read| read > 0) {
                        let head = came.windows(4).position(|end| end == b"\r\n\r\n");
                        // A long body is not waited for.
                        let is_whole = |head| came.len() as u64 >= head as u64 + 4 + bytes % (1 << 20);
                        if !head.is_some_and(is_whole) {
                            continue;
                        }
                        came.clear();
                        // In pieces, as a network may bring them.
                        for piece in answer.as_bytes().chunks(3) {
                            if stream.write_all(piece).await.is_err() {
                                return;
                            }
                            tokio::task::yield_now().await;
                        }
                        if answer.contains("close") {
                            return;
                        }
                    }
                });
            }
        });
        let mut wire = Wire::new(Arc::new(Place::new(&url, Duration::from_secs(60))));
        let blobs = Blobs::new("b".to_owned(), bytes.to_string().parse().unwrap(), 1);
        let (method, body) = match bytes {
            0 => (Method::GET, Content::empty()),
            _ => (Method::PUT, blobs.content(1)),
        };
        let ask = Ask { method, path: path.to_owned(), body, write: None };
        let mut text = String::new();
        let status = wire.ask(
            &ask,
            |status| status.is_success(),
            |part| {
                text += str::from_utf8(part).unwrap();
                Ok(())
            },
        );
        let status = status.await;
        (wire, status.map(|status| (status.as_u16(), text)))
    }

    #[tokio::test]
    async fn answers_of_all_kinds() {
        for (answer, right, keeps) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde", "abcde", true),
            ("HTTP/1.1 204 No Content\r\n\r\n", "", true),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", "a", true),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nA: b\r\n\r\n",
                "abcde",
                true,
            ),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab", "ab", false),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end", "to the end", false),
        ] {
            for bytes in [0, 1, 10_000] {
                let (mut wire, heard) = heard(answer, "/a", bytes).await;
                let status = if answer.contains("204") { 204 } else { 200 };
                assert_eq!(heard, Ok((status, right.to_owned())), "{answer}");
                assert_eq!(
                    (wire.open.is_some(), wire.take_reconnects()),
                    (keeps, u64::from(!keeps)),
                    "{answer}"
                );
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_a_failure_and_so_is_a_refusal() {
        let (_, no_target) = heard("", "/a b", 0).await;
        assert_eq!(no_target.unwrap_err().kind, Kind::Broken);
        for (answer, kind, words) in [
            ("close", Kind::Broken, ""),
            ("HTTP/1.1 200 OK\r\nA: close\r\nContent-Length: 5\r\n\r\nab", Kind::Broken, ""),
            (
                "HTTP/1.1 200 OK\r\nA: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
                Kind::Broken,
                "",
            ),
            ("HTTP/1.1 200 OK\r\nA: close\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", Kind::Broken, ""),
            (
                "HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 19\r\n\r\n{\"error\":\"no room\"}",
                Kind::Status(StatusCode::INSUFFICIENT_STORAGE),
                "no room",
            ),
        ] {
            let (_, heard) = heard(answer, "/a", 0).await;
            let failure = heard.unwrap_err();
            assert_eq!(failure.kind, kind, "{answer}: {failure}");
            assert!(failure.words.contains(words), "{answer}: {failure}");
        }
        // Said long before the end of a body that nobody reads: more than fits on the way.
        let refusal = "HTTP/1.1 413 Payload Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        let (mut wire, heard) = heard(refusal, "/a", 64 << 20).await;
        let failure = heard.unwrap_err();
        // The server may have closed before it was heard.
        let is_told = [Kind::Status(StatusCode::PAYLOAD_TOO_LARGE), Kind::Broken].contains(&failure.kind);
        assert!(is_told && wire.open.is_none(), "{failure}");
        assert!(wire.take_reconnects() <= 1);
    }

    #[test]
    fn an_error_in_json_is_told_without_the_json() {
        assert_eq!(message(br#"{"error":"no room"}"#), "no room");
        assert_eq!(message(b"<html>bad"), "<html>bad");
    }
}
