//! Kept connections: those that a server closed meanwhile must not fail a request.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backpack::{
    client::{Answered, Presence, PutBody, ServerError, Servers},
    model::{Server, Version},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};

use crate::{
    client_cases::{
        feed, head, id, key, pattern,
        raw::{Connection, RawServer},
        server, servers, upload,
    },
    support::wait::eventually,
};

/// A server that closes connections which it seemed to keep.
struct Closing {
    raw: RawServer,
    /// Bodies of PUTs that were answered.
    received: Arc<Mutex<VecDeque<Vec<u8>>>>,
    /// Requests that met a closing connection.
    broken: Arc<AtomicUsize>,
}

impl Closing {
    /// Every other connection answers one request, and closes when the second one's head and so many bytes of its body
    /// have come: the client has no way to know. The others answer everything.
    fn start(closes_after: usize, reset: bool) -> Self {
        let received: Arc<Mutex<VecDeque<Vec<u8>>>> = Arc::default();
        let broken: Arc<AtomicUsize> = Arc::default();
        let (bodies, breaks) = (Arc::clone(&received), Arc::clone(&broken));
        let raw = RawServer::start(move |client| {
            for request in 0.. {
                let head = client.read_head()?;
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.map_or(0, |length| length.parse().expect("a length"));
                if request == 1 && client.number.is_multiple_of(2) {
                    client.read_body(length.min(closes_after))?;
                    breaks.fetch_add(1, Ordering::SeqCst);
                    return if reset { client.reset() } else { Ok(()) };
                }
                let body = client.read_body(length)?;
                bodies.lock().unwrap().push_back(body);
                answer(client, &head)?;
            }
            Ok(())
        });
        Self { raw, received, broken }
    }

    /// Makes a request on a connection that is kept after a first one, until one met a closing one (a connection may not be back
    /// in time to be used again); what that request gave.
    async fn meet<T>(
        &self,
        first: impl AsyncFn(&Servers, &Server) -> Result<(), ServerError>,
        request: impl AsyncFn(&Servers, &Server) -> T,
    ) -> T {
        let target = server("1", self.raw.port());
        for _ in 0..200 {
            let (servers, before) = (servers(), self.broken.load(Ordering::SeqCst));
            first(&servers, &target).await.expect("a new connection answers");
            self.received.lock().unwrap().clear();
            let result = request(&servers, &target).await;
            if self.broken.load(Ordering::SeqCst) > before {
                return result;
            }
        }
        panic!("no request met a closing connection");
    }
}

async fn an_upload(servers: &Servers, target: &Server) -> Result<(), ServerError> {
    upload(servers, target, "k", pattern(10).into()).await.map(drop)
}

/// Uploads have connections of their own.
async fn a_look(servers: &Servers, target: &Server) -> Result<(), ServerError> {
    servers.look(target, &key("k"), &id()).await.map(drop)
}

fn answer(client: &mut Connection, head: &str) -> io::Result<()> {
    match head.split(' ').next() {
        Some("GET") => client.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
        Some("HEAD") => client.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        Some("DELETE") => client.answer(204),
        _ => client.answer(201),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_on_a_connection_closed_meanwhile_is_sent_again_whole() {
    for (size, closes_after, reset) in
        [(0, 0, false), (10, 0, false), (10, 5, true), (100_000, 0, true), (200_000, 70_000, false)]
    {
        let closing = Closing::start(closes_after, reset);
        let blob = Bytes::from(pattern(size));
        let again =
            async |servers: &Servers, target: &Server| upload(servers, target, "k", blob.clone()).await;
        let stored = closing.meet(an_upload, again).await;
        assert!(stored.is_ok(), "{size} bytes, closed after {closes_after}: {stored:?}");
        let body = closing.received.lock().unwrap().pop_front().expect("it arrived");
        assert!(body == blob, "{size} bytes: {} bytes arrived", body.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_verbs_are_asked_again_too() {
    let (key, id) = (key("k"), id());
    for reset in [false, true] {
        let closing = Closing::start(0, reset);
        let blob = async |servers: &Servers, target: &Server| {
            servers.get(target, &key, Method::GET, &HeaderMap::new(), &id).await
        };
        let Ok(Answered::Blob(mut blob)) = closing.meet(a_look, blob).await else { panic!("a GET failed") };
        assert_eq!(blob.next().await, Ok(Some(Bytes::from_static(b"hello"))));
        assert_eq!(blob.next().await, Ok(None));
        let look = async |servers: &Servers, target: &Server| servers.look(target, &key, &id).await;
        let there = closing.meet(a_look, look).await;
        assert_eq!(there, Ok(Presence::Blob { version: None, length: Some(5), checksum: None }));
        let version = Version::from_parts(1, 1);
        let deleted =
            async |servers: &Servers, target: &Server| servers.delete(target, &key, version, &id).await;
        assert!(closing.meet(a_look, deleted).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_with_a_condition_is_not_sent_twice() {
    // The first may have arrived; the second would then meet its own blob.
    let closing = Closing::start(10, false);
    let mut head = head("k", Some(10));
    head.conditions.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
    let conditional = async |servers: &Servers, target: &Server| {
        let (sender, body) = PutBody::channel(Some(10));
        let id = id();
        let put = servers.put(target, &head, body, &id);
        tokio::join!(put, feed(sender, pattern(10).into())).0
    };
    let stored = closing.meet(an_upload, conditional).await;
    assert!(matches!(stored, Err(ServerError::Broken(_))), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_big_put_that_breaks_late_is_left_to_the_caller() {
    // More went out than is kept.
    let closing = Closing::start(4 << 20, true);
    let big = Bytes::from(pattern(16 << 20));
    let upload_it =
        async |servers: &Servers, target: &Server| upload(servers, target, "k", big.clone()).await;
    let stored = closing.meet(an_upload, upload_it).await;
    assert!(matches!(stored, Err(ServerError::Broken(_))), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_closes_after_every_answer_serves_every_request() {
    let raw = RawServer::start(|client| {
        client.read_head()?;
        client.read_body(1000)?;
        client.answer(201)
    });
    let (servers, target) = (servers(), server("1", raw.port()));
    for round in 0..200 {
        let stored = upload(&servers, &target, "k", pattern(1000).into()).await;
        assert!(stored.is_ok(), "round {round}: {stored:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_serves_the_next_request() {
    let answered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&answered);
    // Each connection answers until 20 were answered, then closes with all others, as a killed process does.
    let raw = RawServer::start(move |client| {
        loop {
            client.read_head()?;
            client.read_body(10)?;
            client.answer(201)?;
            if count.fetch_add(1, Ordering::SeqCst) % 20 == 19 {
                return client.reset();
            }
        }
    });
    let (servers, target) = (Arc::new(servers()), server("1", raw.port()));
    for round in 0..20 {
        let puts = (0..16).map(|_| {
            let (servers, target) = (servers.clone(), target.clone());
            tokio::spawn(async move { upload(&servers, &target, "k", pattern(10).into()).await })
        });
        for put in puts.collect::<Vec<_>>() {
            let stored = put.await.unwrap();
            assert!(stored.is_ok(), "round {round}: {stored:?}");
        }
    }
    // An answer is counted after it was sent.
    eventually("all are counted", Duration::from_secs(10), || async {
        answered.load(Ordering::SeqCst) >= 320
    })
    .await;
}
