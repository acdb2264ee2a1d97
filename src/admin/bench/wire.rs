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

/// The size of a chunk, or a trailer, is on a line; a longer one is not waited for.
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
    /// The server closed the last one with its answer.
    was_closed: bool,
    /// Connections that were closed between two requests and opened again.
    reconnects: u64,
}

impl Wire {
    /// Connects to nothing yet.
    pub fn new(place: Arc<Place>) -> Self {
        Self { place, open: None, was_closed: false, reconnects: 0 }
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
        // Nobody's until all of the answer was read: what is still to come on it belongs to no other request.
        let kept = self.open.take();
        let is_kept = kept.as_ref().is_some_and(Open::is_quiet);
        let mut open = match kept {
            Some(open) if is_kept => open,
            closed => {
                self.reconnects += u64::from(closed.is_some() || self.was_closed);
                Open::to(&self.place).await?
            }
        };
        self.was_closed = false;
        let mut sent = open.send(&request, &ask.body).await;
        if is_kept && !open.heard && matches!(sent, Err(Unanswered::Closed(_))) {
            // It was closed just when the request went out: that is the end of keep-alive, not a failure.
            self.reconnects += 1;
            open = Open::to(&self.place).await?;
            sent = open.send(&request, &ask.body).await;
        }
        let answer = sent.map_err(|unanswered| match unanswered {
            Unanswered::Closed(error) => broken(error),
            Unanswered::Failed(failure) => failure,
        })?;
        let result = if right(answer.status) {
            if !answer.is_late {
                return Err(Failure::new(Kind::Broken, "it answered before it had all of the body"));
            }
            open.read(answer.framing, &mut read).await?;
            Ok(answer.status)
        } else {
            let mut words = Vec::new();
            let mut keep = |part: &[u8]| {
                words.extend_from_slice(&part[..part.len().min(MAX_WORDS_BYTES - words.len())]);
                Ok(())
            };
            open.read(answer.framing, &mut keep).await?;
            Err(Failure::new(Kind::Status(answer.status), message(&words)))
        };
        if answer.keeps && answer.is_late && open.input.is_empty() {
            self.open = Some(open);
        } else {
            self.was_closed = true;
        }
        result
    }
}

/// Why a request got no answer.
enum Unanswered {
    /// The connection was closed.
    Closed(io::Error),
    /// Anything else.
    Failed(Failure),
}

impl From<io::Error> for Unanswered {
    fn from(error: io::Error) -> Self {
        let is_closed = is_gone(&error) || error.kind() == io::ErrorKind::UnexpectedEof;
        if is_closed { Self::Closed(error) } else { Self::Failed(broken(error)) }
    }
}

/// An open connection.
struct Open {
    stream: TcpStream,
    /// What came and is not yet understood.
    input: BytesMut,
    /// Whether anything came since the last request began.
    heard: bool,
}

/// The head of an answer.
struct Answer {
    status: StatusCode,
    framing: Framing,
    /// The server takes another request.
    keeps: bool,
    /// It came when all of the request was sent.
    is_late: bool,
}

impl Open {
    async fn to(place: &Place) -> Result<Self, Failure> {
        let refused = |error: io::Error| Failure::new(Kind::Connect, error);
        let stream = TcpStream::connect((place.host.as_str(), place.port)).await.map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        Ok(Self { stream, input: BytesMut::new(), heard: false })
    }

