//! The head of an answer or a request as bytes, for what goes without hyper.

use std::fmt::{self, Display, Write};

use http::{HeaderName, HeaderValue, StatusCode};

use super::headers::Headers;

/// Room for nearly every head.
const USUAL_BYTES: usize = 512;

/// Headers of a head that is read without hyper, at most: as many as hyper takes.
pub const MAX_HEADERS: usize = 100;

/// A head, in the form in which it is sent.
#[derive(Debug)]
pub struct Head(Vec<u8>);

impl Head {
    /// The first line of an answer.
    pub fn answer(status: StatusCode) -> Self {
        Self::begun(&["HTTP/1.1 ", status.as_str(), " ", status.canonical_reason().unwrap_or_default()])
    }

    /// The first line of a request. The target is one that a request can carry.
    pub fn request(method: &str, target: &str) -> Self {
        Self::begun(&[method, " ", target, " HTTP/1.1"])
    }

    /// As far as another one went.
    pub fn begun_with(bytes: &[u8]) -> Self {
        let mut head = Vec::with_capacity(USUAL_BYTES.max(bytes.len()));
        head.extend_from_slice(bytes);
        Self(head)
    }

    /// As far as it goes, for others to begin with.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn begun(line: &[&str]) -> Self {
        let mut bytes = Vec::with_capacity(USUAL_BYTES);
        line.iter().for_each(|part| bytes.extend_from_slice(part.as_bytes()));
        bytes.extend_from_slice(b"\r\n");
        Self(bytes)
    }

    fn begin_line(&mut self, name: &HeaderName) {
        self.0.extend_from_slice(name.as_str().as_bytes());
        self.0.extend_from_slice(b": ");
    }

    /// A header, whose value has no control bytes.
    pub fn line(&mut self, name: &HeaderName, value: &[u8]) {
        self.begin_line(name);
        self.0.extend_from_slice(value);
        self.0.extend_from_slice(b"\r\n");
    }

    /// All of it.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(b"\r\n");
        self.0
    }
}

impl Headers for Head {
    fn set(&mut self, name: HeaderName, value: impl Display) {
        self.begin_line(&name);
        let from = self.0.len();
        // Into memory, so it cannot fail.
        let _ = write!(Text(&mut self.0), "{value}");
        debug_assert!(!self.0[from..].iter().any(u8::is_ascii_control), "{name} is no header's value");
        self.0.extend_from_slice(b"\r\n");
    }

    fn add(&mut self, name: HeaderName, value: HeaderValue) {
        self.line(&name, value.as_bytes());
    }
}

/// Text at the end of bytes.
struct Text<'a>(&'a mut Vec<u8>);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
