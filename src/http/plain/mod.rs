//! GETs and uploads, answered without hyper: they come thousands of times a second, and it and its buffers are a fifth of what a
//! small one costs (docs/decisions/0016, 0020).
//!
//! Only what is simple is taken: a GET, or a PUT that says how long it is, of HTTP/1.1, whose head came in one piece. With the
//! first request that is anything else (a body in chunks, a head that comes in parts, nonsense) the connection is hyper's, for
//! good. So there is one reader of everything that is not simple, and it is not ours.
//!
//! - `read`: the head of a request
//! - `upload`: the body of a PUT
//! - `write`: answers as bytes

mod read;
mod upload;
mod write;

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::StatusCode;
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, Sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

pub use self::upload::Upload;
use self::{read::Asked, write::send};
use super::{Answer, Body, Handler, Head, Payload, RequestId, Server, linger::Lingering, reply};

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
    Hyper(Lingering),
}

/// Answers a connection's requests until it ends, idles for too long, or something else comes.
pub async fn serve<H: Handler>(
    server: &Server<H>,
    mut stream: Lingering,
    stop: &CancellationToken,
    longest_wait: Duration,
) -> io::Result<Next> {
    let (stopped, clock) = (pin!(stop.cancelled()), pin!(tokio::time::sleep(longest_wait)));
    let mut wait = Wait { stopped, clock, longest_wait, is_used: false };
    loop {
        let Some(mut came) = wait.read(&mut stream).await? else { return Ok(Next::Close) };
        while !came.is_empty() {
            let Some(read::Plain { asked, mut closes, length }) = read::plain(&came) else {
                stream.unread(came);
                return Ok(Next::Hyper(stream));
            };
            let reply = match asked {
                Asked::Whole { target, id } => {
                    let reply = {
                        let reply = pin!(server.answer_whole(target, &id));
                        unless_gone(reply, &mut stream).await
                    };
                    came.advance(length);
                    reply
                }
                Asked::More(request) => {
                    came.advance(length);
                    let answer = pin!(server.answer(request.map(|()| Payload::default())));
                    unless_gone(answer, &mut stream).await.map(Reply::Answer)
                }
                Asked::Upload { request, length: body } => {
                    came.advance(length);
                    let begin = came.split_to(came.len().min(usize::try_from(body).unwrap_or(usize::MAX)));
                    if begin.len() as u64 == body {
                        let answer = pin!(server.answer(request.map(|()| Payload::from(begin))));
                        unless_gone(answer, &mut stream).await.map(Reply::Answer)
                    } else {
                        let (upload, lent) = upload::lend(stream, begin, body);
                        let answer = server.answer(request.map(|()| Payload::from(upload))).await;
                        let unread;
                        (stream, unread) = lent.await.map_err(io::Error::other)?;
                        closes |= upload::skip(&mut stream, unread) > 0;
                        Some(Reply::Answer(answer))
                    }
                }
            };
            let Some(reply) = reply else { return Ok(Next::Close) };
            closes |= stop.is_cancelled();
            send(&mut stream, reply, closes).await?;
            if closes {
                stream.shutdown().await?;
                return Ok(Next::Close);
            }
        }
    }
}

