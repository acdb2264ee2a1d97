//! The head of a request. Pure.

use std::mem::MaybeUninit;

use http::{HeaderName, HeaderValue, Method, Request, uri::InvalidUri};
use httparse::{Header, Status};

use crate::http::{Payload, RequestId, head::MAX_HEADERS, server::MAX_HEAD_BYTES};

/// A request.
#[derive(Debug)]
pub struct Plain<'a> {
    /// What it asks for.
    pub asked: Asked<'a>,
    /// The connection ends with its answer.
    pub closes: bool,
    /// Bytes of its head.
    pub length: usize,
}

/// What a request asks for.
#[derive(Debug)]
pub enum Asked<'a> {
    /// All of what is there, whatever the reader has already.
    Whole {
        /// As it was sent.
        target: &'a str,
        /// As it came, or a new one.
        id: RequestId,
    },
    /// Something for which all headers are needed.
    More(Request<()>),
    /// A body is to be taken.
    Upload {
        /// Its head.
        request: Request<()>,
        /// Bytes of the body.
        length: u64,
    },
}

/// The request that these bytes begin with; `None` for everything that hyper has to look at.
pub fn plain(bytes: &[u8]) -> Option<Plain<'_>> {
    let is_upload = bytes.starts_with(b"PUT /");
    // Before the headers are looked at: what does not begin so is not taken anyway.
    if !is_upload && !bytes.starts_with(b"GET /") {
        return None;
    }
    let mut room = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let Ok(Status::Complete(length)) = request.parse_with_uninit_headers(bytes, &mut room) else {
        return None;
    };
    let (Some(target), Some(1)) = (request.path, request.version) else { return None };
    let headers = &*request.headers;
    if length > MAX_HEAD_BYTES || headers.iter().any(asks_for_more_than_an_answer) {
        return None;
    }
    let closes = closes(headers)?;
    let asked = match (is_upload, body_length(headers)?) {
        (true, Some(body)) => {
            Asked::Upload { request: with_headers(Method::PUT, target, headers)?, length: body }
        }
        (false, None) if is_usual(target) && !headers.iter().any(is_condition) => {
            Asked::Whole { target, id: id(headers) }
        }
        (false, None) => Asked::More(with_headers(Method::GET, target, headers)?),
        _ => return None,
    };
    Some(Plain { asked, closes, length })
}

/// A body in chunks, or another protocol: what hyper knows how to do.
fn asks_for_more_than_an_answer(header: &Header<'_>) -> bool {
    const NAMES: [&str; 3] = ["transfer-encoding", "expect", "upgrade"];
    NAMES.iter().any(|name| header.name.eq_ignore_ascii_case(name))
}

/// How long the body is, if one comes; `None` if that cannot be told.
fn body_length(headers: &[Header<'_>]) -> Option<Option<u64>> {
    let mut said = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("content-length"));
    match (said.next().map(|header| header.value), said.next()) {
        (None, None) => Some(None),
        // A number may have a sign for `parse`.
        (Some(value), None) if value.iter().all(u8::is_ascii_digit) => {
            str::from_utf8(value).ok()?.parse().ok().map(Some)
        }
        _ => None,
    }
}

/// Whether the connection is to be closed; `None` if it is to be something else.
fn closes(headers: &[Header<'_>]) -> Option<bool> {
    let mut said = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("connection"));
    match (said.next().map(|header| header.value), said.next()) {
        (None | Some(b""), None) => Some(false),
        (Some(value), None) if value.eq_ignore_ascii_case(b"keep-alive") => Some(false),
        (Some(value), None) if value.eq_ignore_ascii_case(b"close") => Some(true),
        _ => None,
    }
}

/// `Range`, and all that begin with `If-`.
fn is_condition(header: &Header<'_>) -> bool {
    let starts = header.name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("if-"));
    starts || header.name.eq_ignore_ascii_case("range")
}

/// Whether a target has only bytes that every reader of URIs takes for what they are, and is none of a role's own paths.
fn is_usual(target: &str) -> bool {
    // From & to ; are &'()*+,-./:; and digits.
    let is_mark = |byte| matches!(byte, b'!' | b'$' | b'%' | b'&'..=b';' | b'=' | b'?' | b'@' | b'_' | b'~');
    !target.starts_with("/-") && target.bytes().all(|byte| byte.is_ascii_alphabetic() || is_mark(byte))
}

