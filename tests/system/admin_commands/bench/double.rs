//! A server of blobs that is played by the test: a thread for each connection, all behind one lock, so that one that stalls
//! stalls all.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

/// What it does wrong.
#[derive(Default, Clone)]
pub struct Manners {
    /// Before it answers this request, nobody gets an answer for that long.
    pub stall: Option<(usize, Duration)>,
    /// The last byte of what is read is another one.
    pub wrong_byte: bool,
    /// It knows no DELETE.
    pub refuses_delete: bool,
    /// Each request whose number is a multiple of this is answered 503, if it is an upload.
    pub refuses_every: Option<usize>,
    /// After so many requests it closes the connection, without having said so.
    pub closes_every: Option<usize>,
}

/// It serves until the process ends.
pub struct Double {
    /// Where.
    pub addr: String,
    state: Arc<Mutex<State>>,
}

struct State {
    manners: Manners,
    blobs: HashMap<String, Vec<u8>>,
    methods: Vec<String>,
}

impl Double {
    pub fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let state = State { manners, blobs: HashMap::new(), methods: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = shared.clone();
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { addr, state }
    }

    /// How many requests of this method came.
    pub fn requests(&self, method: &str) -> usize {
        self.state.lock().unwrap().methods.iter().filter(|came| *came == method).count()
    }
}

/// Serves one connection to its end.
fn serve(mut stream: TcpStream, state: &Mutex<State>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let closes_after = state.lock().unwrap().manners.closes_every.unwrap_or(usize::MAX);
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    for _ in 0..closes_after {
        let (method, path, body) = request(&mut reader)?;
        let (status, body) = state.lock().unwrap().answer(&method, &path, body);
        let mut answer =
            format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        answer.extend(body);
        stream.write_all(&answer).ok()?;
    }
    None
}

fn request(reader: &mut impl BufRead) -> Option<(String, String, Vec<u8>)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((method, path, body))
}

impl State {
    fn answer(&mut self, method: &str, path: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
        self.methods.push(method.to_owned());
        let came = self.methods.len();
        if let Some((_, stall)) = self.manners.stall.filter(|(at, _)| *at == came) {
            // The fault itself: the lock is held meanwhile.
            thread::sleep(stall);
        }
        match method {
            "PUT" if self.manners.refuses_every.is_some_and(|every| came.is_multiple_of(every)) => {
                (503, br#"{"error":"no room"}"#.to_vec())
            }
            "PUT" => {
                self.blobs.insert(path.to_owned(), body);
                (201, Vec::new())
            }
            "DELETE" if self.manners.refuses_delete => (405, Vec::new()),
            "DELETE" => (if self.blobs.remove(path).is_some() { 204 } else { 404 }, Vec::new()),
            _ => match self.blobs.get(path) {
                None => (404, Vec::new()),
                Some(blob) => {
                    let mut blob = blob.clone();
                    if let Some(last) = blob.last_mut().filter(|_| self.manners.wrong_byte) {
                        *last ^= 1;
                    }
                    (200, blob)
                }
            },
        }
    }
}