    /// Whether the server neither closed it nor said anything since its last answer, as far as is known.
    fn is_quiet(&self) -> bool {
        self.stream.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a request and reads the head of the answer.
    async fn send(&mut self, head: &[u8], body: &Content) -> Result<Answer, Unanswered> {
        self.heard = false;
        let is_late = self.write(head, body.clone()).await?;
        loop {
            match answer::head(&self.input).map_err(|what| Unanswered::Failed(not_http(what)))? {
                None => self.hear(FEW_BYTES).await?,
                Some(head) => {
                    self.input.advance(head.length);
                    if !head.status.is_informational() {
                        let answer::Head { status, body: framing, keeps, .. } = head;
                        return Ok(Answer { status, framing, keeps, is_late });
                    }
                }
            }
        }
    }

    /// Writes head and body; `false` if the server answered before it had all.
    async fn write(&mut self, mut head: &[u8], mut body: Content) -> io::Result<bool> {
        loop {
            let part = body.next(MANY_BYTES).unwrap_or_default();
            if head.is_empty() && part.is_empty() {
                return Ok(true);
            }
            match self.write_parts(&mut [head, &part].map(IoSlice::new)).await {
                Ok(true) => head = b"",
                Ok(false) => return Ok(false),
                // What it said before it closed is read.
                Err(error) if is_gone(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    async fn write_parts(&mut self, mut parts: &mut [IoSlice<'_>]) -> io::Result<bool> {
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match self.write_or_hear(parts).await? {
                Some(0) => return Err(io::ErrorKind::WriteZero.into()),
                Some(wrote) => IoSlice::advance_slices(&mut parts, wrote),
                None if self.has_answer() => return Ok(false),
                None => {}
            }
        }
        Ok(true)
    }

    /// Whether what came is more than a word that the request goes on (100, 103).
    fn has_answer(&mut self) -> bool {
        loop {
            match answer::head(&self.input) {
                Ok(None) => return false,
                Ok(Some(head)) if head.status.is_informational() => self.input.advance(head.length),
                Ok(Some(_)) | Err(_) => return true,
            }
        }
    }

    /// Writes some of it: how many bytes. `None`: the server said something.
    async fn write_or_hear(&mut self, parts: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        poll_fn(|cx| {
            let mut room = [const { MaybeUninit::uninit() }; FEW_BYTES];
            let mut room = ReadBuf::uninit(&mut room);
            if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, &mut room) {
                self.heard |= !room.filled().is_empty();
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

    /// Reads what comes next. Its end is an error.
    async fn hear(&mut self, most: usize) -> io::Result<()> {
        self.input.reserve(most);
        if self.stream.read_buf(&mut self.input).await? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection was closed in mid answer",
            ));
        }
        self.heard = true;
        Ok(())
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
            self.hear(most.min(MANY_BYTES)).await.map_err(broken)?;
        }
    }

    async fn read_chunks(
        &mut self,
        read: &mut impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        loop {
            let size = chunk_size(&self.line().await?)?;
            if size == 0 {
                // Trailers, and the empty line behind them.
                while self.line().await?.len() > 2 {}
                return Ok(());
            }
            self.read_length(size, read).await?;
            if self.line().await?.len() > 2 {
                return Err(not_http("a chunk is longer than it says"));
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
                return Err(not_http("a line between chunks does not end"));
            }
            self.hear(FEW_BYTES).await.map_err(broken)?;
        }
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, Failure> {
    match httparse::parse_chunk_size(line) {
        Ok(Status::Complete((_, size))) if line[0].is_ascii_hexdigit() => Ok(size),
        _ => Err(not_http("a chunk has no size")),
    }
}

fn not_http(what: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Broken, what)
}

fn broken(error: io::Error) -> Failure {
    Failure::new(Kind::Broken, error)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
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

    /// A server that says `early` to each head, and `answer` once it has the body too.
    async fn server(early: &'static str, answer: &'static str, body_bytes: u64) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(stream, early, answer, body_bytes));
            }
        });
        Wire::new(Arc::new(Place::new(&url, Duration::from_secs(60))))
    }

    /// Ends where the answer says that it does.
    async fn talk(mut stream: TcpStream, early: &str, answer: &str, body_bytes: u64) -> io::Result<()> {
        let (mut came, mut said_early) = (Vec::new(), false);
        while stream.read_buf(&mut came).await? > 0 {
            let Some(head) = came.windows(4).take(1000).position(|end| end == b"\r\n\r\n") else { continue };
            if !std::mem::replace(&mut said_early, true) {
                stream.write_all(early.as_bytes()).await?;
            }
            if (came.len() as u64) < head as u64 + 4 + body_bytes {
                continue;
            }
            (came, said_early) = (Vec::new(), false);
            // In pieces, as a network may bring them.
            for piece in answer.as_bytes().chunks(3) {
                stream.write_all(piece).await?;
                tokio::task::yield_now().await;
            }
            if answer.contains("close") {
                break;
            }
        }
        Ok(())
    }

