//! A coordinator and a replicator that do next to nothing: one thread that passes uploads on to nodes, or copies from one node to
//! another, and has both Redis servers keep something for each. It knows no maps and no versions, checks nothing, keeps no limits,
//! and never tries again. What it reaches is nearly all the nodes', Redis', the kernel's and the load's.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, IoSlice, Read, Write},
    net::{TcpListener, TcpStream},
    ops::Range,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    fd::{AsFd, OwnedFd},
    io::Errno,
};

/// Read of a connection at once: a blob of 16 KiB with its head.
const ROOM_BYTES: usize = 20 << 10;

/// Events taken at once.
const EVENTS: usize = 256;

/// About as long as a task is.
const TASK_BYTES: usize = 256;

const STORED: &[u8] = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";

/// Where something comes: of each slot there are two numbers, its source's and its node's; Redis servers begin here.
const QUEUES: u64 = 1 << 32;
const LISTENER: u64 = u64::MAX;

/// Takes uploads and passes them on to these nodes by turns, until it is told to stop. An upload is answered once its node and all
/// Redis servers have it; Redis is told at once, as by a coordinator.
pub fn uploads(
    listener: &TcpListener,
    stop: &AtomicBool,
    nodes: &[String],
    redis: &[String],
) -> io::Result<()> {
    let mut relay = Relay::new(redis, None)?;
    relay.watch(listener, LISTENER)?;
    relay.run(|relay| {
        if stop.load(Relaxed) {
            return Ok(false);
        }
        let node = &nodes[relay.slots.len() % nodes.len()];
        relay.add_slot(listener.accept()?.0, TcpStream::connect(node)?)?;
        Ok(true)
    })
}

/// Copies so many blobs from one node to another, many at once. Redis is told after each, once.
pub fn copies(from: &str, to: &str, redis: &[String], targets: &[String], at_once: usize) -> io::Result<()> {
    let mut relay = Relay::new(redis, Some(targets))?;
    for at in 0..at_once.min(targets.len()) {
        relay.add_slot(TcpStream::connect(from)?, TcpStream::connect(to)?)?;
        relay.begin_copy(at)?;
    }
    relay.run(|_| unreachable!("nobody listens"))
}

struct Relay<'a> {
    epoll: OwnedFd,
    slots: Vec<Option<Slot>>,
    queues: Vec<Queue>,
    /// What is still to be copied, where that is what it does.
    copies: Option<std::slice::Iter<'a, String>>,
    /// Copies that are on their way.
    copying: usize,
}

/// An upload or a copy, one after the other.
struct Slot {
    /// A client, or a node.
    source: Peer,
    node: Peer,
    /// What is copied.
    target: String,
    /// How many of the node and the Redis servers have not answered.
    missing: usize,
}

/// A connection, of which messages are read.
struct Peer {
    stream: TcpStream,
    came: Vec<u8>,
    length: usize,
}

/// A Redis server. What comes while it is being told waits, to go together.
struct Queue {
    stream: TcpStream,
    waiting: VecDeque<usize>,
    told: VecDeque<usize>,
}

