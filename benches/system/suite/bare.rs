//! A server that does next to nothing: one thread for all connections, no keys, no checks, no limits, whatever it has for whoever
//! asks. What it reaches is nearly all the kernel's, the load's and the disk's. It is no bound for more threads on more processors than two,
//! nor for one that reads while the disk syncs.

use std::{
    fs::File,
    io::{self, ErrorKind, IoSlice, Read, Seek, Write},
    net::{TcpListener, TcpStream},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread::JoinHandle,
};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    fd::OwnedFd,
    io::Errno,
};
use tempfile::NamedTempFile;

use super::{cpu, load::Answered, turns::Round};

/// What becomes of uploads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// They are kept in memory, and given out by turns to whoever asks; from the first upload after a read on only newer ones.
    InMemory,
    /// They are appended to a file: all that came at once, together.
    OnDisk {
        /// And synced before they are answered.
        synced: bool,
    },
}

/// The server, until it is dropped.
pub struct Bare {
    addr: String,
    thread: u32,
    stop: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

impl Bare {
    /// Starts one.
    pub fn start(keep: Keep) -> Self {
        Self::of(move |listener, stop| serve(listener, keep, stop))
    }

    /// Starts whatever serves connections until it is told to stop.
    pub fn of(serve: impl FnOnce(&TcpListener, &AtomicBool) -> io::Result<()> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let addr = listener.local_addr().expect("a listener has an address").to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, told) = mpsc::channel();
        let stopped = stop.clone();
        let serving = std::thread::spawn(move || {
            let thread = rustix::thread::gettid().as_raw_nonzero().get();
            tell.send(thread.unsigned_abs()).expect("somebody waits for it");
            serve(&listener, &stopped).expect("serve");
        });
        let thread = told.recv().expect("the thread begins");
        Self { addr, thread, stop, serving: Some(serving) }
    }

    /// `127.0.0.1:port`.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// A turn, and what it needs for it.
    pub fn round(&self, load: impl FnOnce() -> Answered) -> Round {
        let before = cpu::of_thread(self.thread);
        let answered = load();
        Round { answered, cpu_seconds: cpu::of_thread(self.thread) - before }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        // Wakes it.
        drop(TcpStream::connect(&self.addr));
        if let Some(Err(panic)) = self.serving.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Read of a connection at once: a blob of 16 KiB with its head.
pub const ROOM_BYTES: usize = 20 << 10;

/// A file is begun anew after so much: what is not synced would fill the disk.
const FILE_BYTES: u64 = 4 << 30;

/// Events taken at once.
pub const EVENTS: usize = 256;

/// Where the listener stands among the connections.
pub const LISTENER: u64 = u64::MAX;

/// The answer to an upload.
pub const STORED: &[u8] = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";

struct Connection {
    stream: TcpStream,
    came: Vec<u8>,
    length: usize,
    /// What is on its way out: the answer's head, its body, and how many bytes of both are gone.
    sending: Option<(String, Rc<[u8]>, usize)>,
    /// It is asked whether there is room to send, instead of whether something came.
    waits_for_room: bool,
}

/// What came of a connection.
enum Came {
    Nothing,
    Get,
    /// An upload, whose body begins and ends there.
    Put(usize, usize),
}

fn serve(listener: &TcpListener, keep: Keep, stop: &AtomicBool) -> io::Result<()> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    // With a name, so that what is in memory of it can be dropped between turns.
    let mut file = NamedTempFile::new()?;
    let file = file.as_file_mut();
    let (mut connections, mut bodies, mut next) =
        (Vec::<Option<Connection>>::new(), Vec::<Rc<[u8]>>::new(), 0);
    let (mut events, mut uploads) = (Vec::with_capacity(EVENTS), Vec::new());
    while !stop.load(Relaxed) {
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            // Stopped and continued.
            Err(Errno::INTR) => continue,
            waited => waited?,
        };
        for event in events.drain(..) {
            let number = event.data.u64();
            if number == LISTENER {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                epoll::add(&epoll, &stream, EventData::new_u64(connections.len() as u64), EventFlags::IN)?;
                connections.push(Some(Connection {
                    stream,
                    came: vec![0; ROOM_BYTES],
                    length: 0,
                    sending: None,
                    waits_for_room: false,
                }));
                continue;
            }
            let slot = &mut connections[number as usize];
            let Some(connection) = slot else { continue };
            if connection.sending.is_some() {
                connection.send(&epoll, number)?;
                continue;
            }
            match connection.read() {
                Ok(Came::Nothing) => {}
                Ok(Came::Get) => {
                    let body = Rc::clone(&bodies[next % bodies.len()]);
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                    connection.sending = Some((head, body, 0));
                    next += 1;
                    connection.send(&epoll, number)?;
                }
                Ok(Came::Put(from, to)) if keep == Keep::InMemory => {
                    if next > 0 {
                        (next, bodies) = (0, Vec::new());
                    }
                    bodies.push(connection.came[from..to].into());
                    connection.stored();
                }
                Ok(Came::Put(from, to)) => uploads.push((number as usize, from, to)),
                // Gone.
                Err(_) => *slot = None,
            }
        }
        if let Keep::OnDisk { synced } = keep
            && !uploads.is_empty()
        {
            append(file, synced, &connections, &uploads)?;
            for (number, ..) in uploads.drain(..) {
                let connection = connections[number].as_mut().expect("it waits for its answer");
                connection.stored();
            }
        }
    }
    Ok(())
}

