//! Names of the headers that are ours, and of those that `http` does not know; how a header is set and read.

use std::{fmt::Display, io::Write, str::FromStr};

use http::{HeaderMap, HeaderName, HeaderValue};

/// A blob's version, on requests between our parts and on every answer about a blob.
pub const VERSION: HeaderName = HeaderName::from_static("x-backpack-version");
/// The greatest version a node has met, whatever its key: how coordinators hear of clocks that are ahead of theirs.
pub const CLOCK: HeaderName = HeaderName::from_static("x-backpack-clock");
/// What a coordinator reached: `1/2`.
pub const COPIES: HeaderName = HeaderName::from_static("x-backpack-copies");
/// The write level an upload asks for: `one`, `quorum`, `all`.
pub const WRITE: HeaderName = HeaderName::from_static("x-backpack-write");
/// The pool an upload asks for.
pub const POOL: HeaderName = HeaderName::from_static("x-backpack-pool");
/// Bytes of the older blob that a write or delete replaced on a node; absent if there was none.
pub const REPLACED: HeaderName = HeaderName::from_static("x-backpack-replaced");
/// `1` on a node's 404 for a blob that is there but damaged: another server of the shard has to give it.
pub const DAMAGED: HeaderName = HeaderName::from_static("x-backpack-damaged");
/// The key a coordinator made up for `POST /`.
pub const KEY: HeaderName = HeaderName::from_static("x-backpack-key");
/// CRC-64/NVME of the whole blob, base64 of 8 bytes big-endian.
pub const CHECKSUM: HeaderName = HeaderName::from_static("x-amz-checksum-crc64nvme");
/// MD5 of the body, base64 (RFC 1864).
pub const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
/// Digests of the body, `sha-256=<base64>` (RFC 3230).
pub const DIGEST: HeaderName = HeaderName::from_static("digest");
/// The request id that travels from part to part.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Where the headers of an answer are written.
pub trait Headers {
    /// Sets a header, once, to a value that is made of our own text, numbers and checked values.
    fn set(&mut self, name: HeaderName, value: impl Display);

    /// Adds a header beside those of the same name.
    fn add(&mut self, name: HeaderName, value: HeaderValue);
}

impl Headers for HeaderMap {
    fn set(&mut self, name: HeaderName, value: impl Display) {
        set(self, name, value);
    }

    fn add(&mut self, name: HeaderName, value: HeaderValue) {
        self.append(name, value);
    }
}

/// Sets a header to a value that is made of our own text, numbers and checked values.
pub fn set(to: &mut HeaderMap, name: HeaderName, value: impl Display) {
    // Such a text is always a header's value; if it were not, a message without it is better than none.
    if let Some(value) = value_of(value) {
        to.insert(name, value);
    }
}

/// A text as a header's value; `None` if it has control bytes.
pub fn value_of(text: impl Display) -> Option<HeaderValue> {
    // An answer has a dozen of them, nearly all short: those are written where no memory has to be asked for.
    let mut short = [0; 64];
    let mut room = &mut short[..];
    let value = match write!(room, "{text}") {
        Ok(()) => {
            let left = room.len();
            HeaderValue::from_bytes(&short[..short.len() - left])
        }
        Err(_) => HeaderValue::try_from(text.to_string()),
    };
    value.ok()
}

/// A header's value, where it is there and can be read.
pub fn get<T: FromStr>(from: &HeaderMap, name: HeaderName) -> Option<T> {
    from.get(name)?.to_str().ok()?.parse().ok()
}

/// All values of these headers.
pub fn pick(from: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut picked = HeaderMap::new();
    for name in names {
        for value in from.get_all(name) {
            picked.append(name, value.clone());
        }
    }
    picked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_set_whatever_their_length() {
        for length in [0, 1, 63, 64, 65, 1000] {
            let (text, mut headers) = ("x".repeat(length), HeaderMap::new());
            set(&mut headers, KEY, format_args!("{}{text}", 7));
            assert_eq!(headers[KEY], format!("7{text}"));
        }
        let mut headers = HeaderMap::new();
        set(&mut headers, KEY, "a\nb");
        assert!(headers.is_empty());
    }
}
