//! What a copy does with servers that are faulty: never a wrong or short copy, and the fault has a name.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use backpack::{
    client::{Copied, CopyError, CopyPlan, Pace, Presence, ServerError, Servers, Timeouts},
    model::{Checksum, Version},
};

use crate::{
    client_cases::{
        SHORT, SOON, TIMEOUTS, copy, fetch, id, key, pattern,
        raw::{Connection, RawServer},
        server, server_at, servers, soon,
    },
    node_double::TestNode,
    support::wait::eventually,
};

/// A time-out that is waited for where others must not reach it.
const HEALTHY: Duration = Duration::from_secs(6);

const SIZE: usize = 1 << 20;

/// A source that answers each GET with this head and then does that with the body.
fn source(
    head: String,
    body: impl Fn(&mut Connection, &[u8]) -> io::Result<()> + Send + Sync + 'static,
) -> RawServer {
    let bytes = pattern(SIZE);
    RawServer::start(move |client| {
        loop {
            client.read_head()?;
            client.send(&head)?;
            body(client, &bytes)?;
        }
    })
}

fn head_of(length: usize, extra: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n{extra}\r\n")
}

/// A target that has nothing, takes a body of that length and answers so.
fn target(answer: impl Into<String>) -> RawServer {
    let answer = answer.into();
    RawServer::start(move |client| {
        loop {
            if client.read_head()?.starts_with("HEAD") {
                client.answer(404)?;
            } else {
                client.read_body(SIZE)?;
                client.send(&answer)?;
            }
        }
    })
}

/// A target that has nothing, does that with a PUT, and says from then on that it has so many bytes. The client may ask on
/// any connection.
fn taking(
    length: usize,
    put: impl Fn(&mut Connection) -> io::Result<()> + Send + Sync + 'static,
) -> RawServer {
    let has_it = AtomicBool::new(false);
    RawServer::start(move |client| {
        loop {
            if client.read_head()?.starts_with("PUT") {
                has_it.store(true, Ordering::SeqCst);
                put(client)?;
            } else if has_it.load(Ordering::SeqCst) {
                client.send(head_of(length, ""))?;
            } else {
                client.answer(404)?;
            }
        }
    })
}

