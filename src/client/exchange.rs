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
    task::unconstrained,
    time::{Instant, timeout, timeout_at},
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
    /// The connection can be used for another request: all of this one was sent, and all of the answer was read.
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

/// What a source gives.
enum Part {
    Bytes(Bytes),
    End,
    NotYet,
}

impl Connection {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, input: Vec::new(), answered: false, heard: false }
    }

    /// Whether the server neither closed it nor said anything since its last answer.
    pub(super) async fn is_quiet(&mut self) -> bool {
        let quiet = std::future::poll_fn(|cx| Poll::Ready(self.poll_hear(cx).is_pending()));
        // A task that had its turn would be told that nothing came.
        unconstrained(quiet).await
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
        let early = self.send(head, upload, timeouts.stall).await?;
        let is_early = early.is_some();
        let head = match early {
            Some(head) => head,
            None => self.answer(timeouts.answer).await?,
        };
        let result = match head.status {
            StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => {
                Ok(Stored { is_early, ..head.stored })
            }
            status => Err(self.refusal(status, head.body).await),
        };
        // A server that refuses may not have read what it was sent, and be about to close.
        let keeps = result.is_ok() && !is_early && head.keeps && self.end(head.body).await;
        self.input.clear();
        Ok(Answered { result, keeps })
    }

    /// Why the server did not take it. Its words are waited for only where the status alone says too little.
    async fn refusal(&mut self, status: StatusCode, body: Framing) -> ServerError {
        if let Some(error) = error::without_words(status) {
            return error;
        }
        self.end(body).await;
        error::with_words(status, &body.text(&self.input))
    }

    /// Sends a request. `Some`: the server answered before it had all of it.
    async fn send(
        &mut self,
        head: &[u8],
        upload: &mut Upload,
        stall: Duration,
    ) -> Result<Option<Head>, Trouble> {
        let mut head = head;
        loop {
            let event = if upload.is_whole() {
                Event::Done(Part::End)
            } else {
                self.part(upload, head.is_empty()).await?
            };
            let early = match event {
                Event::Heard => match self.head()? {
                    Some(early) => return Ok(Some(early)),
                    None => continue,
                },
                // The server is to know at once that something comes.
                Event::Done(Part::NotYet) => self.write(&mut [IoSlice::new(head)], stall).await?,
                Event::Done(Part::Bytes(bytes)) if upload.is_chunked() => {
                    let size = format!("{:x}\r\n", bytes.len());
                    let parts = &mut [head, size.as_bytes(), &bytes, b"\r\n"].map(IoSlice::new);
                    self.write(parts, stall).await?
                }
                Event::Done(Part::Bytes(bytes)) => {
                    self.write(&mut [head, &bytes].map(IoSlice::new), stall).await?
                }
                Event::Done(Part::End) => {
                    let end: &[u8] = if upload.is_chunked() { b"0\r\n\r\n" } else { b"" };
                    let early = self.write(&mut [head, end].map(IoSlice::new), stall).await?;
                    return Ok(early);
                }
            };
            if early.is_some() {
                return Ok(early);
            }
            head = b"";
        }
    }

    /// The next part of the body, waited for if it `may_wait`. What was kept is let go while its source takes its time.
    async fn part(&mut self, upload: &mut Upload, may_wait: bool) -> Result<Event<Part>, Trouble> {
        if let Some(until) = upload.kept_until() {
            if let Ok(event) = timeout_at(until, self.part_or_word(upload, may_wait)).await {
                return event;
            }
            upload.let_go();
        }
        self.part_or_word(upload, may_wait).await
    }

    async fn part_or_word(&mut self, upload: &mut Upload, may_wait: bool) -> Result<Event<Part>, Trouble> {
        std::future::poll_fn(|cx| match upload.poll_next(cx) {
            Poll::Ready(Ok(Some(bytes))) => Poll::Ready(Ok(Event::Done(Part::Bytes(bytes)))),
            Poll::Ready(Ok(None)) => Poll::Ready(Ok(Event::Done(Part::End))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(Trouble::Other(error))),
            Poll::Pending if !may_wait => Poll::Ready(Ok(Event::Done(Part::NotYet))),
            Poll::Pending => self.poll_hear(cx).map_ok(|()| Event::Heard),
        })
        .await
    }

    /// Writes all parts. `Some`: the server answered meanwhile.
    async fn write(
        &mut self,
        mut parts: &mut [IoSlice<'_>],
        stall: Duration,
    ) -> Result<Option<Head>, Trouble> {
        IoSlice::advance_slices(&mut parts, 0);
        let mut until = Instant::now() + stall;
        while !parts.is_empty() {
            let wrote = timeout_at(until, self.write_or_word(parts)).await;
            match wrote.unwrap_or(Err(Trouble::Other(ServerError::Stalled(stall))))? {
                Event::Done(Ok(0)) => return Err(Trouble::Connection("it takes no bytes".to_owned())),
                Event::Done(Ok(count)) => {
                    IoSlice::advance_slices(&mut parts, count);
                    until = Instant::now() + stall;
                }
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
