//! A small HTTP client that sends exactly what it is told to, so that malformed requests can be sent too.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use super::wait::Deadline;

/// A whole exchange takes at most this long.
const EXCHANGE_WITHIN: Duration = Duration::from_secs(60);

/// A request on a connection of its own.
#[derive(Clone)]
pub struct Request {
    addr: String,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    within: Duration,
}

impl Request {
    /// `addr` is `host:port`; `target` goes into the request line as it is.
    pub fn new(method: &str, addr: &str, target: &str) -> Self {
        Self {
            addr: addr.to_owned(),
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            within: EXCHANGE_WITHIN,
        }
    }

    /// A GET.
    pub fn get(addr: &str, target: &str) -> Self {
        Self::new("GET", addr, target)
    }

    /// A PUT, with its length.
    pub fn put(addr: &str, target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("PUT", addr, target).body(body)
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body; its length is sent as `Content-Length`.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.header("Content-Length", &length)
    }

    /// Sets the body and sends it in chunks of this size, without saying its length.
    pub fn chunked(mut self, body: &[u8], chunk_bytes: usize) -> Self {
        for chunk in body.chunks(chunk_bytes) {
            self.body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            self.body.extend_from_slice(chunk);
            self.body.extend_from_slice(b"\r\n");
        }
        self.body.extend_from_slice(b"0\r\n\r\n");
        self.header("Transfer-Encoding", "chunked")
    }

    /// Gives up after this time.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// Sends it and reads the reply to its end.
    pub fn send_blocking(&self) -> io::Result<Reply> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, self.target, self.addr);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "Connection: close\r\n\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        let (answer, ended) = talk(&self.addr, &bytes, self.within)?;
        if !ended {
            return Err(io::Error::new(
                ErrorKind::TimedOut,
                format!("no whole reply within {:?}", self.within),
            ));
        }
        Reply::parse(&answer, self.method == "HEAD")
    }

    /// The same for async tests; the runtime is not blocked.
    pub async fn send(&self) -> io::Result<Reply> {
        let request = self.clone();
        tokio::task::spawn_blocking(move || request.send_blocking()).await.map_err(io::Error::other)?
    }
}

/// A whole reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its headers, as sent.
    pub headers: Vec<(String, String)>,
    /// Its body, without chunked framing.
    pub body: Vec<u8>,
}

impl Reply {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Its body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Reads the final reply out of what came on a connection until its end; fails when the body is cut short.
    pub fn parse(bytes: &[u8], head_only: bool) -> io::Result<Self> {
        let end = find(bytes, b"\r\n\r\n").ok_or_else(|| broken("the reply has no whole head"))?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let rest = &bytes[end + 4..];
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|word| word.parse().ok());
        let status: u16 = status.ok_or_else(|| broken("the reply has no status"))?;
        if (100..200).contains(&status) {
            return Self::parse(rest, head_only);
        }
        let header = |line: &str| line.split_once(':').map(|(n, v)| (n.to_owned(), v.trim().to_owned()));
        let mut reply = Self { status, headers: lines.filter_map(header).collect(), body: Vec::new() };
        if !(head_only || status == 204 || status == 304) {
            reply.body = reply.body_of(rest)?;
        }
        Ok(reply)
    }

    fn body_of(&self, rest: &[u8]) -> io::Result<Vec<u8>> {
        if self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return unchunk(rest);
        }
        let length = self.header("content-length").map_or(Ok(rest.len()), str::parse);
        let length = length.map_err(|_| broken("the reply's length is no number"))?;
        rest.get(..length).map(<[u8]>::to_vec).ok_or_else(|| broken("the reply's body is cut short"))
    }
}

/// Sends these bytes and gives what came back until the server closed the connection or the time was over.
pub fn exchange(addr: &str, bytes: &[u8], within: Duration) -> io::Result<Vec<u8>> {
    talk(addr, bytes, within).map(|(answer, _)| answer)
}

/// The answer, and whether the server ended it.
fn talk(addr: &str, bytes: &[u8], within: Duration) -> io::Result<(Vec<u8>, bool)> {
    let deadline = Deadline::within(within);
    let mut stream = TcpStream::connect(addr)?;
    stream.set_write_timeout(Some(deadline.left()))?;
    // A server may answer and close before it has read everything: what it said counts, not that sending failed.
    let sent = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        if deadline.is_over() {
            return Ok((answer, false));
        }
        stream.set_read_timeout(Some(deadline.left()))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok((answer, true)),
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) if answer.is_empty() => return Err(sent.err().unwrap_or(error)),
            Err(_) => return Ok((answer, true)),
        }
    }
}

fn unchunk(mut rest: &[u8]) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = find(rest, b"\r\n").ok_or_else(|| broken("the chunked body is cut short"))?;
        let size = String::from_utf8_lossy(&rest[..end]);
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16);
        let size = size.map_err(|_| broken("a chunk's size is no number"))?;
        if size == 0 {
            return Ok(body);
        }
        let chunk =
            rest.get(end + 2..end + 2 + size).ok_or_else(|| broken("the chunked body is cut short"))?;
        body.extend_from_slice(chunk);
        rest = rest.get(end + 4 + size..).ok_or_else(|| broken("the chunked body is cut short"))?;
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn broken(what: &str) -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, what)
}
