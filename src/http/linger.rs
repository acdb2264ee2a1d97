//! A connection that is closed the way a client understands.
//!
//! A server that refuses an upload answers and closes while the client is still sending. What arrives afterwards makes
//! the kernel reset the connection, and a client that meets the reset first never sees the answer: our own reports a
//! broken pipe instead of "full". So the write side is closed first, and what still comes is read and thrown away for
//! a while.

use std::{
    fmt,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::{Connection, server::BUFFER_BYTES};

/// A client that sends nothing for this long has seen the answer, or will not. It is what a connection without a client
/// costs when it is closed.
const SILENCE: Duration = Duration::from_millis(500);

/// A client that goes on sending for this long does not listen.
const LONGEST: Duration = Duration::from_secs(10);

/// An accepted connection.
pub struct Lingering {
    stream: Box<dyn Connection>,
    /// Given back by who had read it: it is read before anything else.
    unread: Bytes,
    closing: Option<Closing>,
}

impl fmt::Debug for Lingering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lingering").finish_non_exhaustive()
    }
}

struct Closing {
    silence: Pin<Box<Sleep>>,
    ends: Instant,
}

impl Lingering {
    /// Wraps a connection.
    pub fn new(stream: impl Connection) -> Self {
        Self { stream: Box::new(stream), unread: Bytes::new(), closing: None }
    }

    /// Gives back what was read and is somebody else's to read.
    pub fn unread(&mut self, bytes: Bytes) {
        self.unread = if self.unread.is_empty() { bytes } else { [&bytes[..], &self.unread].concat().into() };
    }

    /// What comes, as far as it does at once; nothing at the end.
    // Else its buffer is on the stack of all that its callers call.
    #[inline(never)]
    pub fn poll_come(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        // On the stack: a connection that waits holds no memory for it.
        let mut room = [const { MaybeUninit::uninit() }; BUFFER_BYTES];
        let mut buffer = ReadBuf::uninit(&mut room);
        ready!(Pin::new(self).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
    }

    /// Ready when the client is gone. What it sends instead is there to be read, and until then it is not listened to.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.unread.is_empty() {
            return Poll::Pending;
        }
        match ready!(self.poll_come(cx)) {
            Ok(came) if !came.is_empty() => {
                self.unread(came);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Reads what still comes; ready when the client has closed too, is silent, or has had its time.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let closing = self.closing.get_or_insert_with(|| Closing {
            silence: Box::pin(tokio::time::sleep(SILENCE)),
            ends: Instant::now() + LONGEST,
        });
        loop {
            let mut bytes = [0; 16 * 1024];
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && Instant::now() < closing.ends => {
                    closing.silence.as_mut().reset(Instant::now() + SILENCE);
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return closing.silence.as_mut().poll(cx),
            }
        }
    }
}

impl AsyncRead for Lingering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let length = self.unread.len().min(buffer.remaining());
            buffer.put_slice(&self.unread.split_to(length));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        self.poll_discard(cx).map(Ok)
    }
}
