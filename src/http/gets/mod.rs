//! GETs, answered without hyper: for roles whose readers come thousands of times a second, it and headers as a map are a
//! fifth of what a small read costs (docs/decisions/0016).
//!
//! Only what is simple is taken: the head of a GET of HTTP/1.1 that came in one piece. With the first request that is
//! anything else (an upload, a head that comes in parts, nonsense) the connection is hyper's, for good. So there is one
//! reader of everything that is not simple, and it is not ours.
//!
//! - `read`: the head of a request
//! - `write`: answers as bytes

mod read;
mod write;

use std::{
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    time::{Instant, Sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use self::{read::Asked, write::send};
use super::{Answer, Body, Connection, Handler, Head, RequestId, Server, linger::Lingering, reply};

/// What is read at once, on the stack: a connection that waits holds no memory for it. A longer head is hyper's.
const READ_BYTES: usize = 4 << 10;

/// What a GET gets.
pub enum Reply {
    /// 200.
    Whole {
        /// Says how many bytes the body has.
        head: Head,
        /// The bytes.
        body: Body,
        /// How many they are.
        length: u64,
    },
    /// Anything else.
    Answer(Answer),
}

/// Answers a GET without headers as any other request.
pub async fn as_request(handler: &impl Handler, target: &str, id: &RequestId) -> Reply {
    let answer = match read::bare(target) {
        Ok(request) => handler.handle(request, id).await,
        Err(error) => reply::error(StatusCode::BAD_REQUEST, format_args!("the target is no URI: {error}")),
    };
    Reply::Answer(answer)
}

/// What is to be done with a connection.
pub enum Next {
    /// Nothing: it is closed, or should be.
    Close,
    /// Its next request is hyper's.
    Hyper,
}

/// Answers a connection's GETs until it ends, idles for too long, or something else comes.
pub async fn serve<H: Handler>(
    server: &Server<H>,
    stream: &mut Lingering<impl Connection>,
    stop: &CancellationToken,
    longest_wait: Duration,
) -> io::Result<Next> {
    let (stopped, clock) = (pin!(stop.cancelled()), pin!(tokio::time::sleep(longest_wait)));
    let mut wait = Wait { stopped, clock, longest_wait, is_used: false };
    loop {
        let Some(came) = wait.read(stream).await? else { return Ok(Next::Close) };
        let mut rest = &came[..];
        while !rest.is_empty() {
            let Some(get) = read::get(rest) else {
                stream.unread(Bytes::copy_from_slice(rest));
                return Ok(Next::Hyper);
            };
            rest = &rest[get.length..];
            let closes = get.closes || stop.is_cancelled();
            let reply = match get.asked {
                Asked::Whole { target, id } => server.answer_whole(target, &id).await,
                Asked::More(request) => Reply::Answer(server.answer(request).await),
            };
            send(stream, reply, closes).await?;
            if closes {
                stream.shutdown().await?;
                return Ok(Next::Close);
            }
        }
    }
}

/// What ends the wait for a request.
struct Wait<'a, 'b> {
    stopped: Pin<&'a mut WaitForCancellationFuture<'b>>,
    /// Set again only when it rings: a timer for each request would cost more. So a wait may last up to twice as long.
    clock: Pin<&'a mut Sleep>,
    longest_wait: Duration,
    /// Something came since the clock was set.
    is_used: bool,
}

impl Wait<'_, '_> {
    /// What comes next; `None` if nothing does, and the connection is closed.
    async fn read(&mut self, stream: &mut Lingering<impl Connection>) -> io::Result<Option<Vec<u8>>> {
        let came = std::future::poll_fn(|cx| {
            let mut room = [const { MaybeUninit::uninit() }; READ_BYTES];
            let mut buffer = ReadBuf::uninit(&mut room);
            if let Poll::Ready(read) = Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                self.is_used = true;
                return Poll::Ready(read.map(|()| Some(buffer.filled().to_vec())));
            }
            if self.stopped.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(None));
            }
            while self.clock.as_mut().poll(cx).is_ready() {
                if !std::mem::take(&mut self.is_used) {
                    return Poll::Ready(Ok(None));
                }
                self.clock.as_mut().reset(Instant::now() + self.longest_wait);
            }
            Poll::Pending
        });
        match came.await? {
            Some(came) => Ok((!came.is_empty()).then_some(came)),
            None => stream.shutdown().await.map(|()| None),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Request};
    use tokio::io::{AsyncReadExt, DuplexStream};

    use super::*;
    use crate::{
        http::{Limits, Payload},
        telemetry::health::Readiness,
    };

    impl Connection for DuplexStream {
        fn prepare(&self, _limits: &Limits) {}
    }

    struct Echo;

    impl Handler for Echo {
        const READERS: bool = true;

        fn role(&self) -> &'static str {
            "test"
        }

        async fn handle(&self, request: Request<Payload>, _id: &RequestId) -> Answer {
            assert_eq!(*request.method(), Method::GET);
            reply::text(StatusCode::OK, request.uri().to_string())
        }
    }

    /// Serves a connection on which that comes, then its end: what is to be done next, what was answered, and what is unread.
    async fn served(came: &str) -> (Next, String, String) {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut stream = Lingering::new(server);
        client.write_all(came.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let echo = Server::new(Echo, Readiness::default(), Limits::default());
        let stop = CancellationToken::new();
        let next = serve(&echo, &mut stream, &stop, Duration::from_secs(60)).await.unwrap();
        let (mut unread, mut answers) = (String::new(), String::new());
        stream.read_to_string(&mut unread).await.unwrap();
        drop(stream);
        client.read_to_string(&mut answers).await.unwrap();
        (next, answers, unread)
    }

    #[tokio::test]
    async fn gets_are_answered_here_and_the_rest_is_hypers() {
        let get = "GET /a?b HTTP/1.1\r\n\r\n";
        let (next, answers, unread) = served(&get.repeat(3)).await;
        assert!(matches!(next, Next::Close) && unread.is_empty());
        assert_eq!(answers.matches("\r\n\r\n/a?b").count(), 3, "{answers}");

        let put = "PUT /a HTTP/1.1\r\nContent-Length: 1\r\n\r\nx";
        let (next, answers, unread) = served(&format!("{get}{put}{get}")).await;
        assert!(matches!(next, Next::Hyper));
        assert_eq!((answers.matches("\r\n\r\n/a?b").count(), unread), (1, format!("{put}{get}")));

        let (next, answers, unread) = served("GET /a HT").await;
        assert!(matches!(next, Next::Hyper) && answers.is_empty());
        assert_eq!(unread, "GET /a HT");
    }
}