fn append(
    file: &mut File,
    synced: bool,
    connections: &[Option<Connection>],
    uploads: &[(usize, usize, usize)],
) -> io::Result<()> {
    let body = |&(number, from, to): &(usize, usize, usize)| {
        IoSlice::new(&connections[number].as_ref().expect("it waits for its answer").came[from..to])
    };
    if file.stream_position()? > FILE_BYTES {
        file.rewind()?;
        file.set_len(0)?;
    }
    let slices: Vec<_> = uploads.iter().map(body).collect();
    let written = file.write_vectored(&slices)?;
    assert_eq!(written, slices.iter().map(|slice| slice.len()).sum::<usize>(), "the disk has room");
    if synced { file.sync_data() } else { Ok(()) }
}

impl Connection {
    fn read(&mut self) -> io::Result<Came> {
        match self.stream.read(&mut self.came[self.length..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.length += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Came::Nothing),
            Err(error) => return Err(error),
        }
        let came = &self.came[..self.length];
        if came.starts_with(b"GET ") && came.ends_with(b"\r\n\r\n") {
            self.length = 0;
            return Ok(Came::Get);
        }
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(came).map_err(io::Error::other)?;
        let httparse::Status::Complete(head) = parsed else { return Ok(Came::Nothing) };
        let said = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
        let said = said.and_then(|header| str::from_utf8(header.value).ok()?.parse::<usize>().ok());
        let end = head + said.unwrap_or(0);
        if self.came.len() < end {
            self.came.resize(end, 0);
        }
        Ok(if self.length < end { Came::Nothing } else { Came::Put(head, end) })
    }

    fn stored(&mut self) {
        self.length = 0;
        // Who is gone is met when it is read.
        let _ = self.stream.write_all(STORED);
    }

    /// Sends as much as goes now; waits for room for the rest.
    fn send(&mut self, epoll: &OwnedFd, number: u64) -> io::Result<()> {
        let Some((head, body, gone)) = &mut self.sending else { return Ok(()) };
        let head = head.as_bytes();
        let rest = [&head[head.len().min(*gone)..], &body[gone.saturating_sub(head.len())..]];
        match self.stream.write_vectored(&rest.map(IoSlice::new)) {
            Ok(count) => *gone += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // As in `stored`.
            Err(_) => *gone = head.len() + body.len(),
        }
        let is_whole = *gone == head.len() + body.len();
        if is_whole {
            self.sending = None;
        }
        if self.waits_for_room == is_whole {
            self.waits_for_room = !is_whole;
            let for_what = if is_whole { EventFlags::IN } else { EventFlags::OUT };
            epoll::modify(epoll, &self.stream, EventData::new_u64(number), for_what)?;
        }
        Ok(())
    }
}
