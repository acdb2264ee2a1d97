//! A coordinator and a replicator that do next to nothing: one thread that passes uploads on to nodes, or copies between them, and has
//! two Redis servers keep something for each. It knows no maps and no versions, checks next to nothing, keeps no limits, and
//! never tries again. What it reaches is nearly all the nodes', Redis', the kernel's and the load's.

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    net::{TcpListener, TcpStream},
    ops::Range,
    slice::Iter,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    fd::{AsFd, OwnedFd},
    io::Errno,
};

use super::bare::{EVENTS, LISTENER, ROOM_BYTES, STORED};

/// About as long as a task is.
const TASK_BYTES: usize = 256;

/// Nothing that is waited for takes so long.
const SILENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Where something comes: of each slot there are two numbers, its source's and its node's; Redis servers begin here.
const QUEUES: u64 = 1 << 32;

/// Takes uploads and passes them on to these nodes by turns, until it is told to stop. One Redis server is told of an upload at once, the
/// other one when its node has it; it is answered when the node and the first one have: as a coordinator does.
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

/// Copies what stands there for either node from it to the other one, many at once. Both Redis servers are told of each copy, once; nobody
/// waits for that before the end.
pub fn copies(
    nodes: &[String; 2],
    redis: &[String],
    targets: &[Vec<String>; 2],
    at_once: usize,
) -> io::Result<()> {
    let mut relay = Relay::new(redis, Some(targets.each_ref().map(|targets| targets.iter())))?;
    for at in 0..at_once {
        let [from, to] = [at % 2, (at + 1) % 2].map(|node| TcpStream::connect(&nodes[node]));
        relay.add_slot(from?, to?)?;
        relay.begin_copy(at)?;
    }
    relay.run(|_| unreachable!("nobody listens"))
}

struct Relay<'a> {
    epoll: OwnedFd,
    slots: Vec<Option<Slot>>,
    queues: Vec<Queue>,
    /// What is still to be copied of either node, where that is what it does.
    copies: Option<[Iter<'a, String>; 2]>,
}

/// An upload or a copy, one after the other.
struct Slot {
    /// A client, or a node.
    source: Peer,
    node: Peer,
    /// What is copied.
    target: String,
    /// How many did not answer yet: the source of a copy, a node, a Redis server.
    missing: usize,
}

/// A connection, of which messages are read.
struct Peer {
    stream: TcpStream,
    came: Vec<u8>,
    length: usize,
}

/// A Redis server. What it is to keep while it is being told something waits, to go together.
struct Queue {
    stream: TcpStream,
    /// Slots, as far as they wait for it.
    waiting: Vec<Option<usize>>,
    told: Vec<Option<usize>>,
}

impl<'a> Relay<'a> {
    fn new(redis: &[String], copies: Option<[Iter<'a, String>; 2]>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut relay = Self { epoll, slots: Vec::new(), queues: Vec::new(), copies };
        for (number, addr) in (QUEUES..).zip(redis) {
            let stream = TcpStream::connect(addr)?;
            relay.watch(&stream, number)?;
            relay.queues.push(Queue { stream, waiting: Vec::new(), told: Vec::new() });
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
        while self.copies.is_none() || self.is_busy() {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&SILENCE)) {
                // Stopped and continued.
                Err(Errno::INTR) => continue,
                waited => waited?,
            };
            assert!(!events.is_empty() || !self.is_busy(), "somebody does not answer");
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
        }
        Ok(())
    }

    /// Whether somebody has to answer.
    fn is_busy(&self) -> bool {
        let waits = |queue: &Queue| !queue.told.is_empty() || !queue.waiting.is_empty();
        self.slots.iter().flatten().any(|slot| slot.missing > 0) || self.queues.iter().any(waits)
    }

