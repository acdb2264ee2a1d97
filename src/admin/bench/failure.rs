//! What can go wrong with a request, by kind: few enough to count each.

use std::fmt;

use http::StatusCode;
use serde::{Serialize, Serializer};

/// A server's words are cut to this many bytes.
pub const MAX_WORDS_BYTES: usize = 300;

/// Kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The server answered so.
    Status(StatusCode),
    /// No connection.
    Connect,
    /// The connection broke, or what came on it was no HTTP.
    Broken,
    /// No whole answer in time.
    Timeout,
    /// An answer with more or fewer bytes than were uploaded.
    WrongLength,
    /// Other bytes than were uploaded.
    WrongBytes,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {}", status.as_u16()),
            Self::Connect => f.write_str("cannot connect"),
            Self::Broken => f.write_str("broken connection"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::WrongLength => f.write_str("wrong length"),
            Self::WrongBytes => f.write_str("wrong bytes"),
        }
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl Kind {
    /// Whether this is how a server says that it knows no DELETE, or allows none.
    pub fn knows_no_delete(self) -> bool {
        matches!(self, Self::Status(status) if matches!(status.as_u16(), 403 | 405 | 418 | 501))
    }
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How.
    pub kind: Kind,
    /// What is known beyond that; perhaps nothing.
    pub words: String,
}

impl Failure {
    /// A failure and what is known of it. Words of a server may be anything: control characters are left out.
    pub fn new(kind: Kind, words: impl fmt::Display) -> Self {
        let words = words.to_string().trim().replace(char::is_control, " ");
        let words = words[..words.floor_char_boundary(MAX_WORDS_BYTES)].to_owned();
        Self { kind, words }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words.as_str() {
            "" => self.kind.fmt(f),
            words => write!(f, "{}: {words}", self.kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_short_and_harmless() {
        let failure = Failure::new(Kind::Status(StatusCode::BAD_GATEWAY), "no\x1b[31m server\n");
        assert_eq!(failure.to_string(), "status 502: no [31m server");
        assert_eq!(Failure::new(Kind::Timeout, "").to_string(), "no answer in time");
        assert_eq!(Failure::new(Kind::Connect, "é".repeat(1000)).words.len(), MAX_WORDS_BYTES);
    }
}
