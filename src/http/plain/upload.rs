//! The body of a PUT, read off its connection by whoever takes the upload.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::oneshot,
};
use tokio_util::io::poll_read_buf;

use crate::http::{linger::Lingering, server::BUFFER_BYTES};

/// A body of a known length that is still on its way. It has the connection, and gives it back when it is dropped, wherever that is.
#[derive(Debug)]
pub struct Upload {
    lent: Option<Lent>,
    /// What came with the head.
    begin: Bytes,
    length: u64,
}

#[derive(Debug)]
struct Lent {
    stream: Lingering,
    /// Bytes of the body that are still to be read.
    unread: u64,
    back: oneshot::Sender<(Lingering, u64)>,
}

/// The connection, once it is given back, and how many bytes of the body nobody read.
pub type Back = oneshot::Receiver<(Lingering, u64)>;

/// A body of `length` bytes that begins with `begin`, and goes on on the connection.
pub fn lend(stream: Lingering, begin: Bytes, length: u64) -> (Upload, Back) {
    let (back, given) = oneshot::channel();
    let unread = length - begin.len() as u64;
    (Upload { lent: Some(Lent { stream, unread, back }), begin, length }, given)
}

/// Throws away what nobody read of a body and is there already, unless it is long; says how many bytes are still to come.
pub fn skip(stream: &mut Lingering, unread: u64) -> u64 {
    if unread == 0 { 0 } else { skip_some(stream, unread) }
}

// Else its buffer is on the stack of all that its caller calls.
#[inline(never)]
fn skip_some(stream: &mut Lingering, unread: u64) -> u64 {
    let mut room = [const { MaybeUninit::uninit() }; BUFFER_BYTES];
    let Some(room) = usize::try_from(unread).ok().and_then(|unread| room.get_mut(..unread)) else {
        return unread;
    };
    let mut buffer = ReadBuf::uninit(room);
    // Nothing, the end and an error are the same: the rest does not come.
    let _ = Pin::new(stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer);
    unread - buffer.filled().len() as u64
}

impl Upload {
    /// Bytes of all of it.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The next bytes; `None` at the end. While it waits it holds no memory for them.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.begin.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.begin))));
        }
        let Some(Lent { stream, unread, back }) = self.lent.as_mut().filter(|lent| lent.unread > 0) else {
            return Poll::Ready(Ok(None));
        };
        // Also where a client sends without a pause.
        if back.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let most = usize::try_from(*unread).map_or(BUFFER_BYTES, |unread| unread.min(BUFFER_BYTES));
        let mut room = BytesMut::with_capacity(most);
        let Poll::Ready(read) = poll_read_buf(Pin::new(stream), cx, &mut (&mut room).limit(most)) else {
            // Nobody waits for the connection any more: it was cut.
            ready!(back.poll_closed(cx));
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        };
        let read = read?;
        if read == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        *unread -= read as u64;
        // Whoever keeps a part holds no more than twice its bytes.
        let part = if read < most / 2 { Bytes::copy_from_slice(&room) } else { room.freeze() };
        Poll::Ready(Ok(Some(part)))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(Lent { stream, unread, back }) = self.lent.take() {
            // A connection that was cut is nobody's.
            let _ = back.send((stream, unread));
        }
    }
}
