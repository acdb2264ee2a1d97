//! A connection on which requests are made one at a time, by hand: for what `backpack-admin bench` does not do.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// An answer that takes longer is none.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

/// A connection that is kept.
pub struct Wire {
    addr: String,
    stream: BufReader<TcpStream>,
}

impl Wire {
    /// Connects to `127.0.0.1:port`.
    pub fn connect(addr: &str) -> Self {
        let stream = TcpStream::connect(addr).expect("connect");
        stream.set_nodelay(true).expect("send at once");
        stream.set_read_timeout(Some(ANSWERED_WITHIN)).expect("set a time-out");
        Self { addr: addr.to_owned(), stream: BufReader::new(stream) }
    }

    /// Sends a request and reads its answer to the end; its status. `headers` are whole lines.
    pub fn ask(&mut self, method: &str, target: &str, headers: &str, body: &[u8]) -> u16 {
        let (addr, length) = (&self.addr, body.len());
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        self.stream.get_mut().write_all(&[head.as_bytes(), body].concat()).expect("send a request");
        self.answer()
    }

    fn answer(&mut self) -> u16 {
        let status = self.line();
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.expect("an answer begins with its status");
        let mut length = 0;
        loop {
            let line = self.line().to_ascii_lowercase();
            if line.trim_end().is_empty() {
                break;
            }
            assert!(!line.starts_with("transfer-encoding"), "our answers say their lengths");
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length is a number");
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).expect("read the body of an answer");
        status
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("read an answer");
        line
    }
}
