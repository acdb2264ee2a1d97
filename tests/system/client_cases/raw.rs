//! A server that does with a connection whatever a test says, byte for byte.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use socket2::SockRef;

/// A script that waits longer than this for the client has met a bug; the test must not hang for it.
const READ_WITHIN: Duration = Duration::from_secs(60);

/// Listens until the test process ends.
pub struct RawServer {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl RawServer {
    /// Runs the script on every connection, each in a thread of its own. A script's I/O errors end its connection.
    pub fn start(script: impl Fn(&mut Connection) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen on loopback");
        let port = listener.local_addr().expect("a listener has an address").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, script) = (Arc::clone(&connections), Arc::new(script));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let script = Arc::clone(&script);
                thread::spawn(move || {
                    stream.set_read_timeout(Some(READ_WITHIN)).expect("set a time-out");
                    // The client may go away: that is for the test to judge.
                    let _ = script(&mut Connection { stream, number });
                });
            }
        });
        Self { port, connections }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections were opened.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// One connection of a client.
pub struct Connection {
    stream: TcpStream,
    /// 0 for the server's first.
    pub number: usize,
}

impl Connection {
    /// Reads one request's line and headers, without the empty line; an error when the client closed instead.
    pub fn read_head(&mut self) -> io::Result<String> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            self.stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        head.truncate(head.len() - 4);
        Ok(String::from_utf8_lossy(&head).into_owned())
    }

    /// Reads so many bytes of a body.
    pub fn read_body(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    /// Reads until the client closes; how many bytes came.
    pub fn read_to_end(&mut self) -> io::Result<u64> {
        io::copy(&mut self.stream, &mut io::sink())
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends an answer without a body.
    pub fn answer(&mut self, status: u16) -> io::Result<()> {
        self.send(format!("HTTP/1.1 {status} Raw\r\ncontent-length: 0\r\n\r\n"))
    }

    /// Closes with a reset, as the kernel does for a process that is killed with unread bytes.
    pub fn reset(&mut self) -> io::Result<()> {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
        self.stream.shutdown(Shutdown::Read)
    }

    /// Takes nothing and says nothing more, until the client closes.
    pub fn hang(&mut self) -> io::Result<()> {
        // Nothing is read, so that the client's bytes stay in the kernel.
        let mut byte = [0];
        while self.stream.peek(&mut byte).is_ok_and(|count| count > 0) {
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}