    /// Asks for something, or uploads so many bytes: the status and what was said.
    async fn ask(wire: &mut Wire, path: &str, body_bytes: u64) -> Result<(u16, String), Failure> {
        let blobs = Blobs::new("b".to_owned(), body_bytes.to_string().parse().unwrap(), 1);
        let (method, body) = match body_bytes {
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
        let status = status.await?;
        Ok((status.as_u16(), text))
    }

    async fn heard(answer: &'static str, body_bytes: u64) -> Result<(u16, String), Failure> {
        ask(&mut server("", answer, body_bytes).await, "/a", body_bytes).await
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
                let mut wire = server("", answer, bytes).await;
                let status = if answer.contains("204") { 204 } else { 200 };
                for turn in 0..3 {
                    let heard = ask(&mut wire, "/a", bytes).await;
                    assert_eq!(heard, Ok((status, right.to_owned())), "{answer}");
                    let reconnects = u64::from(turn > 0 && !keeps);
                    assert_eq!(
                        (wire.open.is_some(), wire.take_reconnects()),
                        (keeps, reconnects),
                        "{answer}"
                    );
                }
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_a_failure_and_so_is_a_refusal() {
        let no_target = ask(&mut server("", "", 0).await, "/a b", 0).await;
        assert_eq!(no_target.unwrap_err().kind, Kind::Broken);
        for answer in [
            "close",
            "HTTP/1.1 200 OK\r\nA: close\r\nContent-Length: 5\r\n\r\nab",
            concat!("HTTP/1.1 200 OK\r\nA: close\r\nTransfer-Encoding: chunked\r\n\r\n", "3\r\nabcd\r\n"),
            concat!(
                "HTTP/1.1 200 OK\r\nA: close\r\nTransfer-Encoding: chunked\r\n\r\n",
                "3\r\nabc\r\n\r\n\r\n"
            ),
            concat!("HTTP/1.1 200 OK\r\nA: close\r\nTransfer-Encoding: chunked\r\n\r\n", "x\r\n"),
            concat!("HTTP/1.1 200 OK\r\nA: close\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\n"),
        ] {
            let failure = heard(answer, 0).await.unwrap_err();
            assert_eq!(failure.kind, Kind::Broken, "{answer}: {failure}");
        }
        let no_room =
            "HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 19\r\n\r\n{\"error\":\"no room\"}";
        let failure = heard(no_room, 0).await.unwrap_err();
        assert_eq!(failure, Failure::new(Kind::Status(StatusCode::INSUFFICIENT_STORAGE), "no room"));
    }

    #[tokio::test]
    async fn what_is_said_in_mid_upload() {
        const LONG: u64 = 64 << 20;
        let ok = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
        let mut wire =
            server("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n", ok, LONG).await;
        assert_eq!(ask(&mut wire, "/a", LONG).await, Ok((201, String::new())));
        assert!(wire.open.is_some());
        // It cannot have what it did not wait for.
        let failure = ask(&mut server(ok, ok, LONG).await, "/a", LONG).await.unwrap_err();
        assert_eq!(failure.kind, Kind::Broken, "{failure}");
        let refusal = "HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n";
        let mut wire = server(refusal, ok, LONG).await;
        let failure = ask(&mut wire, "/a", LONG).await.unwrap_err();
        assert_eq!(failure.kind, Kind::Status(StatusCode::PAYLOAD_TOO_LARGE), "{failure}");
        assert!(wire.open.is_none());
    }

    #[tokio::test]
    async fn a_kept_connection_that_said_something_is_not_used_again() {
        let surplus = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";
        let mut wire = server(surplus, surplus, 0).await;
        for turn in 0..3 {
            assert_eq!(ask(&mut wire, "/a", 0).await, Ok((200, "a".to_owned())));
            let open = wire.open.as_ref();
            // It comes at once, or is met by the next request.
            if let Some(open) = open {
                open.stream.readable().await.unwrap();
                assert!(!open.is_quiet());
            }
            assert_eq!(wire.take_reconnects(), u64::from(turn > 0));
        }
    }

    #[test]
    fn an_error_in_json_is_told_without_the_json() {
        assert_eq!(message(br#"{"error":"no room"}"#), "no room");
        assert_eq!(message(b"<html>bad"), "<html>bad");
    }
}
