//! The path of a blob inside its shard, as it stood in the request: query string included, percent-encoding
//! kept. Bytes decide equality; nothing is decoded or normalised, for two parts that decode differently lose blobs.

use std::{fmt, str::FromStr, sync::Arc};

/// Longest key in bytes. Long enough for S3's 1,024, short enough for one record header and one task.
pub const MAX_KEY_BYTES: usize = 1024;

/// Why a text is no key. Each is a client's mistake (400).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing after the slash.
    #[error("the key is empty")]
    Empty,
    /// Longer than [`MAX_KEY_BYTES`].
    #[error("the key has {0} bytes, at most {MAX_KEY_BYTES} are taken")]
    TooLong(usize),
    /// `.` or `..` as a path segment, encoded or not: a server that resolves paths would store it elsewhere.
    #[error("the key has a '.' or '..' segment")]
    DotSegment,
    /// A `%` that is not followed by two hexadecimal digits.
    #[error("the key has a '%' that is not followed by two hexadecimal digits")]
    BadPercent,
    /// A control byte, encoded or not, or a space.
    #[error("the key has a control byte or a space")]
    Control,
    /// A `#` starts a fragment, which no client sends.
    #[error("the key has a '#': send it as %23")]
    Fragment,
    /// `stats` and everything under `-/` are answered by the servers themselves, so a blob there could never be read.
    #[error("keys 'stats' and '-/...' are reserved")]
    Reserved,
}

/// A blob's key: 1 to [`MAX_KEY_BYTES`] bytes of UTF-8, without the leading slash of the URL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The key as it stood in the request.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        check(text)?;
        Ok(Self(text.into()))
    }
}

super::text::stands_as_text!(Key);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

fn check(text: &str) -> Result<(), KeyError> {
    if text.is_empty() {
        return Err(KeyError::Empty);
    }
    if text.len() > MAX_KEY_BYTES {
        return Err(KeyError::TooLong(text.len()));
    }
    let bytes = text.as_bytes();
    // All of them before any is asked for more: nearly no key has such a byte.
    if bytes.iter().fold(false, |found, byte| found | is_special(*byte)) {
        check_bytes(bytes)?;
    }
    let path = bytes.split(|byte| *byte == b'?').next().unwrap_or(bytes);
    if path.split(|byte| *byte == b'/').any(is_dot_segment) {
        return Err(KeyError::DotSegment);
    }
    if path.starts_with(b"-/") || path == b"-" || path == b"stats" {
        return Err(KeyError::Reserved);
    }
    Ok(())
}

/// Whether a byte is refused, or has to be looked at together with the next ones.
fn is_special(byte: u8) -> bool {
    byte.is_ascii_control() || matches!(byte, b' ' | b'#' | b'%')
}

fn check_bytes(bytes: &[u8]) -> Result<(), KeyError> {
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        let byte = if first == b'%' {
            let [high, low, after @ ..] = tail else { return Err(KeyError::BadPercent) };
            rest = after;
            hex(*high)? << 4 | hex(*low)?
        } else {
            match first {
                b'#' => return Err(KeyError::Fragment),
                b' ' => return Err(KeyError::Control),
                other => other,
            }
        };
        if byte.is_ascii_control() {
            return Err(KeyError::Control);
        }
    }
    Ok(())
}

fn hex(digit: u8) -> Result<u8, KeyError> {
    (digit as char).to_digit(16).map(|d| d as u8).ok_or(KeyError::BadPercent)
}

/// Whether a segment is `.` or `..` once `%2e` is read as a dot, as nginx and browsers do.
fn is_dot_segment(segment: &[u8]) -> bool {
    const DOTS: [&[u8]; 6] = [b".", b"..", b"%2e", b".%2e", b"%2e.", b"%2e%2e"];
    DOTS.iter().any(|dots| segment.eq_ignore_ascii_case(dots))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_bytes_as_sent() {
        for text in [
            "hi.txt",
            "a:b",
            "a%20b?x=1&y=%2F",
            "фото/1.jpg",
            "a/b/c",
            "/double",
            "x%2fy",
            "..a",
            "a..b",
            "q?a/../b",
        ] {
            assert_eq!(text.parse::<Key>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn refuses_each_kind_of_bad_key() {
        let long = "k".repeat(MAX_KEY_BYTES + 1);
        for (text, error) in [
            ("", KeyError::Empty),
            (long.as_str(), KeyError::TooLong(MAX_KEY_BYTES + 1)),
            ("a/../b", KeyError::DotSegment),
            ("a/%2E%2e/b", KeyError::DotSegment),
            (".", KeyError::DotSegment),
            ("..", KeyError::DotSegment),
            ("%2e", KeyError::DotSegment),
            ("a/%2E./b", KeyError::DotSegment),
            ("a/.%2e?q", KeyError::DotSegment),
            ("a%2", KeyError::BadPercent),
            ("a%zz", KeyError::BadPercent),
            ("a%00b", KeyError::Control),
            ("a%0Ab", KeyError::Control),
            ("a\u{7f}", KeyError::Control),
            ("a b", KeyError::Control),
            ("a#b", KeyError::Fragment),
            ("stats", KeyError::Reserved),
            ("-/live", KeyError::Reserved),
        ] {
            assert_eq!(text.parse::<Key>(), Err(error), "{text:?}");
        }
        assert!("k".repeat(MAX_KEY_BYTES).parse::<Key>().is_ok());
    }
}
