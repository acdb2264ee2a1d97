//! The head of a server's answer, read with `httparse`, the parser that hyper has inside. Pure.

use std::{mem::MaybeUninit, str::FromStr};

use http::{HeaderName, StatusCode, header};
use httparse::{Header, ParserConfig, Response, Status};

use super::Stored;
use crate::http::{head::MAX_HEADERS, headers};

/// Longest head of an answer.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// What the server says of the blob, if it took it.
    pub stored: Stored,
    /// Where its body ends.
    pub body: Framing,
    /// The server takes another request on the connection.
    pub keeps: bool,
    /// Bytes of the head.
    pub length: usize,
}

/// Where the body of an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes.
    Length(usize),
    /// With a chunk of no bytes.
    Chunked,
    /// With the connection.
    Close,
}

/// The head that these bytes begin with; `None` if more of it has yet to come. Fails if they are the beginning of none.
pub fn head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let mut room = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut answer = Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut answer, bytes, &mut room);
    let length = match parsed.map_err(|error| format!("its answer is none: {error}"))? {
        Status::Complete(length) => length,
        Status::Partial if bytes.len() < MAX_HEAD_BYTES => return Ok(None),
        Status::Partial => return Err("the head of its answer is too long".to_owned()),
    };
    let status = StatusCode::from_u16(answer.code.unwrap_or_default());
    let status = status.map_err(|error| format!("its answer is none: {error}"))?;
    let said = Said(answer.headers);
    let body = said.framing(status).ok_or("the length of its answer is none")?;
    let keeps = answer.version == Some(1) && body != Framing::Close && !said.closes();
    Ok(Some(Head { status, stored: said.stored(status), body, keeps, length }))
}

struct Said<'h>(&'h [Header<'h>]);

impl<'h> Said<'h> {
    /// All values of a header, without spaces around them.
    fn all(&self, name: HeaderName) -> impl DoubleEndedIterator<Item = &'h str> {
        let values = self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name.as_str()));
        values.map(|header| str::from_utf8(header.value).unwrap_or_default().trim())
    }

    fn get<T: FromStr>(&self, name: HeaderName) -> Option<T> {
        self.all(name).next()?.parse().ok()
    }

    fn stored(&self, status: StatusCode) -> Stored {
        Stored {
            created: status == StatusCode::CREATED,
            version: self.get(headers::VERSION),
            clock: self.get(headers::CLOCK),
            replaced: self.get(headers::REPLACED).unwrap_or(0),
            checksum: self.get(headers::CHECKSUM),
            is_early: false,
        }
    }

    /// By RFC 9112, 6.3.
    fn framing(&self, status: StatusCode) -> Option<Framing> {
        if status.is_informational() || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status) {
            return Some(Framing::Length(0));
        }
        if let Some(coding) = self.all(header::TRANSFER_ENCODING).next_back() {
            let last = coding.rsplit(',').next().unwrap_or_default().trim();
            return Some(if last.eq_ignore_ascii_case("chunked") {
                Framing::Chunked
            } else {
                Framing::Close
            });
        }
        let mut lengths = self.all(header::CONTENT_LENGTH);
        let Some(length) = lengths.next() else { return Some(Framing::Close) };
        let is_number = length.bytes().all(|byte| byte.is_ascii_digit());
        let agree = lengths.all(|other| other == length);
        (is_number && agree).then(|| length.parse().ok().map(Framing::Length))?
    }

    fn closes(&self) -> bool {
        let mut options = self.all(header::CONNECTION).flat_map(|value| value.split(','));
        options.any(|option| option.trim().eq_ignore_ascii_case("close"))
    }
}

impl Framing {
    /// How long the body is, with all that belongs to it; `None` unless all of it came.
    pub fn end(self, came: &[u8]) -> Option<usize> {
        match self {
            Self::Length(length) => (came.len() >= length).then_some(length),
            Self::Chunked => unchunk(came).1,
            Self::Close => None,
        }
    }

    /// The body, as far as it came.
    pub fn text(self, came: &[u8]) -> Vec<u8> {
        match self {
            Self::Length(length) => came[..length.min(came.len())].to_vec(),
            Self::Chunked => unchunk(came).0,
            Self::Close => came.to_vec(),
        }
    }
}

