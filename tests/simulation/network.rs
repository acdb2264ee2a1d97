//! The simulated network under the roles: its listeners give connections to their servers, its streams carry their clients.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use backpack::{
    client::{Dial, Stream, Timeouts},
    http::{Connection, Limits, Listener},
};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

use super::hasty;

/// Every server listens there, on a host of its own.
pub const PORT: u16 = 80;

/// Shorter than in the programs, in the same order: a simulation that waits less has time for more.
pub fn timeouts() -> Timeouts {
    Timeouts {
        connect: Duration::from_millis(400),
        answer: Duration::from_millis(2500),
        stall: Duration::from_millis(1200),
    }
}

/// Where the host it is made on listens.
pub struct Port {
    listener: TcpListener,
    hasty: Arc<AtomicBool>,
}

impl Port {
    pub async fn listen() -> io::Result<Self> {
        Self::listen_unless(Arc::default()).await
    }

    /// Connections are not for this server as long as that is so.
    pub async fn listen_unless(hasty: Arc<AtomicBool>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
        Ok(Self { listener, hasty })
    }
}

impl Listener for Port {
    type Connection = Accepted;

    async fn accept(&self) -> io::Result<Accepted> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            if !self.hasty.load(SeqCst) {
                return Ok(Accepted(stream));
            }
            tokio::spawn(hasty::answer(stream));
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that a server accepted.
pub struct Accepted(TcpStream);

impl Connection for Accepted {
    fn prepare(&self, _limits: &Limits) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Opens streams of the simulated network.
pub struct Dialler;

impl Dial for Dialler {
    fn dial(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let host = host.to_owned();
        Box::pin(async move {
            let stream = TcpStream::connect((host, port)).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}
