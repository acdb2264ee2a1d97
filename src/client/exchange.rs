//! An upload on a connection, and the answer to it, without hyper: in the caller's task instead of one of the connection's, and
//! without memory of its own while the source has nothing to send (docs/decisions/0019).
//!
//! A server may answer in mid body, and then close or read no more, as one that is full does. So whatever is waited for, the
//! server is listened to; and where bytes meet a reset, what it said before is read.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{timeout, timeout_at},
};

use super::{
    Failed, ServerError, Stored, Stream, Timeouts,
    answer::{self, Framing, Head},
    error::{self, MESSAGE_WITHIN},
    upload::Upload,
};

/// What is read at once, on the stack: a connection that waits holds no memory for it.
const READ_BYTES: usize = 2 << 10;

/// More of an answer's body is not read: its connection is closed.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// A connection to a server.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    /// What came and is not yet understood.
    input: Vec<u8>,
    /// It answered an earlier request.
    answered: bool,
    /// It said something since the last request began.
    heard: bool,
}

/// A server's answer.
pub(super) struct Answered {
    pub(super) result: Result<Stored, ServerError>,
    /// The connection can be used for another request.
    pub(super) keeps: bool,
}

/// Why there is none.
enum Trouble {
    /// The connection is of no use any more.
    Connection(String),
    Other(ServerError),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Connection(error.to_string())
    }
}

/// What happened first.
enum Event<T> {
    Done(T),
    /// The server said something.
    Heard,
}