/// What is in the chunks that came, and where they end if all of them came.
fn unchunk(came: &[u8]) -> (Vec<u8>, Option<usize>) {
    let (mut text, mut rest) = (Vec::new(), came);
    while let Ok(Status::Complete((begin, size))) = httparse::parse_chunk_size(rest) {
        rest = &rest[begin..];
        if size == 0 {
            let end = trailers(rest).map(|length| came.len() - rest.len() + length);
            return (text, end);
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
        text.extend_from_slice(&rest[..size]);
        let Some(next) = rest[size..].strip_prefix(b"\r\n") else { break };
        rest = next;
    }
    (text, None)
}

/// Bytes of what follows the last chunk: headers, and an empty line.
fn trailers(rest: &[u8]) -> Option<usize> {
    if rest.starts_with(b"\r\n") {
        return Some(2);
    }
    rest.windows(4).position(|end| end == b"\r\n\r\n").map(|position| position + 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Version;

    fn read(text: &str) -> Head {
        head(text.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn what_a_node_says_of_a_blob() {
        let [version, clock] = [1, 2].map(|number| Version::from_parts(number, 7));
        let text = format!(
            "HTTP/1.1 201 Created\r\nX-Backpack-Version: {version}\r\nx-backpack-clock:  {clock} \r\n\
                    x-backpack-replaced: 17\r\nx-amz-checksum-crc64nvme: AAAAAAAAAAE=\r\nContent-Length: 0\r\n\r\n"
        );
        let answer = read(&format!("{text}HTTP"));
        let stored = &answer.stored;
        assert_eq!((stored.created, stored.version, stored.clock), (true, Some(version), Some(clock)));
        assert_eq!((stored.replaced, stored.checksum.is_some()), (17, true));
        assert_eq!((answer.body, answer.keeps, answer.length), (Framing::Length(0), true, text.len()));
    }

    #[test]
    fn what_others_say() {
        for (text, body, keeps) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", Framing::Length(0), true),
            (
                "HTTP/1.1 201 Created\r\nContent-Length: 12\r\nContent-Length: 12\r\n\r\n",
                Framing::Length(12),
                true,
            ),
            (
                "HTTP/1.1 201 Created\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
                Framing::Chunked,
                true,
            ),
            (
                "HTTP/1.1 201 Created\r\nContent-Length: 3\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n",
                Framing::Chunked,
                true,
            ),
            ("HTTP/1.1 201 Created\r\nTransfer-Encoding: gzip\r\n\r\n", Framing::Close, false),
            ("HTTP/1.1 201 Created\r\n\r\n", Framing::Close, false),
            (
                "HTTP/1.1 201 Created\r\nConnection: x, Close\r\nContent-Length: 0\r\n\r\n",
                Framing::Length(0),
                false,
            ),
            ("HTTP/1.0 201 Created\r\nContent-Length: 0\r\n\r\n", Framing::Length(0), false),
        ] {
            let answer = read(text);
            assert_eq!((answer.body, answer.keeps), (body, keeps), "{text}");
            assert_eq!(answer.stored, Stored { created: text.contains(" 201 "), ..Stored::default() });
        }
    }

    #[test]
    fn what_is_no_head_and_what_is_none_yet() {
        let whole = "HTTP/1.1 200 OK\r\nA: b\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(head(&whole.as_bytes()[..end]), Ok(None), "{end}");
        }
        for text in [
            "SSH-2.0-OpenSSH_9.2\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 99999 No\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        ] {
            assert!(head(text.as_bytes()).is_err(), "{text}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(MAX_HEAD_BYTES));
        assert!(head(long.as_bytes()).is_err());
    }

    #[test]
    fn where_a_body_ends_and_what_it_says() {
        let chunked = "5\r\nno, n\r\n4;a=b\r\never\r\n0\r\n\r\n";
        let trailed = "9\r\nno, never\r\n0\r\nA: b\r\nC: d\r\n\r\n";
        for (framing, whole) in
            [(Framing::Length(9), "no, never"), (Framing::Chunked, chunked), (Framing::Chunked, trailed)]
        {
            assert_eq!(framing.end(format!("{whole}next").as_bytes()), Some(whole.len()));
            assert_eq!(framing.text(whole.as_bytes()), b"no, never");
            for end in 0..whole.len() {
                let came = &whole.as_bytes()[..end];
                assert_eq!(framing.end(came), None, "{whole} {end}");
                assert!(b"no, never".starts_with(&framing.text(came)[..]), "{whole} {end}");
            }
        }
        assert_eq!((Framing::Close.end(b"no"), Framing::Close.text(b"no")), (None, b"no".to_vec()));
        for nonsense in ["x\r\n", "5\r\nno, never", "ffffffffffffffff\r\nno", "fffffffffffffffff\r\nno"] {
            assert_eq!(Framing::Chunked.end(nonsense.as_bytes()), None, "{nonsense}");
        }
    }
}