    fn source_said(&mut self, at: usize) -> io::Result<()> {
        let Some(slot) = &mut self.slots[at] else { return Ok(()) };
        let body = match slot.source.read() {
            Ok(Some(body)) => body,
            Ok(None) => return Ok(()),
            // A client that has enough.
            Err(error) if self.copies.is_none() && error.kind() == ErrorKind::UnexpectedEof => {
                self.slots[at] = None;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let message = &slot.source.came[..body.end];
        if self.copies.is_none() {
            slot.node.stream.write_all(message)?;
            slot.missing = 2;
            let first = at % self.queues.len();
            self.queues[first].waiting.push(Some(at));
            return Ok(());
        }
        assert!(message.starts_with(b"HTTP/1.1 200 "), "a node gives what it has");
        let head = format!("PUT {} HTTP/1.1\r\nContent-Length: {}\r\n\r\n", slot.target, body.len());
        let parts = [head.as_bytes(), &message[body]];
        let sent = slot.node.stream.write_vectored(&parts.map(IoSlice::new))?;
        assert_eq!(sent, parts[0].len() + parts[1].len(), "a connection that waits takes as much at once");
        Ok(())
    }

    fn node_said(&mut self, at: usize) -> io::Result<()> {
        let Some(slot) = &mut self.slots[at] else { return Ok(()) };
        if slot.node.read()?.is_none() {
            return Ok(());
        }
        assert!(slot.node.came.starts_with(b"HTTP/1.1 201 "), "a node stores what it gets");
        // Of an upload one was told before.
        let was_told = self.copies.is_none().then(|| at % self.queues.len());
        let queues = self.queues.iter_mut().enumerate().filter(|(number, _)| was_told != Some(*number));
        queues.for_each(|(_, queue)| queue.waiting.push(None));
        self.one_less(at)
    }

    /// One of those who have to answer did.
    fn one_less(&mut self, at: usize) -> io::Result<()> {
        let Some(slot) = &mut self.slots[at] else { return Ok(()) };
        slot.missing -= 1;
        match (slot.missing, &self.copies) {
            (0, None) => slot.source.stream.write_all(STORED),
            (0, Some(_)) => self.begin_copy(at),
            _ => Ok(()),
        }
    }

    /// The next copy in the direction of this slot, if there is one.
    fn begin_copy(&mut self, at: usize) -> io::Result<()> {
        let next = self.copies.as_mut().and_then(|copies| copies[at % 2].next());
        let (Some(target), Some(slot)) = (next, &mut self.slots[at]) else { return Ok(()) };
        slot.missing = 1;
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
        if self.length < body.end {
            return Ok(None);
        }
        assert_eq!(self.length, body.end, "one message at a time");
        self.length = 0;
        Ok(Some(body))
    }
}

/// Where the body of a message stands, once its head is there. It has as many bytes as were said, or none.
fn body(message: &[u8]) -> Option<Range<usize>> {
    let head = message.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let lines = str::from_utf8(&message[..head]).expect("heads are text").split("\r\n");
    let said = lines.filter_map(|line| line.split_once(": "));
    let mut lengths = said.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = lengths.next().map_or(0, |(_, length)| length.parse().expect("a length is a number"));
    Some(head + 4..head + 4 + length)
}

impl Queue {
    /// Has it keep all that waits, with one command, unless it is being told already.
    fn tell(&mut self) -> io::Result<()> {
        if !self.told.is_empty() || self.waiting.is_empty() {
            return Ok(());
        }
        std::mem::swap(&mut self.told, &mut self.waiting);
        let count = self.told.len();
        let task = format!("${TASK_BYTES}\r\n{}\r\n", "x".repeat(TASK_BYTES));
        let command = format!("*{}\r\n$5\r\nRPUSH\r\n$4\r\nbare\r\n{}", count + 2, task.repeat(count));
        self.stream.write_all(command.as_bytes())
    }

    /// The slots that waited for what it was told, if it says that it has that.
    fn answered(&mut self) -> io::Result<Vec<usize>> {
        let mut came = [0; 64];
        let count = self.stream.read(&mut came)?;
        // `:1234` and a line's end, so little that it comes at once.
        let is_number = came.starts_with(b":") && came[..count].ends_with(b"\r\n");
        assert!(is_number, "Redis keeps what it is told");
        Ok(self.told.drain(..).flatten().collect())
    }
}