impl Connection {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, input: Vec::new(), answered: false, heard: false }
    }

    /// Whether the server neither closed it nor said anything since its last answer.
    pub(super) async fn is_quiet(&mut self) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(self.poll_hear(cx).is_pending())).await
    }

    /// Makes a request, of which `head` is the beginning.
    pub(super) async fn put(
        &mut self,
        head: &[u8],
        upload: &mut Upload,
        timeouts: &Timeouts,
    ) -> Result<Answered, Failed> {
        self.heard = false;
        let answered = self.exchange(head, upload, timeouts).await.map_err(|trouble| match trouble {
            Trouble::Connection(what) => {
                Failed { error: ServerError::Broken(what), stale: self.answered && !self.heard }
            }
            Trouble::Other(error) => Failed { error, stale: false },
        })?;
        self.answered = true;
        Ok(answered)
    }

    async fn exchange(
        &mut self,
        head: &[u8],
        upload: &mut Upload,
        timeouts: &Timeouts,
    ) -> Result<Answered, Trouble> {
        let head = match self.send(head, upload, timeouts.stall).await? {
            Some(early) => early,
            None => self.answer(timeouts.answer).await?,
        };
        let ends = self.end(head.body).await;
        let result = match head.status {
            StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(head.stored),
            status => Err(error::from_status(status, &head.body.text(&self.input))),
        };
        self.input.clear();
        // A server that refuses may not have read what it was sent, and be about to close.
        let keeps = result.is_ok() && head.keeps && ends && upload.is_whole();
        Ok(Answered { result, keeps })
    }

    /// Sends a request. `Some`: the server answered before it had the whole body.
    async fn send(
        &mut self,
        head: &[u8],
        upload: &mut Upload,
        stall: Duration,
    ) -> Result<Option<Head>, Trouble> {
        let mut head = head;
        loop {
            let mut part = Bytes::new();
            if !upload.is_whole() {
                match self.part(upload).await? {
                    Event::Done(next) => part = next.unwrap_or_default(),
                    Event::Heard => match self.head()? {
                        Some(early) => return Ok(Some(early)),
                        None => continue,
                    },
                }
            }
            let size = if upload.is_chunked() { format!("{:x}\r\n", part.len()) } else { String::new() };
            let after: &[u8] = if upload.is_chunked() { b"\r\n" } else { b"" };
            let parts = [head, size.as_bytes(), &part, after].map(IoSlice::new);
            if let Some(early) = self.write(parts, stall).await? {
                return Ok(Some(early));
            }
            head = b"";
            // What goes in chunks ends with an empty one.
            if upload.is_whole() && (part.is_empty() || !upload.is_chunked()) {
                return Ok(None);
            }
        }
    }

    /// The next part of the body. What was kept of it is let go while its source takes its time.
    async fn part(&mut self, upload: &mut Upload) -> Result<Event<Option<Bytes>>, Trouble> {
        if let Some(until) = upload.kept_until() {
            if let Ok(event) = timeout_at(until, self.part_or_word(upload)).await {
                return event;
            }
            upload.let_go();
        }
        self.part_or_word(upload).await
    }

    async fn part_or_word(&mut self, upload: &mut Upload) -> Result<Event<Option<Bytes>>, Trouble> {
        std::future::poll_fn(|cx| {
            if let Poll::Ready(part) = upload.poll_next(cx) {
                return Poll::Ready(part.map(Event::Done).map_err(Trouble::Other));
            }
            self.poll_hear(cx).map_ok(|()| Event::Heard)
        })
        .await
    }

    /// Writes all parts. `Some`: the server answered meanwhile.
    async fn write(&mut self, mut parts: [IoSlice<'_>; 4], stall: Duration) -> Result<Option<Head>, Trouble> {
        let mut parts = &mut parts[..];
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let wrote = timeout(stall, self.write_or_word(parts)).await;
            match wrote.unwrap_or(Err(Trouble::Other(ServerError::Stalled(stall))))? {
                Event::Done(Ok(0)) => return Err(Trouble::Connection("it takes no bytes".to_owned())),
                Event::Done(Ok(count)) => IoSlice::advance_slices(&mut parts, count),
                Event::Done(Err(error)) if is_gone(&error) => return self.answer(stall).await.map(Some),
                Event::Done(Err(error)) => return Err(error.into()),
                Event::Heard => {
                    if let Some(early) = self.head()? {
                        return Ok(Some(early));
                    }
                }
            }
        }
        Ok(None)
    }

    async fn write_or_word(&mut self, parts: &[IoSlice<'_>]) -> Result<Event<io::Result<usize>>, Trouble> {
        std::future::poll_fn(|cx| {
            if let Poll::Ready(heard) = self.poll_hear(cx) {
                return Poll::Ready(heard.map(|()| Event::Heard));
            }
            Pin::new(&mut self.stream).poll_write_vectored(cx, parts).map(|wrote| Ok(Event::Done(wrote)))
        })
        .await
    }

    /// The head of the answer.
    async fn answer(&mut self, within: Duration) -> Result<Head, Trouble> {
        let head = async {
            loop {
                match self.head()? {
                    Some(head) => return Ok(head),
                    None => self.hear().await?,
                }
            }
        };
        timeout(within, head).await.unwrap_or(Err(Trouble::Other(ServerError::Stalled(within))))
    }

    /// The head of the answer, if it came. Those before it that are not the last (100, 103) are left out.
    fn head(&mut self) -> Result<Option<Head>, Trouble> {
        loop {
            let Some(head) = answer::head(&self.input).map_err(Trouble::Connection)? else { return Ok(None) };
            self.input.drain(..head.length);
            if !head.status.is_informational() {
                return Ok(Some(head));
            }
        }
    }

    /// Waits for the end of the answer's body. `false` if it does not come in time, or something behind it.
    async fn end(&mut self, body: Framing) -> bool {
        let end = async {
            loop {
                if let Some(end) = body.end(&self.input) {
                    return end == self.input.len();
                }
                if self.input.len() > MAX_BODY_BYTES || self.hear().await.is_err() {
                    return false;
                }
            }
        };
        timeout(MESSAGE_WITHIN, end).await.unwrap_or(false)
    }

    async fn hear(&mut self) -> Result<(), Trouble> {
        std::future::poll_fn(|cx| self.poll_hear(cx)).await
    }

    /// Reads what the server says. Its end is an error.
    fn poll_hear(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Trouble>> {
        let mut room = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut read = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        if read.filled().is_empty() {
            return Poll::Ready(Err(Trouble::Connection("it closed the connection".to_owned())));
        }
        self.heard = true;
        self.input.extend_from_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

/// Whether the other side takes no more bytes. Whether it said why is found by reading.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
