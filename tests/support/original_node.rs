//! A storage server that behaves as the original Backpack's node does, remembers what it was asked, and fails on demand.
//!
//! Written on plain sockets, so that keys arrive byte for byte and a body can be cut anywhere. The original's behaviour:
//! PUT needs a `Content-Length` above 0 (else 411) and answers 201; the key is the whole request target as bytes; GET
//! answers with a length, no type and no ETag; `/stats` counts; everything else is 418.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    port::free_port,
    wait::{START_WITHIN, wait_for, wait_until},
};

/// Bodies go through in pieces of this size, between which a bandwidth limit waits.
const PIECE_BYTES: usize = 16 * 1024;

/// How often a request that is held looks whether the fault is another.
const POLL_EVERY: Duration = Duration::from_millis(10);

/// What is wrong with the server.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Nobody listens: connections are refused, open ones are closed.
    Refuse,
    /// It takes requests and never answers.
    Hang,
    /// It answers so many requests, counted from the start, and holds those that come later until the fault is another.
    HoldAfter(usize),
    /// It waits this long before each answer.
    Delay(Duration),
    /// It takes the whole request and answers this status, whatever was asked.
    Status(u16),
    /// It closes the connection after so many bytes of a body, received or sent.
    Cut(usize),
    /// Bodies pass at so many bytes per second.
    Bandwidth(u64),
}

/// A request that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its method.
    pub method: String,
    /// Its target, as it stood in the request line.
    pub target: String,
    /// Its headers, as sent.
    pub headers: Vec<(String, String)>,
}

impl Seen {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// The server. It ends when dropped.
pub struct OriginalNode {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    blobs: Mutex<HashMap<Vec<u8>, Arc<Vec<u8>>>>,
    seen: Mutex<Vec<Seen>>,
    /// Requests received and not yet answered: now, and the most there were.
    at_work: Mutex<(usize, usize)>,
    gets: Mutex<(u64, u64)>,
    puts: Mutex<(u64, u64)>,
    fault: Mutex<Fault>,
    /// The open ones, by the client's port.
    connections: Mutex<HashMap<u16, TcpStream>>,
    /// Asks the accepting thread to end.
    closing: AtomicBool,
    /// There is an accepting thread.
    listening: AtomicBool,
}

impl OriginalNode {
    /// Starts an empty one.
    pub fn start() -> Self {
        let node = Self { port: free_port(), state: Arc::default() };
        node.listen();
        node
    }

    /// `127.0.0.1:port`.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets what is wrong from now on; [`Fault::None`] heals it. Blobs stay.
    pub fn set_fault(&self, fault: Fault) {
        *lock(&self.state.fault) = fault;
        match fault {
            Fault::Refuse => self.close(),
            _ if !self.state.listening.load(Ordering::SeqCst) => self.listen(),
            _ => {}
        }
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        lock(&self.state.connections).len()
    }

    /// Every request since the start, in the order of arrival.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.state.seen).clone()
    }

    /// The most requests that were there at once, each from its head to just before its answer.
    pub fn most_at_once(&self) -> usize {
        lock(&self.state.at_work).1
    }

    /// The blob under a key (without the leading slash), if it is there.
    pub fn blob(&self, key: &str) -> Option<Vec<u8>> {
        lock(&self.state.blobs).get(key.as_bytes()).map(|blob| blob.to_vec())
    }

    /// Puts a blob there without a request.
    pub fn insert(&self, key: &str, blob: impl Into<Vec<u8>>) {
        lock(&self.state.blobs).insert(key.into(), Arc::new(blob.into()));
    }

    /// Forgets a blob, as a server does whose disk was replaced.
    pub fn remove(&self, key: &str) {
        lock(&self.state.blobs).remove(key.as_bytes());
    }

    fn listen(&self) {
        // A program that another test starts may hold for a moment what this node listened on before.
        let listener =
            wait_for("listen on a port of our own", START_WITHIN, || TcpListener::bind(self.addr()).ok());
        self.state.closing.store(false, Ordering::SeqCst);
        self.state.listening.store(true, Ordering::SeqCst);
        let state = Arc::clone(&self.state);
        thread::spawn(move || {
            accept(&listener, &state);
            drop(listener);
            state.listening.store(false, Ordering::SeqCst);
        });
    }