fn closed() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_in_mid_body_never_makes_a_copy() {
    let wrong = Checksum::of(b"something else");
    let half = |client: &mut Connection, bytes: &[u8]| client.send(&bytes[..SIZE / 2]);
    for (what, source, label) in [
        ("cut", source(head_of(SIZE, ""), move |c, b| half(c, b).and(Err(closed()))), "broken"),
        (
            "reset",
            source(head_of(SIZE, ""), move |c, b| half(c, b).and(c.reset()).and(Err(closed()))),
            "broken",
        ),
        ("stalled", source(head_of(SIZE, ""), move |c, b| half(c, b).and(c.hang())), "stalled"),
        (
            "cut at the last byte",
            source(head_of(SIZE, ""), |c, b| c.send(&b[..SIZE - 1]).and(Err(closed()))),
            "broken",
        ),
        (
            "a checksum that does not match",
            source(head_of(SIZE, &format!("x-amz-checksum-crc64nvme: {wrong}\r\n")), |c, b| c.send(b)),
            "wrong_bytes",
        ),
        (
            "no length, short, with a checksum",
            source(
                format!(
                    "HTTP/1.0 200 OK\r\nx-amz-checksum-crc64nvme: {}\r\n\r\n",
                    Checksum::of(&pattern(SIZE))
                ),
                move |c, b| half(c, b).and(Err(closed())),
            ),
            "wrong_bytes",
        ),
        (
            "no length and nothing else",
            source("HTTP/1.0 200 OK\r\n\r\n".to_owned(), |client, bytes| {
                client.send(bytes).and(Err(closed()))
            }),
            "wrong_bytes",
        ),
        (
            "a part of it",
            source(format!("HTTP/1.1 206 Partial\r\ncontent-length: {SIZE}\r\n\r\n"), |c, b| c.send(b)),
            "wrong_bytes",
        ),
    ] {
        let node = TestNode::start().await;
        // The one time-out that is waited for.
        let stall = if label == "stalled" { HEALTHY } else { TIMEOUTS.stall };
        let servers = Servers::new(Timeouts { stall, ..TIMEOUTS });
        let target = server_at("2", &node.addr);
        let bad = server("1", source.port());
        let version = Some(Version::from_parts(1, 1));
        let failed = copy(&servers, "k", version, &[&bad], &target).await;
        let Err(CopyError::Source { error, .. }) = failed else { panic!("{what}: {failed:?}") };
        assert_eq!(error.label(), label, "{what}: {error}");
        assert_eq!(servers.look(&target, &key("k"), &id()).await, Ok(Presence::Nothing), "{what}");

        // The next source is taken, and the target has the blob whole.
        let good = self::source(head_of(SIZE, ""), |client, bytes| client.send(bytes));
        let copied = copy(&servers, "k", version, &[&bad, &server("3", good.port())], &target).await;
        assert_eq!(copied, Ok(Copied::Copied(SIZE as u64)), "{what}");
        assert!(fetch(&servers, &target, "k").await.as_deref() == Some(&pattern(SIZE)), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_received_other_bytes_is_not_believed() {
    let source = source(head_of(SIZE, ""), |client, bytes| client.send(bytes));
    let wrong = Checksum::of(b"something else");
    let echo = target(format!(
        "HTTP/1.1 201 Created\r\nx-amz-checksum-crc64nvme: {wrong}\r\ncontent-length: 0\r\n\r\n"
    ));
    let forgetful = target("HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n");
    let unprocessable = target("HTTP/1.1 422 No\r\ncontent-length: 0\r\n\r\n");
    let short = taking(7, |client| client.read_body(SIZE).and(client.answer(201)));
    for target in [echo, forgetful, unprocessable, short] {
        let failed =
            copy(&servers(), "k", None, &[&server("1", source.port())], &server("2", target.port())).await;
        assert!(matches!(failed, Err(CopyError::Target(ServerError::WrongBytes(_)))), "{failed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_answers_early_is_heard() {
    let source = source(head_of(64 * SIZE, ""), |client, bytes| (0..64).try_for_each(|_| client.send(bytes)));
    let version = Version::from_parts(1, 5);
    let early = |answer: String| {
        taking(0, move |client| {
            client.read_body(100_000)?;
            client.send(&answer)?;
            Err(closed())
        })
    };
    let plain = |status| format!("HTTP/1.1 {status} Early\r\ncontent-length: 0\r\n\r\n");
    let newer = format!("HTTP/1.1 200 OK\r\nx-backpack-version: {version}\r\ncontent-length: 0\r\n\r\n");
    for (answer, expected) in [
        (plain(507), Err("full")),
        (plain(411), Err("needs_length")),
        (plain(413), Err("refused")),
        (plain(503), Err("not_ready")),
        (plain(201), Err("broken")),
        (newer, Ok(Copied::AlreadyThere)),
    ] {
        for _ in 0..5 {
            let target = early(answer.clone());
            let sources = [&server("1", source.port())];
            let copied = copy(&servers(), "k", Some(version), &sources, &server("2", target.port())).await;
            let copied = copied.map_err(|error| match error {
                CopyError::Target(error) => error.label(),
                other => panic!("{answer}: {other}"),
            });
            assert_eq!(copied, expected, "{answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_hangs_ends_the_copy_in_time() {
    let source = source(head_of(64 * SIZE, ""), |client, bytes| (0..64).try_for_each(|_| client.send(bytes)));
    let silent = RawServer::start(Connection::hang);
    let full_hands = taking(0, Connection::hang);
    for (target, timeouts) in [
        (silent, Timeouts { answer: SHORT, ..TIMEOUTS }),
        (full_hands, Timeouts { stall: SHORT, ..TIMEOUTS }),
    ] {
        let (servers, from) = (Servers::new(timeouts), server("1", source.port()));
        let failed = soon(copy(&servers, "k", None, &[&from], &server("2", target.port()))).await;
        assert_eq!(failed, Err(CopyError::Target(ServerError::Stalled(SHORT))));
    }
}

/// Counts what was read from the source.
#[derive(Clone, Default)]
struct Counting(Arc<AtomicUsize>);

impl Pace for Counting {
    async fn pass(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_huge_blob_holds_little_of_it() {
    const TIMES: usize = 256;
    let source =
        source(head_of(TIMES * SIZE, ""), |client, bytes| (0..TIMES).try_for_each(|_| client.send(bytes)));
    let read = Counting::default();
    let most_held = Arc::new(AtomicUsize::new(0));
    // Slower than the source, so that whatever is not bounded piles up.
    let (counted, most) = (read.clone(), Arc::clone(&most_held));
    let target = taking(TIMES * SIZE, move |client| {
        for received in 1..=TIMES {
            client.read_body(SIZE)?;
            most.fetch_max(counted.0.load(Ordering::SeqCst) - received * SIZE, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(2));
        }
        client.answer(201)
    });
    let (from, to, key) = (Arc::new(server("1", source.port())), server("2", target.port()), key("k"));
    let plan =
        CopyPlan { key: &key, version: None, sources: &[from], target: &to, patience: None, is_new: false };
    let copied = servers().copy(&plan, &read, &id()).await;
    assert_eq!(copied, Ok(Copied::Copied((TIMES * SIZE) as u64)));
    let held = most_held.load(Ordering::SeqCst);
    assert!(held < 16 << 20, "{held} bytes of {} were on their way", TIMES * SIZE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_dropped_leaves_nothing() {
    let source =
        source(head_of(SIZE, ""), |client, bytes| client.send(&bytes[..SIZE / 2]).and(client.hang()));
    let node = TestNode::start().await;
    let servers = Arc::new(servers());
    let (from, to) = (server("1", source.port()), server_at("2", &node.addr));
    let received = async || node.metric("backpack_node_received_bytes_total", "") > 0;
    let sources = [&from];
    tokio::select! {
        copied = copy(&servers, "k", None, &sources, &to) => panic!("{copied:?}"),
        () = eventually("the target receives bytes", SOON, received) => {}
    }
    assert_eq!(servers.look(&to, &key("k"), &id()).await, Ok(Presence::Nothing));
    node.stop().await;
}