impl<'a> Relay<'a> {
    fn new(redis: &[String], copies: Option<&'a [String]>) -> io::Result<Self> {
        let mut relay = Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            slots: Vec::new(),
            queues: Vec::new(),
            copies: copies.map(<[_]>::iter),
            copying: 0,
        };
        for (number, addr) in (QUEUES..).zip(redis) {
            let stream = TcpStream::connect(addr)?;
            relay.watch(&stream, number)?;
            relay.queues.push(Queue { stream, waiting: VecDeque::new(), told: VecDeque::new() });
        }
        Ok(relay)
    }

    fn watch(&self, what: impl AsFd, number: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, what, EventData::new_u64(number), EventFlags::IN)?)
    }

    fn add_slot(&mut self, source: TcpStream, node: TcpStream) -> io::Result<()> {
        let number = 2 * self.slots.len() as u64;
        for (number, stream) in (number..).zip([&source, &node]) {
            stream.set_nodelay(true)?;
            self.watch(stream, number)?;
        }
        let (source, node) = (Peer::new(source), Peer::new(node));
        self.slots.push(Some(Slot { source, node, target: String::new(), missing: 0 }));
        Ok(())
    }

    /// Until nothing is left to copy, or whoever is asked when somebody connects says no.
    fn run(&mut self, mut connected: impl FnMut(&mut Self) -> io::Result<bool>) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                // Stopped and continued.
                Err(Errno::INTR) => continue,
                waited => waited?,
            };
            for event in events.drain(..) {
                match event.data.u64() {
                    LISTENER => {
                        if !connected(self)? {
                            return Ok(());
                        }
                    }
                    number if number >= QUEUES => {
                        for at in self.queues[(number - QUEUES) as usize].answered()? {
                            self.one_less(at)?;
                        }
                    }
                    number if number % 2 == 0 => self.source_said(number as usize / 2)?,
                    number => self.node_said(number as usize / 2)?,
                }
            }
            for queue in &mut self.queues {
                queue.tell()?;
            }
            if self.copies.is_some() && self.copying == 0 {
                return Ok(());
            }
        }
    }

    fn source_said(&mut self, at: usize) -> io::Result<()> {
        let Some(slot) = &mut self.slots[at] else { return Ok(()) };
        let body = match slot.source.read() {
            Ok(Some(body)) => body,
            Ok(None) => return Ok(()),
            // A client that has enough.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                self.slots[at] = None;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        slot.missing = 1;
        if self.copies.is_none() {
            slot.node.stream.write_all(&slot.source.came[..body.end])?;
            self.push(at);
            return Ok(());
        }
        let head = format!("PUT {} HTTP/1.1\r\nContent-Length: {}\r\n\r\n", slot.target, body.len());
        let parts = [head.as_bytes(), &slot.source.came[body]];
        let sent = slot.node.stream.write_vectored(&parts.map(IoSlice::new))?;
        assert_eq!(sent, parts.concat().len(), "a connection that waits takes as much at once");
        Ok(())
    }

    fn node_said(&mut self, at: usize) -> io::Result<()> {
        let Some(slot) = &mut self.slots[at] else { return Ok(()) };
        if slot.node.read()?.is_none() {
            return Ok(());
        }
        assert!(slot.node.came.starts_with(b"HTTP/1.1 201 "), "a node stores what it gets");
        if self.copies.is_some() {
            self.push(at);
        }
        self.one_less(at)
    }

    /// Has all Redis servers keep something for this one.
    fn push(&mut self, at: usize) {
        self.queues.iter_mut().for_each(|queue| queue.waiting.push_back(at));
        if let Some(slot) = &mut self.slots[at] {
            slot.missing += self.queues.len();
        }
    }

    /// One of those who have to answer did.
    fn one_less(&mut self, at: usize) -> io::Result<()> {
        let Some(slot) = &mut self.slots[at] else { return Ok(()) };
        slot.missing -= 1;
        if slot.missing > 0 {
            return Ok(());
        }
        if self.copies.is_none() {
            return slot.source.stream.write_all(STORED);
        }
        self.copying -= 1;
        self.begin_copy(at)
    }

    fn begin_copy(&mut self, at: usize) -> io::Result<()> {
        let next = self.copies.as_mut().and_then(Iterator::next);
        let (Some(target), Some(slot)) = (next, &mut self.slots[at]) else { return Ok(()) };
        self.copying += 1;
        slot.target.clone_from(target);
        slot.source.stream.write_all(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes())
    }
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        Self { stream, came: vec![0; ROOM_BYTES], length: 0 }
    }

    /// Reads once; where the body stands of a message that is whole. The next one begins anew.
    fn read(&mut self) -> io::Result<Option<Range<usize>>> {
        match self.stream.read(&mut self.came[self.length..])? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => self.length += count,
        }
        let Some(body) = body(&self.came[..self.length]) else { return Ok(None) };
        if self.came.len() < body.end {
            self.came.resize(body.end, 0);
        }
        let is_whole = self.length >= body.end;
        if is_whole {
            self.length = 0;
        }
        Ok(is_whole.then_some(body))
    }
}

/// Where the body of a message stands, once its head is there. It has as many bytes as were said, or none.
fn body(message: &[u8]) -> Option<Range<usize>> {
    let head = message.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let lines = str::from_utf8(&message[..head]).expect("heads are text").split("\r\n");
    let said = lines.filter_map(|line| line.split_once(": "));
    let length = said.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.map(|(_, length)| length.parse::<usize>().expect("a length is a number")).next();
    Some(head + 4..head + 4 + length.unwrap_or(0))
}

impl Queue {
    /// Sends what waits, unless it is being told already.
    fn tell(&mut self) -> io::Result<()> {
        if !self.told.is_empty() || self.waiting.is_empty() {
            return Ok(());
        }
        std::mem::swap(&mut self.told, &mut self.waiting);
        let command =
            format!("*3\r\n$5\r\nRPUSH\r\n$4\r\nbare\r\n${TASK_BYTES}\r\n{}\r\n", "x".repeat(TASK_BYTES));
        self.stream.write_all(command.repeat(self.told.len()).as_bytes())
    }

    /// Whose command is answered.
    fn answered(&mut self) -> io::Result<Vec<usize>> {
        let mut came = [0; 4096];
        let count = self.stream.read(&mut came)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        // `:1234` for each.
        assert!(!came[..count].contains(&b'-'), "Redis takes what it is told");
        let answers = came[..count].iter().filter(|byte| **byte == b'\n').count();
        Ok(self.told.drain(..answers).collect())
    }
}