fn id(headers: &[Header<'_>]) -> RequestId {
    let given = headers.iter().find(|header| header.name.eq_ignore_ascii_case("x-request-id"));
    let given = given.and_then(|header| RequestId::parse(str::from_utf8(header.value).ok()?));
    given.unwrap_or_else(RequestId::fresh)
}

/// A GET without headers.
pub fn bare(target: &str) -> Result<Request<Payload>, InvalidUri> {
    let uri = target.parse()?;
    let mut request = Request::new(Payload::default());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri;
    Ok(request)
}

fn with_headers(method: Method, target: &str, headers: &[Header<'_>]) -> Option<Request<()>> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = target.parse().ok()?;
    request.headers_mut().reserve(headers.len());
    for header in headers {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(header.value).ok()?);
    }
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Option<Plain<'_>> {
        plain(text.as_bytes())
    }

    #[test]
    fn what_asks_for_the_whole() {
        for headers in [
            "",
            "Host: x\r\n",
            "Host: x\r\nConnection: keep-alive\r\nX-Request-Id: abc\r\nAccept: */*\r\n",
            "connection:\r\nIffy: 1\r\nRanges: 2\r\n",
            "Connection: Close\r\n",
        ] {
            let text = format!("GET /a%20b?c=%2F:d HTTP/1.1\r\n{headers}\r\n");
            let both = format!("{text}GET /next");
            let Some(Plain { asked: Asked::Whole { target, id }, closes, length }) = asked(&both) else {
                panic!("{headers}")
            };
            assert_eq!((target, length), ("/a%20b?c=%2F:d", text.len()));
            assert_eq!(id.as_str() == "abc", headers.contains("abc"));
            assert_eq!(closes, headers.contains("Close"));
        }
    }

    #[test]
    fn an_id_that_is_none_is_replaced() {
        let long = "x".repeat(65);
        for given in ["not an id", "a\u{e4}", "", long.as_str()] {
            let text = format!("GET /a HTTP/1.1\r\nX-Request-Id: {given}\r\n\r\n");
            let Some(Plain { asked: Asked::Whole { id, .. }, .. }) = asked(&text) else { panic!("{given}") };
            assert_eq!(id.as_str().len(), 16, "{given}");
        }
    }

    #[test]
    fn what_every_reader_of_uris_takes_for_what_it_is() {
        for byte in 0..=u8::MAX {
            let expected = byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:@?".contains(&byte);
            let Ok(text) = str::from_utf8(std::slice::from_ref(&byte)) else { continue };
            assert_eq!(is_usual(&format!("/a{text}b")), expected, "{byte}");
        }
        assert!(!is_usual("/a\u{e4}b") && !is_usual("/-/list") && !is_usual("/-"));
    }

    #[test]
    fn what_needs_all_headers() {
        for (target, headers) in [
            ("/a", "Range: bytes=0-1\r\n"),
            ("/a", "IF-none-MATCH: \"x\"\r\nIf-None-Match: y\r\n"),
            ("/a", "if-range: x\r\n"),
            ("/-/list?limit=1", ""),
            ("/a{b", "Host: x\r\n"),
        ] {
            let text = format!("GET {target} HTTP/1.1\r\n{headers}\r\n");
            let Some(Plain { asked: Asked::More(request), length, .. }) = asked(&text) else {
                panic!("{text}")
            };
            assert_eq!((request.uri().to_string().as_str(), length), (target, text.len()));
            assert_eq!(request.headers().len(), headers.lines().count());
        }
    }

    #[test]
    fn uploads() {
        for (headers, expected) in [
            ("Content-Length: 0\r\n", 0),
            ("Host: x\r\ncontent-length: 007\r\nX-Backpack-Version: 1\r\n", 7),
            ("Content-Length: 18446744073709551615\r\nConnection: close\r\n", u64::MAX),
        ] {
            let text = format!("PUT /a%20b?c HTTP/1.1\r\n{headers}\r\n");
            let Some(Plain { asked: Asked::Upload { request, length }, closes, .. }) = asked(&text) else {
                panic!("{headers}")
            };
            assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::PUT, "/a%20b?c"));
            assert_eq!((length, request.headers().len()), (expected, headers.lines().count()));
            assert_eq!(closes, headers.contains("close"));
        }
    }

    #[test]
    fn what_is_left_to_hyper() {
        for text in [
            "",
            "GET",
            "GET /a HTTP/1.1\r\nHost: x\r\n",
            "HEAD /a HTTP/1.1\r\n\r\n",
            "POST /a HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
            "PUT /a HTTP/1.1\r\n\r\n",
            "PUT /a HTTP/1.1\r\nContent-Length: 1\r\n",
            "PUT /a HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            "PUT /a HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\nx",
            "PUT /a HTTP/1.1\r\nContent-Length: +1\r\n\r\nx",
            "PUT /a HTTP/1.1\r\nContent-Length: 0x1\r\n\r\nx",
            "PUT /a HTTP/1.1\r\nContent-Length:\r\n\r\nx",
            "PUT /a HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\nx",
            "PUT /a HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "PUT /a HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n",
            "PUT /a HTTP/1.0\r\nContent-Length: 1\r\n\r\nx",
            "PUT http://x/a HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
            "PUT /a<b HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
            "GET /a HTTP/1.0\r\n\r\n",
            "GET http://x/a HTTP/1.1\r\n\r\n",
            "GET * HTTP/1.1\r\n\r\n",
            "GET  /a HTTP/1.1\r\n\r\n",
            "GET /a b HTTP/1.1\r\n\r\n",
            "GET /a HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            "GET /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET /a HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
            "GET /a HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: h2c\r\n\r\n",
            "GET /a HTTP/1.1\r\nConnection: close, x\r\n\r\n",
            "GET /a HTTP/1.1\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
            "GET /a HTTP/1.1\r\nBad Name: 1\r\n\r\n",
            "GET /a HTTP/1.1\r\nA: \x01\r\n\r\n",
            "GET /a<b HTTP/1.1\r\nRange: bytes=0-1\r\n\r\n",
        ] {
            assert!(asked(text).is_none(), "{text}");
        }
        let many = "a: b\r\n".repeat(MAX_HEADERS + 1);
        assert!(asked(&format!("GET /a HTTP/1.1\r\n{many}\r\n")).is_none());
        let long = "x".repeat(MAX_HEAD_BYTES);
        assert!(asked(&format!("GET /a HTTP/1.1\r\na: {long}\r\n\r\n")).is_none());
    }
}
