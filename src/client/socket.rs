//! The connections under the client: ordinary TCP, or what the caller's [`Dial`] opens, with three things that hyper
//! leaves to its transport.
//!
//! - A server may answer in mid body and close, as one that is full does. The bytes still on their way then meet a reset,
//!   and hyper would report the failed write instead of the answer that waits to be read; so a write to a closed
//!   connection counts as done, and reading tells what the server said.
//! - Little is queued in the kernel beyond what the network takes, so that a server that takes nothing is soon noticed.
//! - A connection knows whether it answered before: one that breaks then may just have been closed for idleness.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{Response, Uri};
use hyper::{
    body::Incoming,
    rt::{Read, ReadBufCursor, Write},
};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tower_service::Service;

use super::Timeouts;
use crate::http::body::BoxError;

/// Bytes queued in the kernel that were not sent yet: enough to keep a fast network busy between two wake-ups.
const UNSENT_BYTES: u32 = 128 * 1024;

/// Opens streams of bytes to servers in place of TCP: to those of a simulated network, say.
pub trait Dial: Send + Sync + 'static {
    /// A stream to `host` and `port`.
    fn dial(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;
}

/// A stream of bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Opens connections.
#[derive(Clone)]
pub(super) enum Connector {
    Tcp(HttpConnector),
    Other(Arc<dyn Dial>, Duration),
}

impl Connector {
    /// One that opens TCP connections.
    pub(super) fn tcp(timeouts: &Timeouts) -> Self {
        let mut http = HttpConnector::new();
        http.set_connect_timeout(Some(timeouts.connect));
        http.set_nodelay(true);
        Self::Tcp(http)
    }

    /// One that has its streams opened by somebody else.
    pub(super) fn other(dial: Arc<dyn Dial>, timeouts: &Timeouts) -> Self {
        Self::Other(dial, timeouts.connect)
    }
}

impl Service<Uri> for Connector {
    type Response = Socket;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Socket, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Tcp(http) => http.poll_ready(cx).map_err(Into::into),
            Self::Other(..) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self {
            Self::Tcp(http) => {
                let connecting = http.call(uri);
                Box::pin(async move { Ok(Socket::new(Transport::Tcp(limited(connecting.await?)))) })
            }
            Self::Other(dial, within) => {
                let connecting = dial.dial(uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
                let within = *within;
                Box::pin(async move {
                    let stream = tokio::time::timeout(within, connecting).await??;
                    Ok(Socket::new(Transport::Other(TokioIo::new(stream))))
                })
            }
        }
    }
}

/// The connection, with little of it queued in the kernel.
fn limited(stream: TokioIo<TcpStream>) -> TokioIo<TcpStream> {
    // Without it a stalled server is noticed later, no more.
    if let Err(error) = SockRef::from(stream.inner()).set_tcp_notsent_lowat(UNSENT_BYTES) {
        tracing::debug!(%error, "setting socket options failed");
    }
    stream
}

/// Whether a connection gave a whole answer yet. hyper hands it out with every answer and every error.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers(Arc<AtomicBool>);

impl Answers {
    /// Notes that this answer came.
    pub(super) fn note(answer: &Response<Incoming>) {
        if let Some(Self(answered)) = answer.extensions().get() {
            answered.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the connection that failed so had answered before.
    pub(super) fn before(error: &hyper_util::client::legacy::Error) -> bool {
        let mut extras = http::Extensions::new();
        if let Some(connection) = error.connect_info() {
            connection.get_extras(&mut extras);
        }
        extras.get::<Self>().is_some_and(|Self(answered)| answered.load(Ordering::Relaxed))
    }
}

/// One connection.
pub(super) struct Socket {
    stream: Transport,
    answers: Answers,
}

enum Transport {
    Tcp(TokioIo<TcpStream>),
    Other(TokioIo<Box<dyn Stream>>),
}

impl Socket {
    fn new(stream: Transport) -> Self {
        Self { stream, answers: Answers::default() }
    }

    fn reader(&mut self) -> Pin<&mut dyn Read> {
        match &mut self.stream {
            Transport::Tcp(stream) => Pin::<&mut TokioIo<_>>::new(stream),
            Transport::Other(stream) => Pin::<&mut TokioIo<_>>::new(stream),
        }
    }

    fn writer(&mut self) -> Pin<&mut dyn Write> {
        match &mut self.stream {
            Transport::Tcp(stream) => Pin::<&mut TokioIo<_>>::new(stream),
            Transport::Other(stream) => Pin::<&mut TokioIo<_>>::new(stream),
        }
    }
}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        Connected::new().extra(self.answers.clone())
    }
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.reader().poll_read(cx, buffer)
    }
}

impl Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.writer().poll_write(cx, bytes);
        written.map(|result| or_gone(result, bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.writer().poll_write_vectored(cx, parts);
        written.map(|result| or_gone(result, parts.iter().map(|part| part.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Transport::Tcp(stream) => stream.is_write_vectored(),
            Transport::Other(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer().poll_shutdown(cx)
    }
}

/// Counts bytes as written that the other side will not take: whether it said why is found by reading.
fn or_gone(result: io::Result<usize>, length: usize) -> io::Result<usize> {
    match result {
        Err(error) if is_gone(&error) => Ok(length),
        other => other,
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
