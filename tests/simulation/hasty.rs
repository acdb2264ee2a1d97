//! A server that takes a part of an upload for the whole: where the bytes do not come on it says that it stored them, and stores
//! nothing. Nothing else is to be had from it.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use backpack::model::Version;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use turmoil::net::TcpStream;

/// Longer than anything on its way to it takes.
const QUIET: Duration = Duration::from_millis(100);

/// More than any request has.
const MOST_BYTES: usize = 1 << 20;

const STORED: &str = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const REFUSED: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

thread_local! {
    /// When it was last said of a version, in small letters, that it is stored.
    static SAID: RefCell<BTreeMap<String, Duration>> = RefCell::default();
}

/// Whether such an answer and the end of the upload, which left the user then, may have crossed on their way: nobody can know
/// that answer for what it is.
pub fn crossed(version: Version, end: Option<Duration>) -> bool {
    let said = SAID.with_borrow(|said| said.get(&version.to_string().to_ascii_lowercase()).copied());
    said.zip(end).is_some_and(|(said, end)| end < said + QUIET)
}

/// Answers one request.
pub async fn answer(mut stream: TcpStream) {
    let mut request = Vec::new();
    let said = loop {
        match timeout(QUIET, stream.read_buf(&mut request)).await {
            Err(_) if is_half(&request) => break STORED,
            Ok(Ok(1..)) if request.len() < MOST_BYTES && !is_whole(&request) => {}
            // The head is still to come.
            Err(_) if request.len() < MOST_BYTES && body(&request).is_none() => {}
            _ => break REFUSED,
        }
    };
    if said == STORED {
        let head = body(&request).map(|(head, _)| head).unwrap_or_default();
        let version = head.lines().find_map(|line| line.strip_prefix("x-backpack-version: "));
        SAID.with_borrow_mut(|said| said.extend(version.map(str::to_owned).zip(turmoil::sim_elapsed())));
    }
    // The other side may be gone.
    let _ = stream.write_all(said.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// The head as text, and what came of the body.
fn body(request: &[u8]) -> Option<(String, &[u8])> {
    let end = request.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    Some((String::from_utf8_lossy(&request[..end]).to_ascii_lowercase(), &request[end + 4..]))
}

fn is_whole(request: &[u8]) -> bool {
    let Some((head, body)) = body(request) else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    match length {
        Some(length) => length.parse().is_ok_and(|length: usize| body.len() >= length),
        None => !head.contains("transfer-encoding: chunked") || body.ends_with(b"0\r\n\r\n"),
    }
}

fn is_half(request: &[u8]) -> bool {
    body(request).is_some_and(|(head, _)| head.starts_with("put ")) && !is_whole(request)
}
