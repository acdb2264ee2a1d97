//! Where a role's connections come from: a TCP port, or whatever the caller has that gives streams of bytes.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream, ToSocketAddrs, lookup_host},
};

use super::Limits;

/// Connections that may wait to be accepted, where the system allows as many (`net.core.somaxconn`, 4,096 unless set). One
/// that finds no room is told nothing, and its client tries again only after a second.
const BACKLOG: u32 = 4096;

/// Listens on the first of the addresses that can be had.
pub async fn listen(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let mut failed = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
    for address in lookup_host(address).await? {
        match listen_on(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A port whose last owner has just ended can be had.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Gives out connections, one after the other.
pub trait Listener: Send + Sync + 'static {
    /// What it gives out.
    type Connection: Connection;

    /// The next connection. Dropped while it waits, it loses none.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;

    /// Where it listens.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// One accepted connection.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static {
    /// Sets its options, before the first byte.
    fn prepare(&self, limits: &Limits);
}

impl Listener for TcpListener {
    type Connection = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Ok(TcpListener::accept(self).await?.0)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }
}

impl Connection for TcpStream {
    /// A failure leaves the connection usable, so it is only worth a debug line.
    fn prepare(&self, limits: &Limits) {
        let socket = socket2::SockRef::from(self);
        let result = socket
            .set_tcp_nodelay(true)
            .and_then(|()| socket.set_keepalive(true))
            .and_then(|()| socket.set_tcp_user_timeout(Some(limits.stalled_send)));
        if let Err(error) = result {
            tracing::debug!(%error, "setting socket options failed");
        }
    }
}