    fn close(&self) {
        self.state.closing.store(true, Ordering::SeqCst);
        // Wakes the accepting thread; refused when it has ended already.
        let _ = TcpStream::connect(self.addr());
        let closed = || !self.state.listening.load(Ordering::SeqCst);
        wait_until("the stand-in closes its listener", START_WITHIN, closed);
        for (_, connection) in lock(&self.state.connections).drain() {
            // Closed by the other side already, perhaps.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for OriginalNode {
    fn drop(&mut self) {
        self.set_fault(Fault::Refuse);
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for connection in listener.incoming() {
        if state.closing.load(Ordering::SeqCst) {
            return;
        }
        let Ok(connection) = connection else { continue };
        let (Ok(client), Ok(copy)) = (connection.peer_addr(), connection.try_clone()) else { continue };
        lock(&state.connections).insert(client.port(), copy);
        let state = Arc::clone(state);
        thread::spawn(move || {
            // The other side went away, or a fault cut the connection: both end it.
            let _ = serve(&connection, &state);
            let _ = connection.shutdown(Shutdown::Both);
            lock(&state.connections).remove(&client.port());
        });
    }
}

fn serve(connection: &TcpStream, state: &State) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection);
    while let Some(request) = read_head(&mut reader)? {
        let number = {
            let mut seen = lock(&state.seen);
            seen.push(request.clone());
            seen.len()
        };
        if let Fault::HoldAfter(requests) = state.fault()
            && number > requests
        {
            state.wait_while(Fault::HoldAfter(requests));
        }
        if !answer(&request, &mut reader, connection, state)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads the body, acts and answers; whether the connection can go on.
fn answer(
    request: &Seen,
    reader: &mut impl Read,
    mut connection: &TcpStream,
    state: &State,
) -> io::Result<bool> {
    let fault = state.fault();
    let at_work = AtWork::begin(state);
    if fault == Fault::Hang {
        state.wait_while(Fault::Hang);
        return Ok(false);
    }
    if request.header("expect").is_some() {
        connection.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let length: usize = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    pass(length, fault, state, |span| reader.read_exact(&mut body[span]))?;
    if let Fault::Delay(delay) = fault {
        state.wait_at_most(delay, fault);
    }
    // A chunked body is not read, so the connection ends with the answer.
    let unread = request.header("transfer-encoding").is_some();
    let go_on = !unread && request.header("connection").is_none_or(|value| value != "close");
    let (status, blob) = match fault {
        Fault::Status(status) => (status, Arc::default()),
        _ => act(request, body, state),
    };
    drop(at_work);
    let close = if go_on { "" } else { "Connection: close\r\n" };
    write!(connection, "HTTP/1.1 {status} Stand-in\r\nContent-Length: {}\r\n{close}\r\n", blob.len())?;
    if request.method != "HEAD" {
        pass(blob.len(), fault, state, |span| connection.write_all(&blob[span]))?;
    }
    Ok(go_on)
}

fn act(request: &Seen, body: Vec<u8>, state: &State) -> (u16, Arc<Vec<u8>>) {
    let target = request.target.as_bytes();
    let key = target.strip_prefix(b"/").unwrap_or(target).to_vec();
    match request.method.as_str() {
        "PUT" if body.is_empty() => (411, Arc::default()),
        "PUT" => {
            count(&state.puts, body.len());
            lock(&state.blobs).insert(key, Arc::new(body));
            (201, Arc::default())
        }
        "GET" if key == b"stats" => (200, Arc::new(state.stats().into_bytes())),
        "GET" => match lock(&state.blobs).get(&key) {
            None => (404, Arc::default()),
            Some(blob) => {
                count(&state.gets, blob.len());
                (200, Arc::clone(blob))
            }
        },
        _ => (418, Arc::new(b"I am teapot, what did you expect?".to_vec())),
    }
}

/// A request that is being answered.
struct AtWork<'a>(&'a State);

impl<'a> AtWork<'a> {
    fn begin(state: &'a State) -> Self {
        let mut at_work = lock(&state.at_work);
        at_work.0 += 1;
        at_work.1 = at_work.1.max(at_work.0);
        Self(state)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        lock(&self.0.at_work).0 -= 1;
    }
}

impl State {
    fn fault(&self) -> Fault {
        *lock(&self.fault)
    }

    fn wait_while(&self, fault: Fault) {
        self.wait_at_most(Duration::MAX, fault);
    }

    /// Ends early when the fault is another.
    fn wait_at_most(&self, time: Duration, fault: Fault) {
        let started = Instant::now();
        while self.fault() == fault && started.elapsed() < time {
            thread::sleep(POLL_EVERY.min(time - started.elapsed().min(time)));
        }
    }

    fn stats(&self) -> String {
        let of = |counts: &Mutex<(u64, u64)>| {
            let (count, bytes) = *lock(counts);
            serde_json::json!({ "count": count, "bytes": bytes, "avg": bytes.checked_div(count).unwrap_or(0) })
        };
        serde_json::json!({ "gets": of(&self.gets), "puts": of(&self.puts) }).to_string()
    }
}

fn count(counts: &Mutex<(u64, u64)>, bytes: usize) {
    let mut counts = lock(counts);
    counts.0 += 1;
    counts.1 += bytes as u64;
}

/// Moves a body in pieces, as slowly and as far as the fault lets it.
fn pass(
    length: usize,
    fault: Fault,
    state: &State,
    mut piece: impl FnMut(std::ops::Range<usize>) -> io::Result<()>,
) -> io::Result<()> {
    let end = if let Fault::Cut(after) = fault { length.min(after) } else { length };
    let mut start = 0;
    while start < end {
        let stop = end.min(start + PIECE_BYTES);
        piece(start..stop)?;
        if let Fault::Bandwidth(bytes_per_second) = fault {
            let time = Duration::from_secs_f64((stop - start) as f64 / bytes_per_second as f64);
            state.wait_at_most(time, fault);
        }
        start = stop;
    }
    if end < length { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
}

/// The next request's line and headers; `None` when the client closed the connection.
fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Seen>> {
    let Some(line) = read_line(reader)? else { return Ok(None) };
    let mut words = line.splitn(2, ' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target =
        words.next().and_then(|rest| rest.rsplit_once(' ')).map_or("", |(target, _)| target).to_owned();
    let mut headers = Vec::new();
    while let Some(line) = read_line(reader)?.filter(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }
    Ok(Some(Seen { method, target, headers }))
}

fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if reader.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()))
}

/// A test that panics while it holds a lock must not hide its message behind a second panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