/// What is answered; `None` if the client goes away before.
async fn unless_gone<T>(mut answer: Pin<&mut impl Future<Output = T>>, stream: &mut Lingering) -> Option<T> {
    poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending => stream.poll_gone(cx).map(|()| None),
    })
    .await
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
    async fn read(&mut self, stream: &mut Lingering) -> io::Result<Option<Bytes>> {
        let came = poll_fn(|cx| {
            if let Poll::Ready(came) = stream.poll_come(cx) {
                self.is_used = true;
                return Poll::Ready(came.map(Some));
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
    use std::sync::Arc;

    use http::Request;
    use tokio::{
        io::{AsyncReadExt, DuplexStream},
        sync::Semaphore,
    };

    use super::*;
    use crate::{
        http::{Connection, Limits, RequestBody, server::BUFFER_BYTES},
        telemetry::health::Readiness,
    };

    impl Connection for DuplexStream {
        fn prepare(&self, _limits: &Limits) {}
    }

    /// Says what it was asked, and the bytes that came, but of `/refused` none.
    struct Echo;

    impl Handler for Echo {
        fn role(&self) -> &'static str {
            "test"
        }

        async fn handle(&self, request: Request<Payload>, _id: &RequestId) -> Answer {
            let (head, body) = request.into_parts();
            let mut text = format!("[{} {}", head.method, head.uri);
            let mut body = RequestBody::new(body, 1 << 20, Duration::from_secs(60)).unwrap();
            if head.uri != "/refused" {
                loop {
                    match body.next().await {
                        Ok(Some(part)) => text += str::from_utf8(&part).unwrap(),
                        Ok(None) => break,
                        Err(_) => return reply::text(StatusCode::BAD_REQUEST, "[broken]"),
                    }
                }
            }
            reply::text(StatusCode::OK, text + "]")
        }
    }

    /// Serves a connection on which these parts come one after the other, then its end: whether hyper is next, what was
    /// answered, and what is unread.
    async fn served(parts: &[&str]) -> (bool, String, String) {
        let (mut client, server) = tokio::io::duplex(64 << 10);
        let stream = Lingering::new(server);
        let serving = tokio::spawn(async move {
            let echo = Server::new(Echo, Readiness::default(), Limits::default());
            let stop = CancellationToken::new();
            let next = serve(&echo, stream, &stop, Duration::from_secs(60)).await.unwrap();
            let Next::Hyper(mut stream) = next else { return (false, String::new()) };
            let mut unread = String::new();
            stream.read_to_string(&mut unread).await.unwrap();
            (true, unread)
        });
        for part in parts {
            client.write_all(part.as_bytes()).await.unwrap();
            // Until it was read.
            tokio::task::yield_now().await;
        }
        client.shutdown().await.unwrap();
        let mut answers = String::new();
        client.read_to_string(&mut answers).await.unwrap();
        let (is_hypers, unread) = serving.await.unwrap();
        (is_hypers, answers, unread)
    }

    /// The bodies of these answers.
    fn bodies(answers: &str) -> Vec<&str> {
        answers.split('[').skip(1).map(|rest| rest.split(']').next().unwrap()).collect()
    }

    fn put(target: &str, length: usize) -> String {
        format!("PUT {target} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n")
    }

    const GET: &str = "GET /a?b HTTP/1.1\r\n\r\n";

    #[tokio::test]
    async fn gets_and_uploads_are_answered_here_and_the_rest_is_hypers() {
        let (is_hypers, answers, _) = served(&[&GET.repeat(3)]).await;
        assert!(!is_hypers);
        assert_eq!(bodies(&answers), ["GET /a?b"; 3]);

        let chunks = "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
        let all = format!("{GET}{}x{GET}{chunks}{GET}", put("/a", 1));
        let (is_hypers, answers, unread) = served(&[&all]).await;
        assert!(is_hypers);
        assert_eq!(
            (bodies(&answers), unread),
            (vec!["GET /a?b", "PUT /ax", "GET /a?b"], format!("{chunks}{GET}"))
        );

        let (is_hypers, answers, unread) = served(&["GET /a HT"]).await;
        assert!(is_hypers && answers.is_empty());
        assert_eq!(unread, "GET /a HT");
    }

    #[tokio::test]
    async fn a_body_may_come_in_any_parts() {
        let long = "y".repeat(3 * BUFFER_BYTES);
        for (parts, expected) in [
            (vec![put("/a", 0), GET.to_owned()], vec!["PUT /a".to_owned(), "GET /a?b".to_owned()]),
            (
                vec![put("/a", 3), "x".to_owned(), format!("yz{GET}")],
                vec!["PUT /axyz".to_owned(), "GET /a?b".to_owned()],
            ),
            (
                vec![put("/a", 3) + "x", "yz".to_owned(), GET.to_owned()],
                vec!["PUT /axyz".to_owned(), "GET /a?b".to_owned()],
            ),
            (vec![put("/a", long.len()) + &long + GET], vec![format!("PUT /a{long}"), "GET /a?b".to_owned()]),
        ] {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let (is_hypers, answers, _) = served(&parts).await;
            assert!(!is_hypers);
            assert_eq!(bodies(&answers), expected);
        }
    }

    #[tokio::test]
    async fn a_body_that_ends_early_is_broken_and_one_that_nobody_reads_ends_the_connection() {
        let (is_hypers, answers, _) = served(&[&put("/a", 3), "xy"]).await;
        assert!(!is_hypers && answers.contains("connection: close"));
        assert_eq!(bodies(&answers), ["broken"]);

        let (_, answers, _) = served(&[&put("/refused", 3), "xyz", GET]).await;
        assert!(answers.contains("connection: close"));
        assert_eq!(bodies(&answers), ["PUT /refused"]);
        // What is there already need not be read by anyone.
        for length in [3, BUFFER_BYTES, BUFFER_BYTES + 99] {
            let (_, answers, _) =
                served(&[&format!("{}{}{GET}", put("/refused", length), "x".repeat(length))]).await;
            assert!(!answers.contains("connection: close"));
            assert_eq!(bodies(&answers), ["PUT /refused", "GET /a?b"]);
        }
        let long = "x".repeat(3 * BUFFER_BYTES);
        let (_, answers, _) = served(&[&put("/refused", long.len()), &long, GET]).await;
        assert!(answers.contains("connection: close"));
        assert_eq!(bodies(&answers), ["PUT /refused"]);
    }

    #[tokio::test]
    async fn a_client_that_goes_away_ends_the_work_and_one_that_sends_more_does_not() {
        /// Answers when it is told to; says when it is dropped.
        struct Slow(Arc<Semaphore>, Arc<Semaphore>);

        struct Dropped(Arc<Semaphore>);

        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.add_permits(1);
            }
        }

        impl Handler for Slow {
            fn role(&self) -> &'static str {
                "test"
            }

            async fn handle(&self, request: Request<Payload>, _id: &RequestId) -> Answer {
                let _dropped = Dropped(self.1.clone());
                let (head, body) = request.into_parts();
                let mut body = RequestBody::new(body, 1 << 20, Duration::from_secs(60)).unwrap();
                while body.next().await.unwrap().is_some() {}
                self.0.acquire().await.unwrap().forget();
                reply::text(StatusCode::OK, format!("[{}]", head.uri))
            }
        }

        let upload = put("/a", 3) + "xyz";
        for first in [GET, "GET /a HTTP/1.1\r\nRange: bytes=0-1\r\n\r\n", &upload] {
            for goes in [true, false] {
                let (go_on, dropped) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
                let server = Server::new(
                    Slow(go_on.clone(), dropped.clone()),
                    Readiness::default(),
                    Limits::default(),
                );
                let (mut client, stream) = tokio::io::duplex(64 << 10);
                let serving = tokio::spawn(async move {
                    let stop = CancellationToken::new();
                    serve(&server, Lingering::new(stream), &stop, Duration::from_secs(60)).await.unwrap()
                });
                client.write_all(first.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
                if goes {
                    drop(client);
                    dropped.acquire().await.unwrap().forget();
                    assert!(matches!(serving.await.unwrap(), Next::Close));
                } else {
                    // The next request, and one that is hyper's: in this order.
                    client.write_all(GET.as_bytes()).await.unwrap();
                    tokio::task::yield_now().await;
                    client.write_all(b"HEAD /a HTTP/1.1\r\n\r\n").await.unwrap();
                    tokio::task::yield_now().await;
                    go_on.add_permits(2);
                    let Next::Hyper(mut stream) = serving.await.unwrap() else { panic!("{first}") };
                    let mut unread = [0; 5];
                    stream.read_exact(&mut unread).await.unwrap();
                    assert_eq!(&unread, b"HEAD ");
                    drop(stream);
                    let mut answers = String::new();
                    client.read_to_string(&mut answers).await.unwrap();
                    assert_eq!(bodies(&answers), [first.split(' ').nth(1).unwrap(), "/a?b"]);
                }
            }
        }
    }

    #[tokio::test]
    async fn an_upload_whose_connection_was_cut_ends_whatever_comes() {
        for client_sends in [true, false] {
            let (mut client, stream) = tokio::io::duplex(64 << 10);
            if client_sends {
                client.write_all(&[7; 9]).await.unwrap();
            }
            let (mut upload, lent) = upload::lend(Lingering::new(stream), Bytes::new(), 9);
            let read = tokio::spawn(async move { poll_fn(|cx| upload.poll_next(cx)).await });
            drop(lent);
            assert_eq!(read.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        }
    }
}
