//! How connections are opened, by ordinary TCP or by the caller's [`Dial`], and what hyper is to know of its own.
//!
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

/// A stream of bytes in both directions. What is written goes out without a flush.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Opens connections.
#[derive(Clone)]
pub(super) struct Connector {
    by: By,
    within: Duration,
}

#[derive(Clone)]
enum By {
    Tcp(HttpConnector),
    Other(Arc<dyn Dial>),
}

impl Connector {
    /// One that opens TCP connections.
    pub(super) fn tcp(timeouts: &Timeouts) -> Self {
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        Self { by: By::Tcp(http), within: timeouts.connect }
    }

    /// One that has its streams opened by somebody else.
    pub(super) fn other(dial: Arc<dyn Dial>, timeouts: &Timeouts) -> Self {
        Self { by: By::Other(dial), within: timeouts.connect }
    }

    /// Opens a connection; looking up the host's name takes of the same time.
    pub(super) async fn open(self, uri: Uri) -> Result<Box<dyn Stream>, BoxError> {
        let open = async {
            match self.by {
                // Always ready: it has no limit of its own.
                By::Tcp(mut http) => {
                    let stream = http.call(uri).await?.into_inner();
                    limit(&stream);
                    Ok(Box::new(stream) as Box<dyn Stream>)
                }
                By::Other(dial) => {
                    Ok(dial.dial(uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80)).await?)
                }
            }
        };
        tokio::time::timeout(self.within, open).await?
    }
}

impl Service<Uri> for Connector {
    type Response = Socket;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Socket, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let opening = self.clone().open(uri);
        Box::pin(async move { opening.await.map(Socket::new) })
    }
}

/// Has the kernel queue little of it.
fn limit(stream: &TcpStream) {
    // Without it a stalled server is noticed later, no more.
    if let Err(error) = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES) {
        tracing::debug!(%error, "setting socket options failed");
    }
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

/// One connection of hyper's.
pub(super) struct Socket {
    stream: TokioIo<Box<dyn Stream>>,
    answers: Answers,
}

impl Socket {
    fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream: TokioIo::new(stream), answers: Answers::default() }
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
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
